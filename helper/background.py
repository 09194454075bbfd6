"""Saving while training continues: the run is copied in memory, and a thread writes the copy."""

import copy
import threading
from collections.abc import Iterator

import torch

from helper.checkpoint import write_checkpoint


class BackgroundWriter:
    """Writes one checkpoint at a time in a thread.

    The copy takes the memory of one more run. It is kept, since filling it again is faster than
    allocating a new one.
    """

    def __init__(self):
        self.copies: list[torch.Tensor] = []  # of the tensors of a run, in their order
        self.thread: threading.Thread | None = None
        self.error: Exception | None = None  # of the last write

    def start(self, path: str, checkpoint: dict) -> None:
        """Copy a checkpoint, and start to write the copy. The write before must be over."""
        duplicate = self.copy(checkpoint)
        self.thread = threading.Thread(target=self.write, args=(path, duplicate))
        self.thread.start()

    def wait(self) -> None:
        """Wait until the file is written. Raises a CheckpointError if that has failed."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None
        error, self.error = self.error, None
        if error is not None:
            raise error

    def write(self, path: str, checkpoint: dict) -> None:
        """Write a checkpoint, and keep an error for the thread that waits."""
        try:
            write_checkpoint(path, checkpoint)
        except Exception as error:
            self.error = error

    def copy(self, checkpoint: dict) -> dict:
        """Return a copy of a checkpoint on the CPU. Tensors that share their numbers still do."""
        tensors = list(find_tensors(checkpoint))
        copies, memo = {}, {}
        for tensor in tensors:
            key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
            if key not in copies:
                copies[key] = self.fill(len(copies), tensor.detach())
            memo[id(tensor)] = copies[key]
        del self.copies[len(copies) :]
        return copy.deepcopy(checkpoint, memo)  # takes the copies in the memo, and copies the rest

    def fill(self, place: int, tensor: torch.Tensor) -> torch.Tensor:
        """Copy a tensor into the one that is kept in this place, or into a new one."""
        if place == len(self.copies):
            self.copies.append(torch.empty_like(tensor, device="cpu"))
        kept = self.copies[place]
        if (kept.dtype, kept.shape, kept.stride()) != (tensor.dtype, tensor.shape, tensor.stride()):
            kept = self.copies[place] = torch.empty_like(tensor, device="cpu")
        return kept.copy_(tensor)


def find_tensors(value) -> Iterator[torch.Tensor]:
    """Yield all tensors in nested dicts, lists and tuples."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from find_tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from find_tensors(item)
