"""The audit of unusual training loops: no false alarms, and no ✓ for what is not seen."""

import shutil
import subprocess
import sys

import pytest
import torch

from helper.reproducibility import compute_sha256
from tests.test_audit import ROOT, SCRIPTS
from tests.test_audit_runs import (
    assert_exact,
    audited,
    faults_of,
    format_report,
    write,
)

MODEL = "model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))\n"
OPTIMIZER = "optimizer = torch.optim.Adam(model.parameters(), lr=0.01)\n"
LOOP = "\nfor step in range(done, 12):\n"
STEP = "    optimizer.step()\n"
LOSS = "    loss = model(x).square().mean()\n"
BACKWARD = "    loss.backward()\n"
LOAD = '    optimizer.load_state_dict(checkpoint["optimizer"])\n'
EMBEDDING = "nn.Sequential(nn.EmbeddingBag(20, 6, sparse=True), nn.Linear(6, 2))\n"
CHECKPOINTED = """
from torch.utils.checkpoint import checkpoint as recompute

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 2)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return recompute(lambda x: self.second(self.dropout(self.first(x))), x, use_reentrant=False)

model = Model()
"""
FUSED = """    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
"""
SCALER = 'scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=100)\n'
LOADED_SCALER = '    done = checkpoint["done"]; scaler.load_state_dict(checkpoint["scaler"])\n'
DTENSOR = """
import torch.distributed as dist
from torch.distributed.tensor import DTensor, distribute_module, init_device_mesh
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
mesh = init_device_mesh("cpu", (1,))
distribute_module(model, mesh)
"""

