"""Runs a training script and writes its ledger, without changing what the script computes.

The audit starts this file once for each run: `python record.py SETTINGS`, a JSON file.
"""

import gc
import json
import os
import random
import signal
import sys
import types
from pathlib import Path

if __name__ == "__main__":  # started as a file: make `audit` importable until the script begins
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from audit.guard import Guard
from audit.ledger import hash_tensors, hash_value, read_ledger

# Not a checkpoint, even if it grows at every step.
LOGS = (".log", ".txt", ".csv", ".json", ".jsonl", ".yaml", ".yml", ".md", ".png", ".pyc", ".lock")


class Recorder:
    """Writes a row for every optimizer step, and ends the process after the step it is told."""

    def __init__(self, settings: dict):
        self.settings = settings
        self.ledger = open(settings["ledger"], "a", buffering=1)  # noqa: SIM115, open to the end
        self.process = os.getpid()
        self.rows = 0  # steps of all optimizers, in this process
        self.calls = []  # of outermost modules since the last step
        self.depth = 0  # of calls of modules
        self.loaders = 0  # how often a DataLoader was iterated since the last step
        self.before = []  # what was recorded at the start of steps that are not finished yet
        self.optimizers = []  # in the order of their first steps
        self.owners = {}  # for each optimizer: its modules, and the name of each parameter
        self.scalers = []
        self.files = None  # in the run's folder: their sizes and times
        self.reference = where_weights_were(settings["reference"])
        self.position = (
            None if self.reference else 0
        )  # how many steps were done before this process

    def write(self, **row):
        """Append a row to the ledger."""
        self.ledger.write(json.dumps(row) + "\n")

    def is_elsewhere(self):
        """Return whether this is a child process, and note that it takes steps."""
        if os.getpid() == self.process:
            return False
        if self.ledger is not None:
            self.write(note="child steps")
            self.ledger = None
        return True

    # ---- What PyTorch calls ----

    def start(self):
        """Ask PyTorch to call this recorder: for every step, every module and every DataLoader."""
        import torch
        from torch.optim import optimizer
        from torch.utils.data import DataLoader

        optimizer.register_optimizer_step_pre_hook(self.before_step)
        optimizer.register_optimizer_step_post_hook(self.after_step)
        call, iterate = torch.nn.Module.__call__, DataLoader.__iter__
        make_scaler, update = torch.amp.GradScaler.__init__, torch.amp.GradScaler.update

        def recorded_call(module, *arguments, **named):
            if torch.compiler.is_compiling() or self.depth > 0:
                return call(module, *arguments, **named)
            self.note_call(module, arguments, named)
            self.depth += 1
            try:
                return call(module, *arguments, **named)
            finally:
                self.depth -= 1

        def recorded_iterate(loader):
            self.loaders += 1
            return iterate(loader)

        def recorded_scaler(scaler, *arguments, **named):
            self.scalers.append(scaler)
            make_scaler(scaler, *arguments, **named)

        def recorded_update(scaler, *arguments, **named):
            update(scaler, *arguments, **named)
            self.calls = []  # of a step that the scaler has skipped

        torch.nn.Module.__call__ = recorded_call
        DataLoader.__iter__ = recorded_iterate
        torch.amp.GradScaler.__init__ = recorded_scaler
        torch.amp.GradScaler.update = recorded_update

    def note_call(self, module, arguments, named):
        """Hash what an outermost module is given, if a gradient can come of it."""
        import torch

        in_backward = torch._C._current_graph_task_id() != -1  # checkpointing calls modules again
        if not torch.is_grad_enabled() or in_backward or os.getpid() != self.process:
            return
        has_parameters = next(module.parameters(), None) is not None
        if has_parameters or not self.calls:
            training = module.training
        else:
            training = self.calls[-1]["training"]  # a loss function goes with its model
        inputs = hash_tensors("input", arguments) | hash_tensors("input", named)
        first = not any(
            call["module"] is module and call["training"] == training for call in self.calls
        )
        buffers = hash_buffers(module) if first and self.is_hashed() else {}
        self.calls.append(
            {"module": module, "training": training, "inputs": inputs, "buffers": buffers}
        )

    def before_step(self, optimizer, arguments, named):
        """Record what the step starts from."""
        if self.is_elsewhere():
            return
        if self.files is None:
            self.files = list_files(self.settings["run_folder"])
        names, modules = self.find_owners(optimizer)
        pieces = {
            "settings": {},
            "learning rate": {},
        }
        for number, group in enumerate(optimizer.param_groups):
            for name, value in group.items():
                if name == "lr":
                    pieces["learning rate"][f"group {number}"] = repr(float(value))
                elif name not in ("params", "param_names"):
                    pieces["settings"][f"group {number}: {name}"] = hash_value(value)
        pieces["mode"] = {}
        for prefix, root in modules.items():
            for name, module in root.named_modules():
                pieces["mode"][join(prefix, name) or "the model"] = int(module.training)
        hashed = self.is_hashed()
        if hashed:
            pieces |= self.hash_state(optimizer, names, modules)
            self.locate(pieces["weights"])
        self.before.append(
            {"optimizer": self.name_of(optimizer), "hashed": hashed, "pieces": pieces}
        )

    def after_step(self, optimizer, arguments, named):
        """Record what the step was made of, write the row, and end here if this is the place."""
        if os.getpid() != self.process:
            return
        row = self.before.pop()
        pieces, missing = row["pieces"], {}
        calls = [call for call in self.calls if call["training"]] or self.calls
        inputs, buffers = {}, {}
        for number, call in enumerate(calls):
            inputs |= {f"call {number}: {name}": h for name, h in call["inputs"].items()}
            for name, h in call["buffers"].items():
                buffers.setdefault(name, h)
        if calls and row["hashed"]:
            pieces["buffers"] = buffers  # those before the forward pass, which changes them
        if inputs:
            pieces["batch"] = inputs
        elif calls:
            missing["batch"] = "the modules were given no tensors"
        else:
            missing["batch"] = (
                "no module was called with gradients enabled (a compiled function around the model?)"
            )
        for number, scaler in enumerate(self.scalers):
            pieces["settings"][f"loss scale {number}"] = repr(float(scaler.get_scale()))
        if row["hashed"]:
            names, _ = self.find_owners(optimizer)
            pieces["gradient"] = {
                names[id(p)]: hash_value(p.grad)
                for group in optimizer.param_groups
                for p in group["params"]
                if p.grad is not None
            }
            pieces["random state"] = random_states()
        for piece in self.settings["without"]:
            pieces.pop(piece, None)
            missing[piece] = "its recording is switched off"
        saved = self.find_saves()
        self.write(step=self.rows, **row, missing=missing, loaders=self.loaders, saved=saved)
        self.calls, self.loaders = [], 0
        self.rows += 1
        self.end_if_told(saved)

    # ---- What is recorded ----

    def is_hashed(self):
        """Return whether the large pieces are hashed at this step: every Nth of the whole run."""
        if self.position is None:
            return True
        return (self.position + self.rows) % self.settings["every"] == 0

    def locate(self, weights):
        """Find out how many steps were done before this process: where its weights were before."""
        if self.position is None:
            steps = self.reference.get(hash_value(weights), [])
            if len(steps) == 1:
                self.position = steps[0] - self.rows

    def hash_state(self, optimizer, names, modules):
        """Return hashes of the weights, the buffers and the state of an optimizer, by name."""
        weights, state = {}, {}
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                name = names[id(parameter)]
                weights[name] = hash_value(parameter)
                for key, value in dict(optimizer.state.get(parameter, {})).items():
                    state[f"{name}: {key}"] = hash_value(value)
        buffers = {}
        for prefix, root in modules.items():
            buffers |= {join(prefix, name): h for name, h in hash_buffers(root).items()}
        return {"weights": weights, "buffers": buffers, "optimizer state": state}

    def find_owners(self, optimizer):
        """Return the name of each parameter of an optimizer, and the modules that they are in."""
        count = sum(len(group["params"]) for group in optimizer.param_groups)
        if id(optimizer) not in self.owners or self.owners[id(optimizer)][0] != count:
            if not any(optimizer is other for other in self.optimizers):
                self.optimizers.append(optimizer)
            self.owners[id(optimizer)] = (count, *find_owners(optimizer))
        return self.owners[id(optimizer)][1:]

    def name_of(self, optimizer):
        """Return a name for an optimizer that is the same in every run."""
        names, _ = self.find_owners(optimizer)
        first = next(iter(names.values()), "nothing")
        return f"{type(optimizer).__name__} of {first} and {len(names) - 1} more"

    def find_saves(self):
        """Return which files have changed since the last step, if they are large enough to be one."""
        before, self.files = self.files, list_files(self.settings["run_folder"])
        changed = [path for path, what in self.files.items() if before.get(path) != what]
        smallest = sum(
            p.numel() for o in self.optimizers for g in o.param_groups for p in g["params"]
        )
        return changed if sum(self.files[path][0] for path in changed) >= smallest else []

    # ---- The end ----

    def end_if_told(self, saved):
        """Kill this process if this is the step after which it has to die."""
        settings = self.settings
        if settings["max_steps"] and self.position is not None:
            if self.position + self.rows >= settings["max_steps"]:
                self.write(note="max steps")
                os._exit(0)
        after_save = settings["kill_after_save"] and saved
        if self.rows == settings["kill_after"] or after_save:
            settings["kill_after_save"] = False
            self.write(note="killed", step=self.rows)
            os.kill(os.getpid(), settings["signal"])

    def finish(self):
        """Write a last row for each optimizer: what the run ends with."""
        if os.getpid() != self.process:
            return
        for optimizer in self.optimizers:
            names, modules = self.find_owners(optimizer)
            pieces = self.hash_state(optimizer, names, modules)
            self.write(note="end", optimizer=self.name_of(optimizer), pieces=pieces)


