"""Processes for the tests of helper/distributed.py: what each does, and how they are run."""

import contextlib
import itertools
import os
import pkgutil
import resource
import signal
import threading
from datetime import timedelta
from multiprocessing import forkserver, get_context
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import helper.distributed
from helper.compatibility import CheckpointError
from helper.distributed import background, load_sharded, save_sharded, wait_for_save
from helper.history import History
from helper.ranks import all_gather
from helper.reproducibility import compute_sha256, seed_batch
from tools.course import ROOT

BATCHES, BATCH_SIZE, TIMEOUT = 8, 12, 20
needs_fully_shard = pytest.mark.skipif(
    torch.__version__ < (2, 7), reason="fully_shard runs on a CPU from PyTorch 2.7 on"
)
PROCESSES = get_context("forkserver")
# What PyTorch imports when a rank needs it is imported once, before the ranks are forked.
PROCESSES.set_forkserver_preload(["torch._dynamo", "tests.support.many", "tests.support.kinds"])


class Net(nn.Module):
    """Layers that ranks can't share evenly, buffers that differ between ranks, tied weights."""

    def __init__(self):
        super().__init__()
        self.normalize = nn.BatchNorm1d(5)
        self.first = nn.Linear(5, 7)
        self.frozen = nn.Linear(7, 3).requires_grad_(False)
        self.last = nn.Linear(3, 3, bias=False)
        self.tied = nn.Linear(3, 3)
        self.tied.weight = self.last.weight
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        x = self.frozen(torch.tanh(self.first(self.normalize(x))))
        return self.tied(torch.tanh(self.last(x)))


class Run:
    """A fresh model, sharded if there is a process group, its optimizer, scheduler and history."""

    def __init__(self, optimizer=torch.optim.AdamW):
        torch.manual_seed(1)
        self.model = Net()
        if dist.is_initialized():
            mesh = init_device_mesh("cpu", (dist.get_world_size(),))
            fully_shard(self.model.first, mesh=mesh)
            fully_shard(self.model, mesh=mesh)
        settings = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
        self.optimizer = optimizer(self.model.parameters(), lr=0.01, **settings)
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, 0.05, total_steps=20)
        self.history = History(seed=5, batches_per_epoch=BATCHES, batch_size=BATCH_SIZE)

    @property
    def parts(self):
        return self.model, self.optimizer, self.scheduler

    def train(self, until=BATCHES, after_batch=lambda batch: None):
        """Train up to a batch of the first epoch; each rank takes its part of each batch."""
        rank, size = position()
        while self.history.batch < until:
            seed_batch(self.history.seed, 1, self.history.batch, 1)
            features = torch.randn(BATCH_SIZE, 5).chunk(size)[rank]
            loss = self.model(features).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.scheduler.step()
            total = loss.detach().double()
            if dist.is_initialized():
                dist.all_reduce(total)
            self.history.minibatch_loss.append(total.item() / size)
            after_batch(self.history.batch)
        return self

    def save(self, folder, **settings):
        save_sharded(folder, *self.parts, self.history, **settings)
        return self

    def load(self, folder, **settings):
        self.history = load_sharded(folder, *self.parts, **settings)
        return self

    def sha256(self):
        """Return the SHA-256 over all tensors with all their rows, and everything else."""
        states = [part.state_dict() for part in (*self.parts, self.history)]
        return compute_sha256(*map(unsharded, states))


def unsharded(value, method="full_tensor"):
    """Return a state with all rows of its tensors."""
    if isinstance(value, dict):
        return {name: unsharded(item, method) for name, item in value.items()}
    if isinstance(value, list):
        return [unsharded(item, method) for item in value]
    return getattr(value, method)() if hasattr(value, method) else value


def local(value):
    """Return a state with those rows of its tensors that this rank holds."""
    return unsharded(value, "to_local")


def position():
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def kill_myself():
    os.kill(os.getpid(), signal.SIGKILL)


def start(task, rank, size, folder, results, arguments):
    """Be one rank: run a task in a process group, and report what it returns or raises."""
    torch.set_num_threads(1)
    os.chdir(folder)
    store = dist.FileStore(f"{folder}/store", size)
    timeout = timedelta(seconds=TIMEOUT)
    dist.init_process_group("gloo", timeout=timeout, world_size=size, rank=rank, store=store)
    # One that ended before the others are connected would break their start.
    store.set(f"rank {rank} is connected", "")
    store.wait([f"rank {each} is connected" for each in range(size)])
    try:
        result = task(*arguments)
    except Exception as error:
        result = error
    results.send((rank, result))
    results.close()
    os._exit(0)  # gloo's threads may abort a process that ends as usual