CORRECT = {
    "the model is called before training starts": [
        (OPTIMIZER, OPTIMIZER + "model(torch.zeros(1, 6))\n")
    ],
    "so is one with BatchNorm": [
        (MODEL, "model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))\n"),
        (OPTIMIZER, OPTIMIZER + "model(torch.randn(4, 6))\n"),
    ],
    "a model in eval mode is evaluated after a save, with gradients": [
        (OPTIMIZER, OPTIMIZER + "model.eval()\n"),
        ("        save(step + 1)\n", "        save(step + 1)\n        model(torch.ones(3, 6))\n"),
    ],
    "a batch is thrown away after a save": [
        (
            "    optimizer.zero_grad()\n",
            "    if step in (6, 9):\n        continue\n    optimizer.zero_grad()\n",
        ),
    ],
    "parameters join later": [
        (
            OPTIMIZER,
            OPTIMIZER.replace("model.par", "model[2].par") + "def join():\n"
            "    optimizer.add_param_group({'params': model[0].parameters()})\n",
        ),
        (
            '    model.load_state_dict(checkpoint["model"])\n',
            '    model.load_state_dict(checkpoint["model"])\n'
            '    if checkpoint["done"] > 5:\n        join()\n',
        ),
        (
            "    torch.manual_seed(step)\n",
            "    torch.manual_seed(step)\n    if step == 5:\n        join()\n",
        ),
    ],
    "an optimizer for each phase": [
        (OPTIMIZER, OPTIMIZER + "later = torch.optim.SGD(model.parameters(), lr=0.1)\n"),
        (STEP, "    (optimizer if step < 6 else later).step()\n"),
    ],
    "a new optimizer for each phase": [
        (LOOP, LOOP + "    if step % 3 == 0:\n        " + OPTIMIZER),
        (LOAD, ""),
    ],
    "two optimizers after one backward pass": [
        (
            OPTIMIZER,
            OPTIMIZER.replace("model.par", "model[0].par")
            + "other = torch.optim.SGD(model[2].parameters(), lr=0.1)\n",
        ),
        (STEP, "    optimizer.step(), other.step(), other.zero_grad()\n"),
    ],
    "two models of the same kind": [
        (
            MODEL,
            MODEL + "models = [nn.Linear(6, 2), nn.Linear(6, 2)]\nmodel = nn.ModuleList(models)\n",
        ),
        (
            OPTIMIZER,
            OPTIMIZER.replace("model.par", "models[0].par")
            + "other = torch.optim.SGD(models[1].parameters(), lr=0.1)\n",
        ),
        (LOSS, "    loss = (models[0](x) * models[1](x)).mean()\n"),
        (STEP, "    optimizer.step(), other.step(), other.zero_grad()\n"),
    ],
    "sparse gradients": [
        (MODEL, f"model = {EMBEDDING}"),
        (OPTIMIZER, "optimizer = torch.optim.SparseAdam(model[0].parameters(), lr=0.01)\n"),
        ("torch.randn(8, 6)", "torch.randint(20, (8, 3))"),
    ],
    "a fused optimizer": [(OPTIMIZER, OPTIMIZER.replace("lr=0.01", "lr=0.01, fused=True"))],
    "a fused optimizer that is stepped on overflow": [
        (OPTIMIZER, OPTIMIZER.replace("lr=0.01", "lr=0.01, fused=True") + SCALER),
        (LOSS, LOSS.replace("mean", "sum")),
        (BACKWARD, FUSED),
        (STEP, ""),
        ('"done": step}', '"done": step, "scaler": scaler.state_dict()}'),
        ('    done = checkpoint["done"]\n', LOADED_SCALER),
    ],
    "activation checkpointing": [(MODEL, CHECKPOINTED)],
    "a compiled model": [
        (OPTIMIZER, OPTIMIZER + "model = torch.compile(model, backend='eager')\n")
    ],
    "a DTensor": [
        (MODEL, MODEL + DTENSOR),
        (LOSS, "    loss = model(DTensor.from_local(x, mesh)).square().mean().full_tensor()\n"),
    ],
    "a learning rate as a tensor": [
        (OPTIMIZER, OPTIMIZER.replace("lr=0.01", "lr=torch.tensor(0.01)"))
    ],
    "float64 and complex weights": [
        (MODEL, "model = nn.Linear(6, 2, dtype=torch.complex128)\n"),
        (LOSS, "    loss = model(x.to(torch.complex128)).abs().square().mean()\n"),
    ],
    "a traced model": [(OPTIMIZER, OPTIMIZER + "torch.fx.symbolic_trace(model)\n")],
    "empty gradients": [
        (
            OPTIMIZER,
            "extra = nn.Linear(3, 3)\n"
            + OPTIMIZER.replace("model.parameters()", "[*model.parameters(), *extra.parameters()]"),
        )
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CORRECT)
def test_no_false_alarm(name, tmp_path):
    results = audited(write(tmp_path, *CORRECT[name]), stops=[7, 10])
    assert_exact(results)
    pieces = results["stops"][0]["starts"][0]["optimizers"][0]["pieces"]
    assert {finding["status"] for finding in pieces.values()} == {"same"}, format_report(results)


UNSEEN = {
    "a compiled function around the model": [
        (
            LOOP,
            "\n@torch.compile(backend='eager')\ndef compute(x):\n"
            "    return model(x).square().mean()\n\n" + LOOP,
        ),
        (LOSS, "    loss = compute(x)\n"),
    ],
    "a compiled function, and a loss that is a module": [
        (
            LOOP,
            "\n@torch.compile(backend='eager')\ndef compute(x):\n    return model(x)\n\n" + LOOP,
        ),
        (LOSS, "    loss = nn.MSELoss()(compute(x), torch.zeros(8, 2))\n"),
    ],
    "a model that isn't called": [
        (LOSS, "    loss = (x @ model[0].weight.T + model[0].bias).square().mean()\n"),
    ],
    "gradients of each example": [
        (
            LOSS,
            LOSS + "    torch.func.vmap(lambda x: torch.func.functional_call(\n"
            "        model, dict(model.named_parameters()), x))(x)\n",
        ),
    ],
    "a model without inputs": [
        (
            MODEL,
            "class Model(nn.Linear):\n    def forward(self):\n"
            "        return super().forward(torch.ones(1, 6))\n\nmodel = Model(6, 2)\n",
        ),
        (LOSS, "    loss = model().square().mean()\n"),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", UNSEEN)
def test_a_batch_that_is_not_seen_is_shown_as_that(name, tmp_path):
    results = audited(write(tmp_path, *UNSEEN[name]))
    assert_exact(results)
    found = results["stops"][0]["starts"][0]["optimizers"][0]["pieces"]["batch"]
    assert found["status"] == "unseen"
    assert f"– batch: {found['reason']}." in format_report(results)
    assert "except for what could not be compared" in format_report(results)


@pytest.mark.slow
def test_a_random_state_that_differs_alone_is_no_fault(tmp_path):
    path = write(
        tmp_path,
        ("    torch.manual_seed(step)\n", "    torch.manual_seed(step + 100 * (step == done))\n"),
        ("torch.randn(8, 6)", "torch.full((8, 6), step / 12)"),
    )
    results = audited(path)
    assert_exact(results)
    assert "(≠): differs, which matters only if something draws from it" in format_report(results)


@pytest.mark.slow
def test_two_models_of_which_one_is_not_loaded(tmp_path):
    changes = CORRECT["two models of the same kind"]
    load = 'model.load_state_dict(checkpoint["model"])'
    half = "saved = checkpoint['model']\n    models[0].load_state_dict("
    half += "{'weight': saved['0.weight'], 'bias': saved['0.bias']})"
    path = write(tmp_path, *changes, (load, half))
    results = audited(path)
    assert faults_of(results) == ["weights"]


@pytest.mark.slow
def test_the_growth_of_a_scale(tmp_path):
    changes = CORRECT["a fused optimizer that is stepped on overflow"]
    path = write(
        tmp_path,
        *changes[:-1],
        (
            '    done = checkpoint["done"]\n',
            LOADED_SCALER + "    scaler._init_growth_tracker = 0\n",
        ),
    )
    assert faults_of(audited(path)) == ["settings"]


# ---- Real starts ----

KEEP = """
import shutil, uuid
shutil.copy("checkpoint.pt", f"{os.environ['XDG_CACHE_HOME']}/{uuid.uuid4()}.pt")
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param("evaluation", marks=pytest.mark.kills), "closure"])
def test_a_script_ends_in_the_same_bits(name, tmp_path, monkeypatch):
    """By `python script.py`, and in each run of an audit; one is audited by a copy of `audit`."""
    for folder in ("cache", "plain", "copied"):
        (tmp_path / folder).mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    script = tmp_path / "script.py"
    script.write_text((SCRIPTS / f"{name}.py").read_text() + KEEP)
    subprocess.run([sys.executable, script], cwd=tmp_path / "plain", check=True)
    if name == "evaluation":
        shutil.copytree(ROOT / "audit", tmp_path / "copied" / "audit")
        command = [sys.executable, "-m", "audit", "--stops", "8", script]
        done = subprocess.run(command, cwd=tmp_path / "copied", capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.endswith("✓ The script continues exactly: 1 of 1 stops.\n")
    else:
        assert_exact(audited(script, stops=[8]))
    states = [torch.load(path) for path in (tmp_path / "cache").iterdir()]
    assert len(states) == 4  # plain, whole, repeated, resumed
    assert len({compute_sha256(state) for state in states}) == 1