def find_owners(optimizer):
    """Return the name of each parameter of an optimizer, and the outermost modules they are in."""
    import torch

    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    places = {id(parameter): place for place, parameter in enumerate(parameters)}
    modules = [m for m in gc.get_objects() if issubclass(type(m), torch.nn.Module)]
    inner = {id(child) for module in modules for child in module._modules.values()}
    roots = []
    for module in modules:
        if id(module) not in inner:
            inside = [places[id(p)] for p in module.parameters() if id(p) in places]
            if inside:
                roots.append((min(inside), -len(inside), type(module).__name__, module))
    roots.sort(key=lambda root: root[:3])
    prefixed = {}
    for number, (_, _, kind, module) in enumerate(roots):
        prefix = "" if len(roots) == 1 else kind if kind not in prefixed else f"{kind} {number}"
        prefixed[prefix] = module
    names = {}
    for prefix, module in prefixed.items():
        for name, parameter in module.named_parameters():
            if id(parameter) in places:
                names.setdefault(id(parameter), join(prefix, name))
    for place, parameter in enumerate(parameters):
        names.setdefault(id(parameter), f"parameter {place}")
    return {id(parameter): names[id(parameter)] for parameter in parameters}, prefixed


def hash_buffers(root):
    """Return the hash of each buffer in the state of a module."""
    buffers = {}
    for module_name, module in root.named_modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                buffers[join(module_name, name)] = hash_value(buffer)
    return buffers


