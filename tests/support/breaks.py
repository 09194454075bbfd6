"""What is broken to see the ✗ of each check, by notebook."""

from tests.support.ticks import Break
from tests.support.ticks_of_many import BREAKS_OF_MANY

NO_SEEDS = "true_seed_all = seed_all\nseed_all = lambda *_: None"


def forget(piece):
    """Return lines with which the `load` of notebook 6 skips a piece."""
    return (
        "true_load = load\n"
        "def load(path, run):\n"
        "    pieces = {n: part for n, part in vars(run).items() if n != 'PIECE'}\n"
        "    return true_load(path, SimpleNamespace(**pieces))"
    ).replace("PIECE", piece)


def without_line(line):
    """Return lines that remove a line of programs/recipe.py, and those that put it back."""
    return (
        "recipe = Path('programs/recipe.py')\n"
        "whole_recipe = recipe.read_text()\n"
        f"assert {line!r} in whole_recipe\n"
        f"_ = recipe.write_text(whole_recipe.replace({line!r}, 'pass'))",
        "_ = recipe.write_text(whole_recipe)",
    )


# The audit of notebook 6 with one of its two stops, which halves what it costs.
ONE_STOP = """
true_run = subprocess.run
subprocess.run = lambda command, **how: true_run(
    [word.replace("7,20", "20") for word in command], **how)"""


