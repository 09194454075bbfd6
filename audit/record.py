"""Runs a training script and writes its ledger, without changing what the script computes.

The audit starts this file once for each run: `python record.py SETTINGS`, a JSON file.
"""

import json
import os
import random
import sys
import traceback
import types
from pathlib import Path

if __name__ == "__main__":  # started as a file: make `audit` importable until the script begins
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from audit.guard import Guard
from audit.ledger import hash_tensors, hash_value, read_ledger
from audit.owners import find_owners, join, plain, variables_of

# Not a checkpoint, even if it grows at every step.
LOGS = (".log", ".txt", ".csv", ".json", ".jsonl", ".yaml", ".yml", ".md", ".png", ".pyc", ".lock")
NO_CALL = (
    "no module with these parameters was called with gradients enabled (a compiled function around "
    "the model?)"
)


class Recorder:
    """Writes a row for every optimizer step, and ends the process after the step it is told."""

    def __init__(self, settings: dict):
        self.settings = settings
        self.ledger = open(settings["ledger"], "a", buffering=1)  # noqa: SIM115, open to the end
        self.process = os.getpid()
        self.main = None  # the script's module
        self.rows = 0  # steps of all optimizers, in this process
        self.optimizers = {}  # by name, in the order of their first steps
        self.owners = {}  # of an optimizer, by its id: names of parameters, outermost modules
        self.scalers = []
        self.files = None  # in the run's folder: their sizes and times
        self.depth = 0  # of calls of modules
        self.begun = []  # what was recorded at the start of steps that are not finished yet
        self.last = (None, [])  # the optimizer of the last row, and the calls before it
        self.reference = where_weights_were(settings["reference"])
        # How many steps were done before this process; None until it is known.
        self.position = None if self.reference else 0
        self.start_row()

    def start_row(self):
        """Forget what belongs to the last step."""
        self.calls = []  # of outermost modules
        self.buffers = {}  # their buffers before the last of these calls
        self.skipped = []  # the loss scales of steps that were skipped
        self.loaders = 0  # how often a DataLoader was iterated
        self.saved = None  # the files that were saved; None before anybody looked

    def write(self, **row):
        """Append a row to the ledger."""
        self.ledger.write(json.dumps(row) + "\n")

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
            if self.calls:  # and no step since: the scaler has skipped it
                self.skipped.append(float(scaler.get_scale()))
                self.write(note="skipped", scale=self.skipped[-1])
                self.calls = []
            update(scaler, *arguments, **named)

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
        training = module.training
        if self.calls and next(module.parameters(), None) is None:
            training = self.calls[-1]["training"]  # a loss function goes with its model
        inputs, unseen = {}, None
        try:
            inputs = hash_tensors("input", arguments) | hash_tensors("input", named)
            if self.is_hashed():
                for part in module.modules():
                    for name, buffer in persistent_buffers(part):
                        self.buffers[id(part), name] = hash_value(buffer)
        except Exception as error:  # a traced call, for example: its tensors have no values
            unseen = f"what the model was given can't be hashed ({type(error).__name__})"
        self.calls.append(
            {"module": module, "training": training, "inputs": inputs, "unseen": unseen}
        )

    def before_step(self, optimizer, arguments, named):
        """Record what the step starts from."""
        if os.getpid() != self.process:
            self.write(note="child steps")
            return
        name, names, modules = self.describe(optimizer)
        pieces = {"mode": {}, "settings": {}, "learning rate": {}}
        for prefix, root in modules.items():
            for path, module in root.named_modules():
                pieces["mode"][join(prefix, plain(path)) or "the model"] = int(module.training)
        for number, group in enumerate(optimizer.param_groups):
            for key, value in group.items():
                if key == "lr":
                    pieces["learning rate"][f"group {number}"] = repr(float(value))
                elif key not in ("params", "param_names"):
                    pieces["settings"][f"group {number}: {key}"] = hash_value(value)
        hashed = self.is_hashed()
        if hashed:
            pieces |= self.hash_state(optimizer, names, modules)
            self.locate(pieces["weights"], pieces["optimizer state"])
        self.begun.append({"optimizer": name, "hashed": hashed, "pieces": pieces})

    def after_step(self, optimizer, arguments, named):
        """Record what the step was made of, write the row, and end here if this is the place."""
        if os.getpid() != self.process:
            return
        row = self.begun.pop()
        pieces, missing = row["pieces"], {}
        _, names, _ = self.describe(optimizer)
        if not self.calls and self.last[0] != row["optimizer"]:
            self.calls = self.last[1]  # two optimizers after one backward pass
        batch, reason = batch_of(self.calls, names)
        if reason is None:
            pieces["batch"] = batch
        else:
            missing["batch"] = reason
        pieces["settings"] |= self.loss_scales()
        if row["hashed"]:
            pieces["gradient"] = {
                names[id(p)]: hash_value(p.grad)
                for group in optimizer.param_groups
                for p in group["params"]
                if p.grad is not None
            }
            pieces["random state"] = random_states()
        saved = self.find_saves()
        self.write(step=self.rows, **row, missing=missing, loaders=self.loaders, saved=saved)
        self.last = row["optimizer"], self.calls
        self.rows += 1
        self.start_row()
        self.end_if_told(saved)

    # ---- What is recorded ----

    def is_hashed(self):
        """Return whether the large pieces are hashed at this step.

        That is every Nth step of the whole run, and each step after a save: runs resume there.
        """
        if self.position is None or self.find_saves():
            return True
        return (self.position + self.rows) % self.settings["every"] == 0

    def locate(self, weights, state):
        """Find out how many steps were done before this process: where its weights were before."""
        if self.position is None:
            for key in (weights, [weights, state]):
                steps = self.reference.get(hash_value(key), [])
                if len(steps) == 1:
                    self.position = max(0, steps[0] - self.rows)

    def hash_state(self, optimizer, names, modules):
        """Return hashes of the weights, the buffers and the state of an optimizer, by name."""
        weights, state, buffers = {}, {}, {}
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            name = names[id(parameter)]
            weights[name] = hash_value(parameter)
            for key, value in dict(optimizer.state.get(parameter, {})).items():
                state[f"{name}: {key}"] = hash_value(value)
        for key, value in optimizer.state.items():
            if isinstance(key, str):
                state[key] = hash_value(value)
        for prefix, root in modules.items():
            for path, module in root.named_modules():
                for name, buffer in persistent_buffers(module):
                    earlier = self.buffers.get((id(module), name))  # before the forward pass
                    buffers[join(prefix, plain(path), name)] = earlier or hash_value(buffer)
        return {"weights": weights, "buffers": buffers, "optimizer state": state}

    def loss_scales(self):
        """Return what the GradScalers multiply the loss with, and that of skipped steps before."""
        scales = {}
        for number, scaler in enumerate(self.scalers):
            name = "loss scale" if number == 0 else f"loss scale {number}"
            scales[name] = repr(float(scaler.get_scale()))
            scales[f"{name}: steps since it grew"] = scaler.state_dict().get("_growth_tracker")
        for number, scale in enumerate(reversed(self.skipped), 1):
            scales[f"loss scale: {number} skipped"] = repr(scale)
        return scales

    def describe(self, optimizer):
        """Return a name for an optimizer that is the same in every run, and what it steps."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        known = self.owners.get(id(optimizer))
        if known is not None and known["optimizer"] is optimizer:
            if known["count"] == len(parameters):
                return known["name"], known["names"], known["modules"]
            name = known["name"]
        else:
            name = None
        label, names, modules = find_owners(optimizer, variables_of(self.main))
        if name is None:
            name = self.new_name(f"{type(optimizer).__name__} of {label}", parameters)
            self.write(note="optimizer", optimizer=name, parameters=sorted(names.values()))
        self.optimizers[name] = optimizer
        self.owners[id(optimizer)] = {
            "optimizer": optimizer,
            "count": len(parameters),
            "name": name,
            "names": names,
            "modules": modules,
        }
        return name, names, modules

    def new_name(self, label, parameters):
        """Return a name for a new optimizer; one that replaces an optimizer takes its name."""
        name, number = label, 1
        while name in self.optimizers:
            others = {
                id(p) for group in self.optimizers[name].param_groups for p in group["params"]
            }
            if others & {id(p) for p in parameters}:
                self.owners.pop(id(self.optimizers[name]), None)
                break
            number += 1
            name = f"{label}, number {number}"
        return name

    def find_saves(self):
        """Return which files have changed since the last step, if they can be a checkpoint."""
        if self.saved is None:
            files = list_files(self.settings["run_folder"])
            before = files if self.files is None else self.files
            changed = [path for path, what in files.items() if before.get(path) != what]
            weights = {
                p: p.numel()
                for optimizer in self.optimizers.values()
                for group in optimizer.param_groups
                for p in group["params"]
            }
            is_large = sum(files[path][0] for path in changed) >= sum(weights.values())
            self.saved, self.files = changed if is_large else [], files
        return self.saved

    # ---- The end ----

    def end_if_told(self, saved):
        """Kill this process if this is the step after which it has to die."""
        settings = self.settings
        if settings["max_steps"] and (self.position or 0) + self.rows >= settings["max_steps"]:
            self.write(note="max steps")
            os._exit(0)
        if self.rows == settings["kill_after"] or settings["kill_after_save"] and saved:
            settings["kill_after_save"] = False
            self.write(note="killed", step=self.rows)
            os.kill(os.getpid(), settings["signal"])

    def finish(self):
        """Write a last row for each optimizer: what the run ends with."""
        if os.getpid() != self.process:
            return
        self.saved = None
        for optimizer in list(self.optimizers.values()):
            name, names, modules = self.describe(optimizer)
            self.buffers = {}
            pieces = self.hash_state(optimizer, names, modules)
            self.write(note="end", optimizer=name, pieces=pieces, saved=self.find_saves())


def batch_of(calls, names):
    """Return the hash of each tensor that the modules were given, or why there is none."""
    calls = [call for call in calls if call["training"]] or calls
    if not any(id(p) in names for call in calls for p in call["module"].parameters()):
        return None, NO_CALL
    for call in calls:
        if call["unseen"]:
            return None, call["unseen"]
    batch = {}
    for number, call in enumerate(calls):
        batch |= {f"call {number}: {name}": value for name, value in call["inputs"].items()}
    return (batch, None) if batch else (None, "the modules were given no tensors")


def persistent_buffers(module):
    """Return the buffers of a module that are in its state, with their names."""
    return [
        (name, buffer)
        for name, buffer in module._buffers.items()
        if buffer is not None and name not in module._non_persistent_buffers_set
    ]


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
    """Return the steps of a ledger by the weights, and by the weights with their state."""
    steps = {}
    for row in read_ledger(reference) if reference else []:
        pieces = row.get("pieces", {})
        if "weights" in pieces and "note" not in row:
            weights = pieces["weights"]
            for key in (weights, [weights, pieces.get("optimizer state")]):
                steps.setdefault(hash_value(key), []).append(row["step"])
    return steps


def seed_everything(seed):
    """Seed the global generators before the script starts."""
    import torch

    random.seed(seed)
    torch.manual_seed(seed)
    numpy = sys.modules.get("numpy")  # PyTorch imports it, where it is installed
    if numpy is not None:
        numpy.random.seed(seed % 2**32)


def new_main(script):
    """Return the module in which a script runs, as Python makes it for `python SCRIPT`."""
    for name in [name for name in sys.modules if name == "audit" or name.startswith("audit.")]:
        del sys.modules[name]  # the script may have a module of this name
    main = types.ModuleType("__main__")
    main.__file__ = script
    main.__spec__ = None
    sys.modules["__main__"] = main
    return main


def start(settings: dict) -> None:
    """Run the script as `python SCRIPT ARGUMENTS` would, with a recorder and a guard."""
    script = settings["script"]
    sys.path[0] = str(Path(script).parent)
    sys.argv = [script, *settings["arguments"]]
    recorder = Recorder(settings)
    Guard(
        settings["run_folder"],
        settings["protected"],
        lambda path: recorder.write(note="outside", path=path),
    ).start()
    recorder.start()
    if settings["seed"] is not None:
        seed_everything(settings["seed"])
    recorder.main = new_main(script)
    try:
        exec(compile(Path(script).read_bytes(), script, "exec"), vars(recorder.main))
    except Exception as error:
        lines = "".join(traceback.format_exception_only(error)).split()
        recorder.write(note="error", text=" ".join(lines))
        raise
    finally:
        recorder.finish()


if __name__ == "__main__":
    start(json.loads(Path(sys.argv[1]).read_text()))
