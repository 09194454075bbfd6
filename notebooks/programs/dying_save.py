"""Overwrite a checkpoint, and die at the write that would take the file past 100,000 bytes.

    python programs/dying_save.py torch.save PATH
    python programs/dying_save.py save_checkpoint PATH

The death is real: os._exit ends a process on the spot, without any cleanup.
"""

import builtins
import io
import os
import sys

sys.path.insert(0, "..")

import torch

from helper.checkpoint import save_checkpoint
from helper.history import History


class DyingFile(io.FileIO):
    """A file that ends the process when it becomes too large."""

    def write(self, data):
        if self.tell() + len(data) > 100_000:
            os._exit(1)
        return super().write(data)


function, path = sys.argv[1:]
model = torch.nn.Linear(400, 400)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
builtins.open = DyingFile
if function == "torch.save":
    with open(path, "wb") as file:
        torch.save(model.state_dict(), file)
else:
    save_checkpoint(path, model, optimizer, None, History())