def run(size, task, folder, *arguments, killed=()):
    """Let `size` ranks run `task(*arguments)` in `folder`; return what each returned or raised.

    The ranks in `killed` die before they report. None may hang: all must have ended within five
    minutes, on a busy machine too.
    """
    (Path(folder) / "store").unlink(missing_ok=True)
    with contextlib.chdir(ROOT):  # where the forkserver finds what it preloads
        forkserver.ensure_running()
    ranks, answers = [], {}
    for rank in range(size):
        receive, send = PROCESSES.Pipe(duplex=False)
        values = (task, rank, size, str(folder), send, arguments)
        process = PROCESSES.Process(target=start, args=values, daemon=True)
        process.start()
        send.close()
        ranks.append((process, receive))
    try:
        for rank, (process, receive) in enumerate(ranks):
            if not receive.poll(300):
                raise AssertionError(f"rank {rank} hangs")
            try:
                answers[rank] = receive.recv()[1]
            except EOFError:
                answers[rank] = None
            process.join(300)
            assert process.exitcode == (-signal.SIGKILL if rank in killed else 0)
    finally:
        for process, _ in ranks:
            process.kill()
    return [answers[rank] for rank in range(size)]


# Tasks of a rank


def train_and_save(until, folder="run", optimizer=torch.optim.AdamW, **settings):
    return Run(optimizer).train(until).save(folder, **settings).sha256()


def train_save_and_train(until, optimizer=torch.optim.AdamW):
    """Return the SHA-256 of the run that is saved, and of the same run at its end."""
    run = Run(optimizer).train(until)
    return run.save("run").sha256(), run.train().sha256()


def train_without_interruption():
    return Run().train().sha256()


def load(folder="run", optimizer=torch.optim.AdamW):
    return Run(optimizer).load(folder).sha256()


def load_each(folders):
    return [load(folder) for folder in folders]


def load_and_train(optimizer=torch.optim.AdamW):
    run = Run(optimizer).load("run")
    return run.sha256(), run.train().sha256()


def several(*tasks):
    """Do several tasks in folders of their own, one after the other: a launch takes a second."""
    answers = []
    for number, (task, *arguments) in enumerate(tasks):
        all_gather(None)
        folder = Path(f"task-{number}")
        folder.mkdir(exist_ok=True)
        with contextlib.chdir(folder):
            answers.append(task(*arguments))
            all_gather(None)
    return answers


def train_alike(until, folder="run"):
    """Train, continue if there is something saved, save, and return the weights.

    BatchNorm stays in eval mode: in training, a different number of ranks would show it other rows.
    """
    run = Run(torch.optim.SGD)
    if Path(folder).exists():
        run.load(folder)
    run.model.normalize.eval()
    weights = unsharded(run.train(until).model.state_dict())
    if until < BATCHES:
        run.save(folder)
    return {name: tensor.tolist() for name, tensor in weights.items()}


def die_in_the_third_save(rank, name, call, wait):
    """Save after each batch; in the third save, a rank dies at the `call`-th call of a function."""

    def prepare():
        if position()[0] == rank:
            at_call(name, call, kill_myself)

    save_three_times(prepare, wait)


def count_calls(names, wait):
    """Return how often this rank calls each of these functions in the third save."""
    calls = dict.fromkeys(names, 0)

    def prepare():
        for name in names:
            at_call(name, None, lambda name=name: calls.update({name: calls[name] + 1}))

    save_three_times(prepare, wait)
    return calls


def save_three_times(prepare, wait):
    run = Run()
    for batch in (1, 2, 3):
        sha256 = run.train(batch).sha256()
        if position()[0] == 0:
            Path(f"sha256-{batch}").write_text(sha256)
        if batch == 3:
            background.wait()
            prepare()
        run.save("run", wait=wait or batch < 3)
    wait_for_save()


def at_call(name, call, action):
    """Do something when a function of a module is called for the `call`-th time, from 1 on.

    With `call=None`, do it at every call.
    """
    module, _, attribute = name.rpartition(".")
    owner = pkgutil.resolve_name(module)
    original = getattr(owner, attribute)
    calls = itertools.count(1)

    def function(*arguments, **settings):
        if call in (None, next(calls)):
            action()
        return original(*arguments, **settings)

    setattr(owner, attribute, function)


def save_where_there_is_no_room(rank, limit):
    """Save twice; the second time, a rank can't write files of more than `limit` bytes."""
    run = Run().train(2).save("run")
    before = run.sha256()
    run.train(3)
    wait_for_save()
    if position()[0] == rank:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        run.save("run")
    except CheckpointError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        return str(error), left_in("run"), Run().load("run").sha256() == before
    return "saved"


def refuse(change, rank=None):
    """Load into a run that was changed, on one rank or all; return the error, and what changed."""
    Run().train(2).save("run")
    other = Run().train(1)
    if rank in (None, position()[0]):
        change(other)
    before = compute_sha256(*(local(part.state_dict()) for part in other.parts))
    error = caught(lambda: other.load("run"))
    return error, compute_sha256(*(local(part.state_dict()) for part in other.parts)) == before


