"""The folders of sharded checkpoints: complete, or recognizably not."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from helper.atomic import flush_folder

MANIFEST = "manifest.json"  # the SHA-256 of every other file in a folder


def numbered_folders(parent: Path) -> list[Path]:
    """Return the folders `checkpoint-000001` and so on in a folder, the oldest first."""
    return sorted(parent.glob("checkpoint-" + 6 * "[0-9]"))


def begin_folder(parent: Path) -> Path:
    """Create the next one, under a temporary name, and delete what killed processes have left."""
    for leftover in parent.glob("checkpoint-*.tmp"):
        shutil.rmtree(leftover)
    last = max((int(path.name[-6:]) for path in numbered_folders(parent)), default=0)
    path = parent / f"checkpoint-{last + 1:06d}.tmp"
    path.mkdir(parents=True)
    return path


def flush_and_hash(paths: Iterable[Path]) -> dict[str, str]:
    """Return the SHA-256 of each file by its name, after all of it is on the disk."""
    checksums = {}
    for path in paths:
        with open(path, "r+b") as file:
            os.fsync(file.fileno())
            checksums[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return checksums


def commit_folder(path: Path, checksums: dict[str, str], keep: int) -> None:
    """Write the manifest, give the folder its name, and delete all but the newest `keep`."""
    with open(path / MANIFEST, "x") as file:
        json.dump(checksums, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    flush_folder(path)
    path.rename(path.with_suffix(""))
    try:
        flush_folder(path.parent)
    except OSError as error:
        message = f"the new one is complete, but may be lost in a power cut: {error}"
        raise OSError(message) from error
    for old in numbered_folders(path.parent)[:-keep]:
        with contextlib.suppress(OSError):  # half deleted, it must not look like a complete one
            shutil.rmtree(old.rename(old.with_suffix(".tmp")))


def find_damage(path: Path, part: slice) -> str | None:
    """Compare a part of the files with the manifest; return what is wrong, or None."""
    try:
        checksums = json.loads((path / MANIFEST).read_text())
        for name in sorted(checksums)[part]:
            with open(path / name, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != checksums[name]:
                    return f"{name} is not what was saved"
        return None if checksums else f"{MANIFEST} is empty"
    except Exception as error:
        return str(error) or type(error).__name__