BREAKS = {
    "2-lenet5-load-and-continue": [
        Break(
            "load_checkpoint loads nothing",
            "true_load = load_checkpoint\n"
            "def load_checkpoint(path, *parts):\n"
            "    return true_load(path, *new_run(seed=1))",
            ["load-checkpoint", "hash", "check-checkpoint"],
            "✗",
            "load_checkpoint = true_load",
        ),
        *(
            Break(
                f"load_checkpoint leaves out the {name}",
                "def load_checkpoint(path, *parts):\n"
                "    history = true_load(path, *parts)\n"
                f"    {forget}\n"
                "    return history",
                ["load-checkpoint", "hash", "check-checkpoint"],
                "✗",
                "load_checkpoint = true_load",
            )
            for name, forget in [
                ("optimizer", "parts[1].state.clear()"),
                ("scheduler", "parts[2].best = parts[2].mode_worse"),
            ]
        ),
        Break(
            "the lecture's way is the uninterrupted run",
            "true_lecture_run, lecture_run = lecture_run, (model_2, optimizer_2, scheduler_2)",
            ["compare", "counterexample"],
            "✓",
            "lecture_run = true_lecture_run",
        ),
        Break(
            "an accuracy differs",
            "history.valid_acc[0] += 1",
            ["proof"],
            "✗✓",
            "history.valid_acc[:] = uninterrupted.valid_acc",
        ),
        Break(
            "a weight differs",
            "model.classifier[4].bias.data[0] += 1",
            ["compare", "proof"],
            "✓✗",
            "model.load_state_dict(model_2.state_dict())",
        ),
        Break(
            "a momentum differs",
            "next(iter(optimizer.state.values()))['momentum_buffer'][0] += 1",
            ["compare", "proof"],
            "✓✗",
            "optimizer.load_state_dict(copy.deepcopy(optimizer_2.state_dict()))",
        ),
        Break(
            "the scheduler differs",
            "scheduler.num_bad_epochs += 1",
            ["compare", "proof"],
            "✓✗",
            "scheduler.num_bad_epochs -= 1",
        ),
        Break(
            "the order of an epoch comes from wherever the generator is",
            "true_seed = torch.manual_seed\n"
            "torch.manual_seed = lambda seed: true_seed(seed) if seed < 1000 else None",
            ["plain-continue"],
            "✗",
            "torch.manual_seed = true_seed",
        ),
        *(
            Break(
                f"the plain checkpoint has no {name}",
                "true_save = save_plain\n"
                "def save_plain(path, model, optimizer, scheduler, epoch):\n"
                "    _, new_optimizer, new_scheduler = new_run(RANDOM_SEED)\n"
                f"    true_save(path, model, {parts}, epoch)",
                ["plain-continue"],
                "✗",
                "save_plain = true_save",
            )
            for name, parts in [
                ("optimizer", "new_optimizer, scheduler"),
                ("scheduler", "optimizer, new_scheduler"),
            ]
        ),
    ],
    "3-resume-lab": [
        Break(
            "the order of an epoch comes from the global generator",
            "import helper.batches\n"
            "true_seeds = helper.batches.seed_loader, helper.batches.seed_batch\n"
            "helper.batches.seed_loader = helper.batches.seed_batch = lambda *_: None",
            ["looking-train"],
            "✗",
            "helper.batches.seed_loader, helper.batches.seed_batch = true_seeds",
        ),
        Break(
            "the momentum is lost when the program starts again",
            "program = Path('programs/killed_training.py')\n"
            "whole = program.read_text()\n"
            "line = '    kill_after(int(steps), optimizer)'\n"
            "_ = program.write_text(whole.replace(line, '    optimizer.state.clear()\\n' + line))",
            ["killed", "started-again", "result"],
            "✗",
            "_ = program.write_text(whole)",
        ),
        Break(
            "nothing is killed",
            "whole, in_peace = start, lambda path, **_: whole(path)\nstart = in_peace",
            ["killed", "started-again", "result"],
            "✗",
            "start = whole",
        ),
    ],
    "4-alexnet-train-and-save": [
        Break(
            "the disk is nearly full",
            "import types\n"
            "true_usage = shutil.disk_usage\n"
            "shutil.disk_usage = lambda _: types.SimpleNamespace(free=1e6)",
            ["disk"],
            "✗",
            "shutil.disk_usage = true_usage",
        ),
    ],
    "5-alexnet-load-and-continue": [
        Break(
            "the model is loaded in the usual way",
            "true_load = load\ndef load(**settings):\n    return true_load()",
            ["measure"],
            "✗",
            "load = true_load",
        ),
        Break(
            "a loss differs",
            "continued.minibatch_loss[-1] += 1",
            ["proof"],
            "✗✓",
            "continued.minibatch_loss[:] = uninterrupted.minibatch_loss",
        ),
        Break(
            "a state of Adam differs",
            "state = optimizer_1.state[model_1.classifier[6].bias]['exp_avg']\n"
            "kept = state.clone()\n"
            "state[0] += 1",
            ["proof"],
            "✓✗",
            "state.copy_(kept)",
        ),
        *(
            Break(
                "nothing is loaded",
                "torchvision.models.AlexNet.load_state_dict = lambda *_: None",
                [cell],
                "✗",
                "del torchvision.models.AlexNet.load_state_dict",
            )
            for cell in ("over-state", "over-safe")
        ),
        Break(
            "safetensors saves whatever it is given",
            "true_save = save_file\nsave_file = lambda *_: None",
            ["over-safe-not"],
            "✗✗✗",
            "save_file = true_save",
        ),
        Break(
            "a different model is handed over",
            "true_model, model = model, new_alexnet().eval()",
            ["over-export"],
            "✗",
            "model = true_model",
        ),
        Break(
            "the batch size is fixed",
            "true_export = torch.export.export\n"
            "torch.export.export = lambda *what, dynamic_shapes: true_export(*what)",
            ["over-export", "over-export-receiver"],
            "✗",
            "torch.export.export = true_export",
        ),
        Break(
            "the receiver gets other answers",
            "true_answers, answers = answers, answers.flip(0)",
            ["over-export-receiver"],
            "✗",
            "answers = true_answers",
        ),
    ],
    "6-your-own-run": [
        Break("no seeds", NO_SEEDS, ["proof-stops"], "✗✗✗", "seed_all = true_seed_all"),
        Break("no optimizer", forget("optimizer"), ["proof-stops"], "✓✗✗", "load = true_load"),
        Break(
            "no part is loaded",
            without_line("part.load_state_dict(states[name])")[0] + ONE_STOP,
            ["audit", "audit-result"],
            "✗",
            f"subprocess.run = true_run\n{without_line('')[1]}",
        ),
        Break(
            "nothing is cut",
            "true_cut = cut\n"
            "def cut(take_step, new_run, at):\n"
            "    return train_with(take_step, new_run())",
            ["accumulate"],
            "✗",
            "cut = true_cut",
        ),
        Break("no optimizer", forget("optimizer"), ["accumulate"], "✗", "load = true_load"),
        Break("no scheduler", forget("scheduler"), ["bfloat16"], "✗", "load = true_load"),
        Break("no scaler", forget("scaler"), ["float16-cut"], "✗", "load = true_load"),
        Break("no average", forget("averaged"), ["averaged-cut"], "✗", "load = true_load"),
        Break(
            "a batch has no seed",
            without_line("seed_all(self.seed, step, 1)")[0],
            ["workers", "workers-cut"],
            "✗",
            without_line("")[1],
        ),
        Break("no optimizer", forget("optimizer"), ["compile-cut"], "✗✓", "load = true_load"),
        Break(
            "a layer has a prefix",
            "def compile(self, **how):\n"
            "    self.hidden = torch.compile(self.hidden, **how)\n"
            "DigitNet.compile = compile",
            ["compile-cut"],
            "✓✗",
            "del DigitNet.compile",
        ),
        Break(
            "dynamic is the default",
            "true_programs = programs\n"
            "def programs(sizes, dynamic):\n"
            "    return true_programs(sizes, None)",
            ["compile-sizes"],
            "✗",
            "programs = true_programs",
        ),
    ],
    "7-the-audit": [
        Break(
            "the scheduler is forgotten",
            "true_edit, edit = edit, lambda script, *_: script",
            ["fix-schedule", "fix-result"],
            "✗",
            "edit = true_edit",
        ),
        Break(
            "a different weight is hit",
            "true_flip = flip_bit\n"
            "def flip_bit(run, name, index):\n"
            "    true_flip(run, '1.weight', index)",
            ["lie", "lie-found"],
            "✗",
            "flip_bit = true_flip",
        ),
        Break(
            "nothing is hit",
            "flip_bit = lambda *_: None",
            ["lie", "lie-found"],
            "✗",
            "flip_bit = true_flip",
        ),
    ],
    "8-when-the-machine-goes-away": [
        Break(
            "the baseline is a run with a different seed",
            "RANDOM_SEED += 1\nstart(fresh('saved_data/away-undisturbed.pt'))",
            ["signals-proof"],
            "✗",
            "RANDOM_SEED -= 1\nstart(fresh('saved_data/away-undisturbed.pt'))",
        ),
        Break(
            "the program skips a step when it begins again",
            "program = Path('programs/recipe.py')\n"
            "true_program = program.read_text()\n"
            "line = 'return states[\"step\"]'\n"
            'skipping = \'return states["step"] + (states["step"] > 0)\'\n'
            "_ = program.write_text(true_program.replace(line, skipping))",
            ["loop-try"],
            "✗",
            "_ = program.write_text(true_program)",
        ),
        *(
            Break(
                f"failures come {factor} times as seldom as the formula thinks",
                "from types import SimpleNamespace\n"
                "true_rng = np.random.default_rng\n"
                "np.random.default_rng = lambda seed: SimpleNamespace(\n"
                f"    exponential=lambda f, size: true_rng(seed).exponential({factor} * f, size))",
                ["simulate"],
                "✗",
                "np.random.default_rng = true_rng",
            )
            for factor in (0.5, 2)
        ),
        Break(
            "only the last is kept",
            "true_keep = keep\n"
            "def keep(path, *run):\n"
            "    true_keep(path, *run)\n"
            "    Path(f'{path}.1').unlink(missing_ok=True)",
            ["keep-try"],
            "✗",
            "keep = true_keep",
        ),
        Break(
            "the best is always the last",
            "def keep(path, run, *rest):\n"
            "    run.best.accuracy = -1.0\n"
            "    true_keep(path, run, *rest)",
            ["keep-try"],
            "✗",
            "keep = true_keep",
        ),
        Break(
            "something is deleted first",
            "def keep(path, *run):\n"
            "    Path(f'{path}.1').unlink(missing_ok=True)\n"
            "    true_keep(path, *run)",
            ["keep-try", "full"],
            "✗",
            "keep = true_keep",
        ),
        Break(
            "the disk isn't full",
            "recipe.os = SimpleNamespace(**vars(os))",
            ["keep-try", "full"],
            "✗",
            "recipe.os = os",
        ),
        Break(
            "the log only appends",
            "true_write, Log.write = Log.write, OnlyAppends.write",
            ["log-try", "log-proof"],
            "✗",
            "Log.write = true_write",
        ),
        Break(
            "the log forgets its size",
            "true_load, Log.load_state_dict = Log.load_state_dict, lambda self, state: None",
            ["log-try", "log-proof"],
            "✗",
            "Log.load_state_dict = true_load",
        ),
    ],
    **BREAKS_OF_MANY,
}