def refuse_to_save(change, rank=None):
    run = Run().train(2)
    if rank in (None, position()[0]):
        change(run)
    return caught(lambda: run.save("run")), left_in("run")


def left_in(folder):
    """Return what is in a folder when all ranks are done with it."""
    all_gather(None)
    names = names_in(folder)
    all_gather(None)
    return names


def names_in(folder):
    return sorted(path.name for path in Path(folder).glob("*"))


def caught(f):
    """Return the message of a CheckpointError."""
    try:
        f()
    except CheckpointError as error:
        return str(error)
    return None


def hook_that_fails(run):
    def fail(*_):
        raise RuntimeError("no room for this state")

    run.model.register_load_state_dict_post_hook(fail)


def copy_that_fails(run):
    def fail():
        raise RuntimeError("no room for a copy")

    at_call("helper.checkpoint.snapshot", 1, fail)


def different_optimizer(run):
    run.optimizer = torch.optim.SGD(run.model.parameters(), lr=0.01, momentum=0.9)
    run.scheduler = torch.optim.lr_scheduler.OneCycleLR(run.optimizer, 0.05, total_steps=20)


def different_scheduler(run):
    run.scheduler = torch.optim.lr_scheduler.ExponentialLR(run.optimizer, 0.9)


def optimizer_of_a_different_model(run):
    run.optimizer = Run().optimizer


def not_finite(run):
    with torch.no_grad():
        value = run.model.first.weight
        getattr(value, "to_local", lambda: value)().fill_(torch.nan)


def state_that_cannot_be_loaded(run):
    run.scheduler.note = object()


def different_rate(run):
    run.optimizer.param_groups[0]["lr"] = 0.5


def different_schedule(run):
    run.scheduler.last_epoch += 1


def one_more_group(run):
    run.optimizer.add_param_group({"params": []})


def different_step(run):
    run.history.minibatch_loss.pop()


def step_of_a_different_parameter(run):
    state = next(iter(run.optimizer.state.values()))
    state["step"] = state["step"] + 1


def save_in_between(folder="run"):
    """Save where it could do harm: before the first step, and after an evaluation."""
    run = Run().save(folder)
    run.train(3)
    run.model.eval()
    with torch.no_grad():
        run.model(torch.ones(4, 5))
    run.model.train()
    run.save(folder)
    return run.train().sha256()


def losses_of_its_own():
    """Save curves that differ between ranks; return those that are loaded."""
    run = Run().train(2)
    run.history.minibatch_loss[0] += position()[0]
    run.save("run")
    return run.history.minibatch_loss[0], Run().load("run").history.minibatch_loss[0]


def load_the_model_alone():
    run = Run().train(2).save("run")
    other = Run()
    history = load_sharded("run", other.model)
    same = compute_sha256(unsharded(other.model.state_dict())) == compute_sha256(
        unsharded(run.model.state_dict())
    )
    return same, history.not_loaded, len(other.optimizer.state)


def save_under_a_signal(number):
    """Let a signal come while a file is written; save to the end, and only then deliver it."""
    run = Run().train(2)
    at_call("os.fsync", 1, lambda: os.kill(os.getpid(), number))
    signal.signal(number, lambda *_: heard.append(len([*Path("run").glob("checkpoint-??????")])))
    heard = []
    run.save("run")
    return heard


# Slow ranks


def arrive(name):
    Path(name).touch()


def wait_for(name):
    """Wait until a rank arrives. If it never does, the test hangs, and fails after a minute."""
    while not Path(name).exists():
        os.sched_yield()


def save_late():
    """Rank 1 comes to a save, and then to a load, after the timeout of training is over.

    Returns whether a collective on the training group has timed out meanwhile.
    """
    run = Run().train(1).save("run")
    rank, _ = position()
    dist.distributed_c10d._set_pg_timeout(timedelta(milliseconds=1), dist.group.WORLD)
    thread = threading.Thread(target=time_out)
    thread.start() if rank == 0 else wait_for("timed out")
    run.history.minibatch_loss.append(0.5)
    run.save("run")
    if rank == 0:
        thread.join()
    return Path("timed out").exists(), left_in("run"), run.load("run").history.batch


def time_out():
    """Wait for the other rank on the group that trains, for as long as that allows."""
    try:
        dist.barrier()
    except RuntimeError:
        arrive("timed out")


def train_while_rank_0_deletes():
    """Rank 0 can't delete an old checkpoint before both ranks have gone on training."""
    run = Run().train(1).save("run", keep=1)
    wait_for_save()
    if position()[0] == 0:
        at_call("shutil.rmtree", 1, lambda: [wait_for(f"trained {rank}") for rank in (0, 1)])
    run.train(2).save("run", keep=1)
    before = names_in("run")
    run.train(3)
    arrive(f"trained {position()[0]}")
    wait_for_save()
    return before, left_in("run")


