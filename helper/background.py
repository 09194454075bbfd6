"""Saving while training continues: the run is copied in memory, and a thread writes the copy."""

import copy
import threading
from collections.abc import Iterator

import torch

from helper.checkpoint import write_checkpoint
from helper.verification import checkpoint_errors


class BackgroundWriter:
    """Writes one checkpoint at a time in a thread.

    The copy takes the memory of one more run. It is kept, since filling it again is faster than
    allocating a new one.
    """

    def __init__(self):
        self.copies: list[torch.Tensor] = []  # of the tensors of a run, in their order
        self.layouts: list[tuple] = []  # of the tensors that they are copies of
        self.thread: threading.Thread | None = None
        self.error: BaseException | None = None  # of the last write

    def start(self, path: str, checkpoint: dict) -> None:
        """Copy a checkpoint, and start to write the copy. The write before must be over.

        Raises a CheckpointError if the copy can't be made: there isn't enough memory, for example.
        """
        with checkpoint_errors(f"{path} could not be saved, and is as it was before"):
            duplicate = self.copy(checkpoint)
            thread = threading.Thread(target=self.write, args=(path, duplicate))
            thread.start()
        self.thread = thread

    def wait(self) -> None:
        """Wait until the file is written. Raises a CheckpointError if that has failed."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None
        error, self.error = self.error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Wait for the thread, whatever comes of it, and give the memory of the copy back."""
        if self.thread is not None:
            self.thread.join()
        self.copies.clear()
        self.layouts.clear()

    def write(self, path: str, checkpoint: dict) -> None:
        """Write a checkpoint, and keep an error for the thread that waits."""
        try:
            write_checkpoint(path, checkpoint)
        except BaseException as error:
            self.error = error

    def copy(self, checkpoint: dict) -> dict:
        """Return a copy of a checkpoint on the CPU. Tensors that share their numbers still do."""
        tensors = list(find_tensors(checkpoint))
        copies, memo = {}, {}
        for tensor in tensors:
            place = (tensor.device, tensor.data_ptr(), tensor.is_conj(), tensor.is_neg())
            key = (*place, *layout_of(tensor))
            if key not in copies:
                copies[key] = self.fill(len(copies), tensor.detach())
            memo[id(tensor)] = copies[key]
        del self.copies[len(copies) :], self.layouts[len(copies) :]
        return copy.deepcopy(checkpoint, memo)  # takes the copies in the memo, and copies the rest

    def fill(self, place: int, tensor: torch.Tensor) -> torch.Tensor:
        """Copy a tensor into the one that is kept in this place, or into a new one."""
        # An assignment to a slice appends at the end. The layout is kept, too: the copy of a tensor
        # with gaps has none, so its strides are different.
        if self.layouts[place : place + 1] != [layout_of(tensor)]:
            self.copies[place : place + 1] = [torch.empty_like(tensor, device="cpu")]
            self.layouts[place : place + 1] = [layout_of(tensor)]
        return self.copies[place].copy_(tensor)


def layout_of(tensor: torch.Tensor) -> tuple:
    """Return what two tensors must have in common so that one can be a copy of the other."""
    return tensor.dtype, tensor.shape, tensor.stride()


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
