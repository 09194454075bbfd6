"""Files that are either complete or not there at all."""

import contextlib
import os
import re
import secrets
import shutil

try:
    import fcntl
except ImportError:  # Windows, where nobody can delete an open file
    fcntl = None


def write_atomically(path, write):
    """Let `write(file)` fill a new file, and give it the name `path` when it is complete.

    It stands beside `path` under a name of its own, since others may write the same path, and is
    locked, so that none of them takes it for what a killed process left. Whatever happens before
    the end leaves the file that was there before as it was. Links and modes are kept. Returns the
    OSError if nothing but flushing the folder failed, otherwise None.
    """
    path = os.path.realpath(path)
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    remove_leftovers(folder, name)
    file = open_temporary(path)
    try:
        write(file)
        file.flush()
        os.fsync(file.fileno())
        if os.path.exists(path):
            shutil.copymode(path, file.name)
        if fcntl is None:
            file.close()  # Windows renames no open file
        os.replace(file.name, path)
    finally:
        with contextlib.suppress(OSError):  # on a full disk, closing fails, too
            file.close()
        with contextlib.suppress(FileNotFoundError):  # it has its new name
            os.unlink(file.name)
    return flush_folder(folder)


def open_temporary(path):
    """Return a new file, open and locked."""
    while True:
        file = open(f"{path}.{secrets.token_hex(6)}.tmp", "xb")  # noqa: SIM115, closed by the caller
        if lock(file) is not False and os.fstat(file.fileno()).st_nlink > 0:
            return file
        file.close()  # somebody took it for a leftover before it was locked


def lock(file):
    """Lock an open file: False if somebody else has, None where there are no locks."""
    try:
        return fcntl and not fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None


def remove_leftovers(folder, name):
    """Delete what processes that were killed while they wrote this file have left."""
    for leftover in os.listdir(folder):
        if re.fullmatch(rf"{re.escape(name)}\.[0-9a-f]{{12}}\.tmp", leftover):
            leftover = os.path.join(folder, leftover)
            with contextlib.suppress(OSError), open(leftover, "rb") as file:
                if lock(file):
                    os.unlink(leftover)


def flush_folder(folder):
    """Write a folder's list of names to the disk, so that a power cut can't undo a rename."""
    try:
        if os.name == "posix":  # Windows can't open a folder
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    except OSError as error:
        return error
    return None
