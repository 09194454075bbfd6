"""Saving while training continues: the run is copied in memory, and a thread writes the copy."""

import atexit
import copy
import sys
import threading
from collections.abc import Callable, Iterator

import torch

from helper.checkpoint import write_checkpoint
from helper.verification import checkpoint_errors


class BackgroundWriter:
    """Writes one checkpoint at a time in a thread.

    The copy takes as much memory as the run itself. It is kept, because refilling it is faster than
    allocating a new one.
    """

    def __init__(self):
        self.copies: list[torch.Tensor] = []  # of a run's tensors, in order
        self.layouts: list[tuple] = []  # of the tensors that were copied
        self.thread: threading.Thread | None = None
        self.error: BaseException | None = None  # of the last write

    def start(self, path: str, checkpoint: dict) -> None:
        """Copy a checkpoint, and start writing the copy. The previous write must be finished.

        Raises a CheckpointError if the copy fails, for example because memory runs out.
        """
        with checkpoint_errors(f"{path} could not be saved and is unchanged"):
            duplicate = self.copy(checkpoint)
            thread = threading.Thread(target=self.write, args=(path, duplicate))
            thread.start()
        self.thread = thread

    def wait(self) -> None:
        """Wait until the file is written. Raises a CheckpointError if writing failed."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None
        error, self.error = self.error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Wait for the thread, whether or not it succeeds, and free the memory of the copy."""
        if self.thread is not None:
            self.thread.join()
        self.copies.clear()
        self.layouts.clear()

    def write(self, path: str, checkpoint: dict) -> None:
        """Write a checkpoint, and store any error for the thread that waits."""
        try:
            write_checkpoint(path, checkpoint)
        except BaseException as error:
            self.error = error

    def copy(self, checkpoint: dict) -> dict:
        """Return a copy of a checkpoint on the CPU. Tensors that share memory still do."""
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
        """Copy a tensor into the one that is kept at this place, or into a new one."""
        # At the end of the list, assigning to the slice appends. The layout is stored because the
        # copy of a tensor with gaps has no gaps, so its strides differ.
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


class BackgroundCall:
    """Calls one function at a time in a thread, and stores its error for the thread that waits."""

    def __init__(self):
        self.thread: threading.Thread | None = None
        self.error: BaseException | None = None
        atexit.register(self.print_error)

    def start(self, f: Callable[[], None]) -> None:
        """Call `f()` in a thread. Python waits for the thread before it exits."""
        self.thread = threading.Thread(target=self.run, args=(f,), name="saving")
        self.thread.start()

    def run(self, f: Callable[[], None]) -> None:
        try:
            f()
        except BaseException as error:
            self.error = error

    def wait(self) -> BaseException | None:
        """Wait for the thread, and return its error."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None
        error, self.error = self.error, None
        return error

    def print_error(self) -> None:
        """At the end of the program, print the error that nobody has waited for."""
        if self.error is not None:
            print(f"CheckpointError: {self.error}", file=sys.stderr)
