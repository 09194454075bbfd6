"""What is in a checkpoint, as a table: HTML in a notebook, text everywhere else."""

from html import escape

import torch

from helper.compatibility import dtype_and_shape


def tabulate(checkpoint, position, every_tensor):
    """Return a Table of what is in a checkpoint; `position` is in words."""
    tensors = [("model", *item) for item in checkpoint["model"].items()]
    for number, state in checkpoint["optimizer"]["state"].items():
        named = state.items() if isinstance(state, dict) else ()
        tensors += [("optimizer", f"{number}.{name}", value) for name, value in named]
    rows = [("part", "name", "shape", "type", "bytes")]
    for part in ("model", "optimizer"):
        own = [(n, t) for other, n, t in tensors if other == part and isinstance(t, torch.Tensor)]
        for name, tensor in own if every_tensor else ():
            dtype, shape = dtype_and_shape(tensor).split(" ", maxsplit=1)
            rows.append((part, name, shape, dtype, f"{tensor.nbytes:,}"))
        total = sum(tensor.nbytes for _, tensor in own)
        rows.append((part, f"all {len(own)} tensors", "", "", f"{total:,}"))
    groups, seed = checkpoint["optimizer"]["param_groups"], checkpoint["history"]["seed"]
    rates = ", ".join(f"{float(group.get('lr', 0)):g}" for group in groups)
    versions = ", ".join(f"{name} {number}" for name, number in checkpoint["versions"].items())
    note = f"{position} done with seed {seed}. Learning rate: {rates}. Written by {versions}."
    return Table(rows, note)


class Table:
    """Rows of strings and a note. The first row is the header; the last column is right-aligned."""

    def __init__(self, rows, note):
        self.rows, self.note = rows, note

    def __repr__(self):
        widths = [max(map(len, column)) for column in zip(*self.rows, strict=True)]
        cells = [
            [*map(str.ljust, row[:-1], widths), row[-1].rjust(widths[-1])] for row in self.rows
        ]
        return "\n".join([*map("  ".join, cells), self.note])

    def _repr_html_(self):
        rows = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in self.rows]
        rows[0] = rows[0].replace("td>", "th>")
        return f"<table><tr>{'</tr><tr>'.join(rows)}</tr></table><p>{escape(self.note)}</p>"
