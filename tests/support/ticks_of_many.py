"""What is broken to see the ✗ in the notebooks about many processes."""

from tests.support.ticks import Break


def when_loading(folder, change):
    """Return lines that let the notebook's `load` change what it has loaded from a folder."""
    return (
        "true_load = load\n"
        "def load(folder):\n"
        "    run, history = true_load(folder)\n"
        f"    if folder.endswith({folder!r}):\n"
        f"        {change}\n"
        "    return run, history"
    )


def edited(program, line, other):
    """Return lines that change a line of a program that ranks run, and lines that restore it."""
    return (
        f"program = Path('programs/{program}.py')\n"
        "true_program = program.read_text()\n"
        f"assert {line!r} in true_program\n"
        f"_ = program.write_text(true_program.replace({line!r}, {other!r}))",
        "_ = program.write_text(true_program)",
    )


A_WEIGHT = "run[0].classifier[4].bias.data[0] += 1"
LATER = edited(
    "background",
    "    saved = hash_run(run)\n",
    "    saved = hash_run(run)\n    train(run, history, loader, 1)\n",
)
COMPLETE = edited(
    "background",
    "    if reached and die:\n",
    "    if reached and die:\n        may_finish.set()\n"
    "    if die:\n        wait_for_save()\n"
    "    if reached and die:\n",
)
NO_SEED = edited(
    "layers",
    "    set_all_seeds(seed)\n    model = Deep(ready=shard)\n",
    "    set_all_seeds(seed + dist.get_world_size())\n    model = Deep(ready=shard)\n",
)
HALF_THE_SCALE = edited(
    "layers",
    "model.scale = torch.full((64,), 0.5)",
    "model.scale = torch.full((64,), 0.25)",
)
A_DIFFERENT_RUN = edited(
    "look_at_shards",
    "return history.position, hash_run(run)",
    "return history.position, hash_run(new_run(seed=1))",
)
BREAKS_OF_MANY = {
    "9-many-processes-train-and-save": [
        Break(
            "a momentum in rank 0's file differs",
            "import torch\n"
            "kept = Path(path).read_bytes()\n"
            "states = torch.load(path)\n"
            "states['optimizer']['state'][0]['momentum_buffer'][0] += 1\n"
            "torch.save(states, path)",
            ["ddp-proof"],
            "✗",
            "_ = Path(path).write_bytes(kept)",
        ),
        Break("the seed depends on the number of ranks", NO_SEED[0], ["large"], "✗", NO_SEED[1]),
        Break(
            "a buffer is set to something else",
            HALF_THE_SCALE[0],
            ["buffers"],
            "✗",
            HALF_THE_SCALE[1],
        ),
        Break(
            "the ranks save something other than what they have",
            "true_load = load_sharded\n"
            "def load_sharded(*run):\n"
            "    history = true_load(*run)\n"
            "    history.minibatch_loss.pop()\n"
            "    return history",
            ["stop-check"],
            "✗",
            "load_sharded = true_load",
        ),
        Break(
            "a file is longer by a byte",
            "longer = newest_in('saved_data/many') / 'run.pt'\n"
            "kept = longer.read_bytes()\n"
            "_ = longer.write_bytes(kept + b'!')",
            ["manifest"],
            "✓✓✓✗",
            "_ = longer.write_bytes(kept)",
        ),
        Break(
            "the newest checkpoint is loaded, not the one before",
            "before = load_sharded('saved_data/many', *new_run(seed=42))",
            ["flip-check"],
            "✗",
            "before = load_sharded('saved_data/damaged', *new_run(seed=42))",
        ),
        Break(
            "a different run is loaded",
            "before.minibatch_loss[0] += 1",
            ["flip-check"],
            "✗",
            "before.minibatch_loss[0] = history.minibatch_loss[0]",
        ),
    ],
    "10-many-processes-load-and-continue": [
        Break(
            "a loss differs",
            when_loading("continued", "history.minibatch_loss[-1] += 1"),
            ["proof"],
            "✗✓",
            "load = true_load",
        ),
        Break(
            "an accuracy differs",
            when_loading("whole", "history.valid_acc[0] += 1"),
            ["proof"],
            "✗✓",
            "load = true_load",
        ),
        Break(
            "the last states differ",
            "kept, continued.printed = continued.printed, whole.printed.replace(\n"
            "    sha256(whole, 'Ended'), sha256(killed, 'Loaded'))",
            ["proof"],
            "✓✗",
            "continued.printed = kept",
        ),
        Break(
            "one process loads a different weight",
            when_loading("many", A_WEIGHT),
            ["one"],
            "✗",
            "load = true_load",
        ),
        Break(
            "four processes load something else",
            "kept, four.printed = four.printed, four.printed.replace(\n"
            "    sha256(four, 'Loaded'), sha256(four, 'Ended'))",
            ["four-check"],
            "✗",
            "four.printed = kept",
        ),
        Break(
            "what is saved isn't what was there",
            LATER[0],
            ["background"],
            "✗",
            LATER[1],
        ),
        Break(
            "rank 1 is killed when its save is complete",
            COMPLETE[0],
            ["background", "background-kill"],
            "✗",
            COMPLETE[1],
        ),
        Break(
            "the careless writer copies",
            "true_writer, torn.CarelessWriter = torn.CarelessWriter, torn.GatedWriter",
            ["torn"],
            "✓",
            "torn.CarelessWriter = true_writer",
        ),
        Break(
            "the other one is careless too",
            "true_writer, torn.GatedWriter = torn.GatedWriter, torn.CarelessWriter",
            ["staged"],
            "✗",
            "torn.GatedWriter = true_writer",
        ),
        Break(
            "a weight differs",
            "model.classifier[4].bias.data[0] += 1",
            ["import"],
            "✗",
            "_ = load_sharded('saved_data/whole', model)",
        ),
        Break(
            "two ranks load a different run",
            A_DIFFERENT_RUN[0],
            ["from-one-file"],
            "✗",
            A_DIFFERENT_RUN[1],
        ),
        Break(
            "this process has loaded a different weight",
            "true_load = load_checkpoint\n"
            "def load_checkpoint(path, *run):\n"
            "    history = true_load(path, *run)\n"
            f"    {A_WEIGHT}\n"
            "    return history\n"
            "true_save, save_sharded = save_sharded, lambda *_: None\n"
            "fresh_folder, fresh = fresh, lambda name: f'saved_data/{name}'",
            ["from-one-file"],
            "✗",
            "load_checkpoint, save_sharded, fresh = true_load, true_save, fresh_folder",
        ),
    ],
}
