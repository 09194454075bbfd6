"""The checks of the exercises in notebook 9."""

import hashlib
import json
import os
from pathlib import Path

import torch

from exercises.check import Hint, exercise, require


@exercise
def check_my_rows(call, folder):
    """Split batches among ranks, and one that can't be split evenly."""
    for rows, size in [(8, 2), (8, 4), (6, 1)]:
        batch = torch.arange(2 * rows).reshape(rows, 2)
        parts = [
            call(batch, rank, size, when=f"for rank {rank} of {size}, ") for rank in range(size)
        ]
        for part in parts:
            kind = type(part).__name__
            require(isinstance(part, torch.Tensor), f"the answer is of type {kind}, not a tensor.")
        shapes = {tuple(part.shape) for part in parts}
        even = (rows // size, 2)
        require(
            shapes == {even}, f"of {rows} rows, each of {size} ranks should get {rows // size}."
        )
        together = torch.cat(parts).sort(dim=0).values
        require(torch.equal(together, batch), "some rows go to two ranks, and some to none.")
    batch = torch.arange(10).reshape(5, 2)
    try:
        call(batch, 0, 2)
    except Hint as hint:
        require("ValueError" in str(hint), f"for 5 rows and 2 ranks, {hint}")
    else:
        raise Hint("5 rows can't be split evenly between 2 ranks: raise a ValueError.")
    return "every row goes to one rank, and 5 rows for 2 ranks are refused"


@exercise
def check_rows_per_rank(call, folder):
    """Compare with torch.chunk, which fully_shard splits with."""
    for rows, size in [(6, 2), (120, 4), (10, 4), (6, 4), (1, 3), (7, 3), (5, 8)]:
        chunks = [len(chunk) for chunk in torch.arange(rows).chunk(size)]
        right = chunks + [0] * (size - len(chunks))
        answer = call(rows, size, when=f"for {rows} rows and {size} ranks, ")
        require(isinstance(answer, (list, tuple)), "the answer should be a list of numbers.")
        answer = list(answer)
        text = f"for {rows} rows and {size} ranks, yours is {answer!s:.40}"
        require(len(answer) == size, f"{text}: a number for each rank, even if it has no rows.")
        require(sum(answer) == rows, f"{text}, which is not {rows} in all.")
        if answer != right:
            require(rows % size == 0 or max(answer) == max(right), f"{text}: how many has rank 0?")
            raise Hint(f"{text}: each rank takes as many as rank 0 as long as there are any.")
    return "6 rows for 4 ranks are 2, 2, 2 and 0; 10 rows are 3, 3, 3 and 1"


def make_checkpoint(folder, name, files):
    """Write a folder with files and their manifest."""
    path = Path(folder, name)
    path.mkdir()
    for file, content in files.items():
        (path / file).write_bytes(content)
    sums = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
    (path / "manifest.json").write_text(json.dumps(sums))
    return path


@exercise
def check_find_newest(call, folder):
    """Look for the newest complete one among broken and unfinished ones."""
    runs = Path(folder, "run")
    runs.mkdir()

    def ask():
        answer = call(str(runs))
        if isinstance(answer, (str, os.PathLike)):
            return Path(answer).name
        require(
            answer is None, f"the answer is of type {type(answer).__name__}, not a path or None."
        )
        return None

    require(ask() is None, "in an empty folder there is none: return None.")
    files = {"__0_0.distcp": bytes(100), "__1_0.distcp": bytes(range(100)), "run.pt": b"run"}
    for step in (31, 62, 93, 104, 126, 155):
        make_checkpoint(runs, f"checkpoint-{step:06d}", files)
    require(ask() == "checkpoint-000155", "with six complete ones, yours is not the newest.")
    make_checkpoint(runs, "checkpoint-000186.tmp", files)
    require(ask() == "checkpoint-000155", "yours is one that ends in .tmp, which is not complete.")
    (runs / "checkpoint-000155" / "run.pt").unlink()
    require(ask() == "checkpoint-000126", "a file of the newest one is missing: take one before.")
    (runs / "checkpoint-000126" / "__1_0.distcp").write_bytes(bytes(range(99)) + b"!")
    require(ask() == "checkpoint-000104", "the last byte of a file has changed: take one before.")
    (runs / "checkpoint-000104" / "manifest.json").write_text("{}")
    require(ask() == "checkpoint-000093", "an empty manifest proves nothing: take one before.")
    (runs / "checkpoint-000093" / "manifest.json").unlink()
    require(ask() == "checkpoint-000062", "without a manifest, a checkpoint is not complete.")
    (runs / "checkpoint-000062" / "manifest.json").write_text('{"run.pt":')
    require(
        ask() == "checkpoint-000031", "a manifest that is cut off can't be read: take one before."
    )
    (runs / "checkpoint-000031" / "__0_0.distcp").write_bytes(bytes(101))
    require(ask() is None, "when all are broken, there is none: return None.")
    return "seven kinds of broken checkpoints are passed over, and the newest complete one is found"
