"""A file that is either complete or not there at all."""

import contextlib
import errno
import os
import re
import secrets
import shutil

try:
    import fcntl
except ImportError:  # Windows, where nobody can delete an open file
    fcntl = None

# Errors of filesystems that can't flush: Samba, shared folders of virtual machines, FUSE.
CANNOT_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@contextlib.contextmanager
def atomic_file(path):
    """Open a new file in a `with` block; at the end of the block it gets the name `path`.

    Writes to a locked temporary file next to `path`, so that concurrent writers don't collide, and
    files that killed processes left behind can be recognized and removed. If an error is raised,
    the previous file at `path` is unchanged. Follows a symbolic link, keeps the mode of the
    previous file, and creates missing folders. If the folder can't be flushed, raises
    FolderNotFlushed after the rename: the new file is complete, but a power failure may undo the
    rename.
    """
    path = os.path.realpath(path)
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    remove_leftovers(folder, name)
    file = open_temporary(path)
    try:
        yield file
        file.flush()
        flush(file.fileno())
        if os.path.exists(path):
            shutil.copymode(path, file.name)
        if fcntl is None:
            file.close()  # Windows can't rename an open file
        os.replace(file.name, path)
    finally:
        unlock(file)
        with contextlib.suppress(OSError):  # on a full disk, closing fails too
            file.close()
        with contextlib.suppress(FileNotFoundError):  # it was renamed
            os.unlink(file.name)
    flush_folder(folder)


class FolderNotFlushed(OSError):
    """The file is complete, but after a power failure the previous one may be back."""


def open_temporary(path):
    """Return a new file, open and locked."""
    while True:
        file = open(f"{path}.{secrets.token_hex(6)}.tmp", "xb")  # noqa: SIM115, closed by the caller
        if lock(file) != "taken" and os.fstat(file.fileno()).st_nlink > 0:
            return file
        file.close()  # another process took it for a leftover before it was locked


def lock(file) -> str:
    """Lock an open file, and return "locked", "taken" (by another process) or "unsupported"."""
    if fcntl is None:
        return "unsupported"
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return "taken"
    except OSError:
        return "unsupported"
    return "locked"


def unlock(file):
    """Unlock a file, even if a worker that was forked in the meantime has it open too."""
    if fcntl is not None and not file.closed:
        with contextlib.suppress(OSError):  # where there are no locks
            fcntl.flock(file, fcntl.LOCK_UN)


def remove_leftovers(folder, name):
    """Delete the temporary files of processes that were killed while writing this file."""
    for leftover in os.listdir(folder):
        if re.fullmatch(rf"{re.escape(name)}\.[0-9a-f]{{12}}\.tmp", leftover):
            leftover = os.path.join(folder, leftover)
            # Opened for writing, although nothing is written: NFS needs that for an exclusive lock.
            with contextlib.suppress(OSError), open(leftover, "r+b") as file:
                if lock(file) == "locked":
                    os.unlink(leftover)


def flush(descriptor):
    """Write an open file or folder to the disk, where the filesystem can do that."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in CANNOT_FLUSH:
            raise


def flush_folder(folder):
    """Write a folder's list of names to the disk, so that a power failure can't undo a rename."""
    if os.name != "posix":  # Windows can't open a folder
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # you may write to the folder, but not list it
        return
    try:
        flush(descriptor)
    except OSError as error:
        raise FolderNotFlushed(error.errno, error.strerror, folder) from error
    finally:
        os.close(descriptor)