# In the background


def train_while_it_is_saved():
    """No tensor is written before the run has been trained on. Return both SHA-256."""
    run = Run().train(1).save("run")
    wait_for_save()
    at_call("helper.distributed.call_dcp", 1, lambda: wait_for(f"trained {position()[0]}"))
    saved = run.train(2).save("run", wait=False).sha256()
    left = [name for name in names_in("run") if not name.endswith(".tmp")]
    run.train(4)
    arrive(f"trained {position()[0]}")
    wait_for_save()
    return left, saved, Run().load("run").sha256(), run.sha256()


def fail_in_the_background(then, rank=0):
    """A save in the background fails on one rank; return the error of what waits for it."""
    run = Run().train(1).save("run")
    wait_for_save()
    if position()[0] == rank:
        at_call("os.fsync", 1, fail)
    run.train(2).save("run", wait=False)
    actions = {
        "wait": wait_for_save,
        "save": lambda: run.save("run"),
        "load": lambda: run.load("run"),
    }
    error = caught(actions[then])
    before = left_in("run")
    return error, before, Run().load("run").history.batch, left_in(run.save("run") and "run")


def fail_twice_at_a_step():
    """A second save at the same step fails on rank 0, and rank 1 asks last what is complete.

    Only when its new folder is deleted: what is there then is the first one, with the same tensors.
    """
    run = Run().train(2).save("run")
    wait_for_save()
    if position()[0] == 0:
        at_call("helper.distributed.commit", 1, fail)
    else:
        at_call("helper.distributed.is_committed", 1, wait_until_deleted)
    return caught(lambda: run.save("run")), left_in("run")


def wait_until_deleted():
    while [*Path("run").glob("*.tmp")]:
        os.sched_yield()


def load_what_one_rank_cannot_see(missing):
    """For rank 1, a file isn't there, as after a slow rename on a network disk."""
    run = Run().train(2).save("run")
    before = run.sha256()
    if position()[0] == 1:
        original = helper.distributed.find_damage
        helper.distributed.find_damage = lambda path, checksums: (
            f"{missing} is missing" if missing in checksums else original(path, checksums)
        )
    error = caught(lambda: Run().load("run"))
    return error, left_in("run"), before == run.sha256()


def fail(*_, **__):
    raise OSError("the disk is gone")


# Saving before the first step


def save_before_the_first_step():
    run, hooks = Run(), []
    run.optimizer.register_step_pre_hook(lambda *_: hooks.append("before"))
    run.optimizer.register_step_post_hook(lambda *_: hooks.append("after"))
    before = run.sha256()
    run.save("run")
    saved = run.sha256()
    return hooks, before == saved == Run().load("run").sha256(), left_in("run")


# Counting


@contextlib.contextmanager
def count_collectives(counts):
    """Add up the calls and bytes of this rank's collectives, those of dcp by themselves."""
    owner, patch = ["ours"], pytest.MonkeyPatch()

    def counted(function):
        def count(*arguments, **settings):
            calls, size = counts[owner[-1]]
            size += sum(map(count_bytes, [*arguments, *settings.values()]))
            counts[owner[-1]] = calls + 1, size
            return function(*arguments, **settings)

        return count

    def call_dcp(*arguments, **settings):
        owner.append("dcp")
        try:
            original(*arguments, **settings)
        finally:
            owner.pop()

    original = helper.distributed.call_dcp
    with patch.context() as context:
        context.setattr(helper.distributed, "call_dcp", call_dcp)
        for name in ("all_reduce", "all_gather", "gather", "broadcast", "scatter"):
            function = counted(getattr(dist, name))
            for module in (dist, dist.distributed_c10d):
                context.setattr(module, name, function)
        yield


def count_bytes(value):
    if isinstance(value, torch.Tensor):
        return value.nbytes
    return sum(map(count_bytes, value)) if isinstance(value, (list, tuple)) else 0


def count_messages(num_layers, sharded=True):
    """Return the calls and bytes of this rank in one save of a model with that many layers."""
    model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(num_layers)])
    if sharded:
        fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    run = model, optimizer, None, History()
    save_sharded("run", *run)  # the first one also makes the group
    wait_for_save()
    counts = dict.fromkeys(["ours", "dcp"], (0, 0))
    with count_collectives(counts):
        save_sharded("run", *run)
    return counts


def load_position():
    return Run().load("run").history.batch


def load_elsewhere():
    """Rank 1 is in a different folder, as where a filesystem is not mounted."""
    if position()[0] == 1:
        os.chdir("/")
    return Run().load("run")
