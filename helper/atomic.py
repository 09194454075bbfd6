"""Files and folders that are either complete or not there at all."""

import contextlib
import hashlib
import json
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


MANIFEST = "manifest.json"  # the SHA-256 of every other file in a folder


def numbered_folders(parent):
    """Return the folders `checkpoint-000001` and so on in a folder, the oldest first."""
    return sorted(parent.glob("checkpoint-" + 6 * "[0-9]"))


def new_folder(parent):
    """Make the next one, under a temporary name, and delete what killed processes have left."""
    for leftover in parent.glob("checkpoint-*.tmp"):
        shutil.rmtree(leftover)
    last = max((int(path.name[-6:]) for path in numbered_folders(parent)), default=0)
    path = parent / f"checkpoint-{last + 1:06d}.tmp"
    path.mkdir(parents=True)
    return path


def flush_and_hash(paths):
    """Return the SHA-256 of each file by its name, after all of it is on the disk."""
    sums = {}
    for path in paths:
        with open(path, "r+b") as file:
            os.fsync(file.fileno())
            sums[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums


def publish_folder(path, sums, keep):
    """Write the manifest, give the folder its name, and delete all but the newest `keep`."""
    with open(path / MANIFEST, "x") as file:
        json.dump(sums, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    if error := flush_folder(path):
        raise error
    path.rename(path.with_suffix(""))
    if error := flush_folder(path.parent):
        raise OSError(f"the new one is complete, but might not outlast a power cut: {error}")
    for old in numbered_folders(path.parent)[:-keep]:
        with contextlib.suppress(OSError):  # half deleted, it must not look like a complete one
            shutil.rmtree(old.rename(old.with_suffix(".tmp")))


def find_damage(path, share):
    """Compare a share of the files (a slice) with the manifest; return what is wrong, or None."""
    try:
        sums = json.loads((path / MANIFEST).read_text())
        for name in sorted(sums)[share]:
            with open(path / name, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != sums[name]:
                    return f"{name} is not what was saved"
        return None if sums else f"{MANIFEST} is empty"
    except Exception as error:
        return str(error) or type(error).__name__
