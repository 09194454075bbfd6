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


A_WEIGHT = "run[0].classifier[4].bias.data[0] += 1"
BREAKS_OF_MANY = {
    "9-many-processes-train-and-save": [
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
            "kept = (newest / 'run.pt').read_bytes()\n"
            "_ = (newest / 'run.pt').write_bytes(kept + b'!')",
            ["manifest"],
            "✓✓✓✗",
            "_ = (newest / 'run.pt').write_bytes(kept)",
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
            "the file is made of an older checkpoint",
            "older = sorted(Path('saved_data/whole').glob('checkpoint-??????'))[0]\n"
            "dcp_to_torch_save(older, 'saved_data/from-many.pt')",
            ["use-one-file"],
            "✗",
            "dcp_to_torch_save(newest, 'saved_data/from-many.pt')",
        ),
        Break(
            "two processes have loaded a different weight",
            A_WEIGHT,
            ["from-one-file-check"],
            "✗",
            "_ = load_checkpoint('saved_data/checkpoint.pt', *run)",
        ),
    ],
}
