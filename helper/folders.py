"""The folders of sharded checkpoints: complete, or recognizably not.

    checkpoint-000040            complete: the run after 40 steps
    checkpoint-000040.tmp        being written or deleted, or left by a process that was killed
    checkpoint-000040.previous   complete too; a newer save at the same step is about to replace it
    checkpoint-000040.broken     a file in it is damaged or missing
    checkpoint-000040.later      complete, but the run has been continued from an earlier step

The last two are kept until you delete them. Nothing counts or loads them.
"""

import contextlib
import hashlib
import json
import re
import shutil
from pathlib import Path

from torch.distributed.checkpoint.filesystem import FileSystem

from helper.atomic import flush, flush_folder

MANIFEST = "manifest.json"  # the SHA-256 of every other file in a folder


# ---- Which folders there are ----


def list_checkpoints(parent: Path) -> list[Path]:
    """Return the folders that count as checkpoints, the oldest first."""
    paths = [path for path in parent.glob("checkpoint-*") if sort_key(path) is not None]
    return sorted(paths, key=sort_key)


def holds_a_run(parent: Path) -> bool:
    """Return whether a run was ever saved in a folder, even if what is left of it is broken."""
    return any(path.suffix != ".tmp" for path in parent.glob("checkpoint-*"))


def sort_key(path: Path) -> tuple[int, bool] | None:
    """Return the step in the name of a checkpoint and whether it is the newest of that step.

    Returns None for any other name.
    """
    found = re.fullmatch(r"checkpoint-(\d{6,})(\.previous)?", path.name)
    return (int(found[1]), found[2] is None) if found else None


def step_of(path: Path) -> int:
    """Return after how many steps a checkpoint was saved."""
    return sort_key(path)[0]


def name_of(step: int) -> str:
    """Return the name of the checkpoint of a step."""
    return f"checkpoint-{step:06d}"


def rename_to_free(path: Path, suffix: str) -> Path:
    """Add a suffix to the name of a folder, and a number if that name is taken."""
    names = (path.name + suffix + number for number in ("", *map(str, range(2, 1_000_000))))
    free = next(path.with_name(name) for name in names if not path.with_name(name).exists())
    return path.rename(free)


# ---- Writing one ----


def begin_folder(parent: Path, step: int) -> Path:
    """Create the folder of a new checkpoint, under a temporary name.

    Deletes what killed processes have left.
    """
    for leftover in parent.glob("checkpoint-*.tmp"):
        shutil.rmtree(leftover)
    path = parent / f"{name_of(step)}.tmp"
    path.mkdir(parents=True)
    return path


class HashingFileSystem(FileSystem):
    """The files that dcp writes in one folder. Each is hashed on its way to the disk."""

    def __init__(self):
        super().__init__()
        self.streams: dict[str, HashingStream] = {}  # by the name of the file

    @contextlib.contextmanager
    def create_stream(self, path, mode):
        with super().create_stream(path, mode) as file:
            self.streams[Path(path).name] = stream = HashingStream(file)
            yield stream

    def rename(self, path, new_path):
        super().rename(path, new_path)
        self.streams[Path(new_path).name] = self.streams.pop(Path(path).name)

    def checksums(self) -> dict[str, str]:
        """Return the SHA-256 of what was written to each file, by its name."""
        return {name: stream.sha256.hexdigest() for name, stream in self.streams.items()}


class HashingStream:
    """An open file that is written from its first byte to its last, and hashed as it is written."""

    def __init__(self, file):
        self.file = file
        self.sha256 = hashlib.sha256()

    def write(self, content) -> int:
        self.sha256.update(content)
        return self.file.write(content)

    def __getattr__(self, name):  # it is closed, flushed and so on like the file, but can't go back
        if name in ("seek", "truncate", "writelines"):
            raise AttributeError(f"a file that is hashed while it is written has no {name}")
        return getattr(self.file, name)


def commit_folder(path: Path, checksums: dict[str, str]) -> None:
    """Write the manifest, and give a folder its name: from then on, it is a complete checkpoint.

    Checkpoints of later steps are renamed first: the run has been continued from before them, so
    the newest is this one.
    """
    with open(path / MANIFEST, "x") as file:
        json.dump(checksums, file, indent=1)
        file.flush()
        flush(file.fileno())
    flush_folder(path)
    final = path.with_suffix("")
    for other in list_checkpoints(path.parent):
        if step_of(other) > step_of(final):
            later = rename_to_free(other, ".later")
            print(f"{other} is later than what is saved now: renamed to {later.name}", flush=True)
    if final.exists():
        # A folder can't replace another one in a single step. Between the two renames, the
        # previous checkpoint counts.
        previous = final.with_name(f"{final.name}.previous")
        if previous.exists():
            delete_folder(previous)
        final.rename(previous)
    path.rename(final)
    flush_folder(path.parent)


def identity_of(path: Path) -> tuple[int, int] | None:
    """Return what tells a folder from all others, whatever its name, or None if it isn't there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def is_committed(path: Path, identity: tuple[int, int] | None) -> bool:
    """Return whether the folder that was begun as `path` is complete under its final name.

    `identity` is what `identity_of(path)` was then: a rename doesn't change it, and a previous
    checkpoint of the same step has a different one.
    """
    return identity is not None and identity_of(path.with_suffix("")) == identity


def delete_old(parent: Path, keep: int) -> None:
    """Delete all but the newest `keep` complete checkpoints, as far as the disk allows.

    What has a manifest counts as complete: reading all files again would take too long.
    """
    complete = [path for path in list_checkpoints(parent) if (path / MANIFEST).exists()]
    newest_of_step = {step_of(path): path for path in complete}
    for path in complete:
        if path not in [*newest_of_step.values()][-keep:]:
            with contextlib.suppress(OSError):  # the next save tries again
                delete_folder(path)


def delete_folder(path: Path) -> None:
    """Delete a checkpoint. Half deleted, it doesn't look like a complete one."""
    shutil.rmtree(path.rename(path.with_name(f"{path.name}.deleted.tmp")))


# ---- Verifying one ----


def read_manifest(path: Path) -> dict[str, str]:
    """Return the SHA-256 of each file in a folder, or raise a ValueError if it is damaged."""
    try:
        checksums = json.loads((path / MANIFEST).read_text())
    except FileNotFoundError:
        raise ValueError(f"{MANIFEST} is missing") from None
    except ValueError as error:
        raise ValueError(f"{MANIFEST} can't be read: {error}") from None
    if not isinstance(checksums, dict) or not checksums:
        raise ValueError(f"{MANIFEST} is empty")
    return checksums


def find_damage(path: Path, checksums: dict[str, str]) -> str | None:
    """Compare files with their checksums; return what is damaged, or None.

    Raises an OSError if the disk can't be read at the moment: that isn't damage.
    """
    for name, checksum in checksums.items():
        try:
            with open(path / name, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != checksum:
                    return f"{name} is not what was saved"
        except FileNotFoundError:
            return f"{name} is missing"
    return None


def set_broken_aside(path: Path, reason: str) -> None:
    """Rename a broken checkpoint, where that is allowed, and print why."""
    renamed = ""
    with contextlib.suppress(OSError):  # a disk that can only be read
        renamed = f" and renamed to {rename_to_free(path, '.broken').name}"
    print(f"{path} is broken ({reason}). It's skipped{renamed}.", flush=True)