def join(*words):
    """Return the name of something inside of something."""
    return ".".join(word for word in words if word)


def random_states():
    """Return hashes of the states of the global generators."""
    import torch

    states = {"python": hash_value(random.getstate()), "torch": hash_value(torch.get_rng_state())}
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        _, keys, *rest = numpy.random.get_state()
        states["numpy"] = hash_value([keys, *rest])
    if torch.cuda.is_initialized():
        states["cuda"] = hash_value(torch.cuda.get_rng_state_all())
    return states


def list_files(folder):
    """Return size, time and number of each file in a folder that may be a checkpoint."""
    files = {}
    for path, _, names in os.walk(folder):
        for name in names:
            if not name.endswith(LOGS) and "tfevents" not in name:
                file = os.path.join(path, name)
                try:
                    status = os.stat(file)
                except FileNotFoundError:  # renamed or deleted meanwhile
                    continue
                files[file] = (status.st_size, status.st_mtime_ns, status.st_ino)
    return files


def where_weights_were(reference):
    """Return at which steps of a ledger the weights with a certain hash were there."""
    steps = {}
    for row in read_ledger(reference) if reference else []:
        if "weights" in row.get("pieces", {}) and "note" not in row:
            steps.setdefault(hash_value(row["pieces"]["weights"]), []).append(row["step"])
    return steps


def seed_everything(seed):
    """Seed the global generators before the script starts."""
    import torch

    random.seed(seed)
    torch.manual_seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed)


def run(settings: dict) -> None:
    """Run the script as `python SCRIPT ARGUMENTS` would, with a recorder and a guard."""
    recorder = Recorder(settings)
    guard = Guard(
        settings["run_folder"],
        settings["protected"],
        lambda path: recorder.write(note="outside", path=path),
    )
    recorder.start()
    guard.start()
    if settings["seed"] is not None:
        seed_everything(settings["seed"])
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        recorder.write(note="world size")

    script = settings["script"]
    for name in [name for name in sys.modules if name == "audit" or name.startswith("audit.")]:
        del sys.modules[name]  # the script may have a module of this name
    sys.argv = [script, *settings["arguments"]]
    main = types.ModuleType("__main__")
    main.__file__ = script
    main.__spec__ = None
    sys.modules["__main__"] = main
    try:
        exec(compile(Path(script).read_bytes(), script, "exec"), vars(main))
    finally:
        recorder.finish()


def start(settings: dict) -> None:
    """Set up this process for a script, and run it."""
    sys.path[0] = str(Path(settings["script"]).parent)
    run(settings)


if __name__ == "__main__":
    start(json.loads(Path(sys.argv[1]).read_text()))
