"""Refuses what a script would write outside of its run's folder, before it happens."""

import contextlib
import os
import sys
import tempfile
from pathlib import Path

# Events of sys.addaudithook that change files, and which of their arguments are paths.
CHANGES = {
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.mkdir": (0,),
    "os.remove": (0,),
    "os.rename": (0, 1),
    "os.rmdir": (0,),
    "os.truncate": (0,),
    "os.utime": (0,),
    "os.link": (1,),
    "os.symlink": (1,),
    "shutil.rmtree": (0,),
    "shutil.move": (0, 1),
    "shutil.copyfile": (1,),
    "sqlite3.connect": (0,),
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Guard:
    """Ends the process when it is about to write to a file that isn't the run's own.

    Allowed are the run's folder, and temporary folders and caches, unless they hold the script or
    the folder where the audit was started: those are the user's. `report(path)` is called first.
    """

    def __init__(self, run_folder, protected, report):
        self.run_folder = os.path.realpath(run_folder)
        self.protected = [os.path.realpath(folder) for folder in protected]
        self.allowed = [os.path.realpath(folder) for folder in temporary_folders()]
        self.report = report

    def start(self):
        """Watch all that Python opens, and what PyTorch and safetensors open without Python."""
        sys.addaudithook(self.hook)
        import torch

        writer = torch._C.PyTorchFileWriter

        def guarded_writer(file, *arguments, **settings):
            self.check(file)
            return writer(file, *arguments, **settings)

        torch._C.PyTorchFileWriter = guarded_writer
        scripted = torch.jit.RecursiveScriptModule
        scripted.save = self.guarded(scripted.save, 1, "f")
        with contextlib.suppress(ImportError):  # its writer is written in Rust
            import safetensors

            safetensors.serialize_file = self.guarded(safetensors.serialize_file, 1, "filename")

    def guarded(self, function, place, name):
        """Return a function that checks one of its arguments, a path, before it is called."""

        def call(*arguments, **named):
            self.check(arguments[place] if len(arguments) > place else named.get(name))
            return function(*arguments, **named)

        return call

    def hook(self, event, arguments):
        """Look at an event of Python's. An error here would end the event, not the process."""
        if event == "open":
            path, mode, flags = arguments
            writes = bool(flags & WRITING) if isinstance(flags, int) else False
            if writes or (isinstance(mode, str) and set(mode) & set("wax+")):
                self.check(path)
        elif event in CHANGES and not changes_nothing(event, arguments[0]):
            for place in CHANGES[event]:
                self.check(arguments[place])

    def check(self, path):
        """End the process if it must not write to this path."""
        if not isinstance(path, (str, bytes, os.PathLike)):
            return  # an open file, or its number
        path = os.path.realpath(os.fsdecode(path))
        if is_inside(path, self.run_folder) or "__pycache__" in Path(path).parts:
            return
        if depth_of(path, self.allowed) > depth_of(path, self.protected):
            return  # a cache in the user's folder is still a cache
        self.report(path)
        os._exit(3)


def changes_nothing(event, path):
    """Return whether a call has no effect: a folder that is there, a file that isn't."""
    if event == "os.mkdir":
        return os.path.isdir(path)
    return event == "os.remove" and not os.path.lexists(path)


def depth_of(path, folders):
    """Return the length of the longest of these folders that a path lies in."""
    return max((len(folder) for folder in folders if is_inside(path, folder)), default=0)


def is_inside(path, folder):
    """Return whether a path is a folder or lies in it."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def temporary_folders():
    """Return the folders for temporary files, caches and devices."""
    home = Path.home()
    names = ["TORCH_HOME", "HF_HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR"]
    names += ["TRITON_CACHE_DIR", "CUDA_CACHE_PATH", "WANDB_CACHE_DIR", "NUMBA_CACHE_DIR"]
    folders = [os.environ[name] for name in names if os.environ.get(name)]
    folders += [home / ".cache", home / ".config" / "matplotlib", home / ".triton", home / ".nv"]
    folders += [tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev", "/proc"]
    return folders
