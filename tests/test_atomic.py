"""A file is complete or not there at all, also on disks that can't lock or flush."""

import contextlib
import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import helper.atomic
from helper.atomic import FolderNotFlushed, atomic_file
from helper.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from helper.history import History

pytest_plugins = "tests.support.saved_run"
ROOT = Path(__file__).parents[1]
LEFTOVER = "file.0123456789ab.tmp"


@pytest.fixture
def file(tmp_path):
    """A path at which there is a file already."""
    path = tmp_path / "folder" / "file"
    write(path, b"old")
    return path


def write(path, content=b"new", fail_with=None):
    with atomic_file(path) as file:
        file.write(content)
        if fail_with is not None:
            raise fail_with


def names(path):
    return sorted(os.listdir(path.parent))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_the_old_file(file, error):
    for path in (file, file.with_name("another")):
        with pytest.raises(error):
            write(path, b"half", fail_with=error)
    assert file.read_bytes() == b"old"
    assert names(file) == ["file"]


def test_the_old_file_is_there_until_the_new_one_is_complete_and_is_never_written_to(file):
    os.link(file, file.with_name("link"))
    with atomic_file(file) as new:
        new.write(b"new")
        assert file.read_bytes() == b"old"
        assert len(names(file)) == 3
    assert file.read_bytes() == b"new"
    assert file.with_name("link").read_bytes() == b"old"
    assert names(file) == ["file", "link"]


@pytest.mark.skipif(os.name != "posix", reason="Windows has other modes and links")
def test_links_and_modes_are_kept(file, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(file)
    file.chmod(0o600)
    write(link)
    assert link.is_symlink()
    assert file.read_bytes() == b"new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    write(tmp_path / "new")
    (tmp_path / "plain").touch()
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert sorted(os.listdir(tmp_path)) == ["folder", "link", "new", "plain"]


def test_threads_that_write_the_same_path(file):
    contents, errors = [bytes([number]) * 100_000 for number in range(4)], []

    def keep_writing(content):
        try:
            for _ in range(20):
                write(file, content)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=keep_writing, args=[content]) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert file.read_bytes() in contents
    assert names(file) == ["file"]


# ---- Leftovers, and the locks that tell them from the files of living writers ----

fcntl = helper.atomic.fcntl
local_locks = getattr(fcntl, "flock", None)
needs_locks = pytest.mark.skipif(fcntl is None, reason="Windows deletes no open file")


def locks_of_nfs(file, operation):
    """An exclusive lock needs a file that is open for writing."""
    mode = fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE
    if operation & fcntl.LOCK_EX and mode == os.O_RDONLY:
        raise OSError(errno.EBADF, "Bad file descriptor")
    return local_locks(file, operation)


def no_locks(file, operation):
    raise OSError(errno.ENOLCK, "No locks available")


@needs_locks
@pytest.mark.parametrize("flock", [local_locks, locks_of_nfs])
def test_leftovers_of_killed_writers_go_and_files_of_others_stay(file, flock, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", flock)
    stay = ["another.0123456789ab.tmp", "file", "file.0123456789AB.tmp", "file.notes.tmp"]
    for name in (LEFTOVER, *stay, "file.ffffffffffff.tmp"):
        file.with_name(name).write_bytes(b"half")
    write(file)
    assert names(file) == sorted(stay)
    assert file.read_bytes() == b"new"


@needs_locks
@pytest.mark.parametrize("flock", [local_locks, locks_of_nfs])
def test_the_file_of_a_living_writer_is_no_leftover(file, flock, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", flock)
    with atomic_file(file) as first:
        write(file, b"second")
        assert os.path.exists(first.name)
        assert file.read_bytes() == b"second"
        first.write(b"first")
    assert file.read_bytes() == b"first"
    assert names(file) == ["file"]


@needs_locks
def test_where_there_are_no_locks_everything_is_written_and_nothing_is_deleted(file, monkeypatch):
    file.with_name(LEFTOVER).write_bytes(b"half")
    monkeypatch.setattr(fcntl, "flock", no_locks)
    with atomic_file(file) as first:
        write(file, b"second")
        first.write(b"first")
    assert file.read_bytes() == b"first"
    monkeypatch.setattr(helper.atomic, "fcntl", None)  # Windows
    write(file)
    assert file.read_bytes() == b"new"
    assert names(file) == ["file", LEFTOVER]


@needs_locks
@pytest.mark.parametrize("end", ["finished", "killed"])
def test_a_child_that_was_forked_while_its_parent_wrote(file, end):
    """It has the locked file open for as long as it lives, as a worker of a DataLoader does."""
    program = ROOT / "tests" / "support" / "programs" / "fork_while_writing.py"
    writer = subprocess.Popen(
        [sys.executable, "-B", program, file, end],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
    )
    with writer:
        writer.wait()
        if end == "finished":
            assert file.read_bytes() == b"new"
            with open(file, "r+b") as finished:  # nobody else has a lock on it
                fcntl.flock(finished, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            assert len(names(file)) == 2
            write(file, b"newer")
            assert len(names(file)) == 2, "the writer may live still, for all that the lock says"
        writer.stdin.close()
    wait_for_lock(file)
    write(file)
    assert file.read_bytes() == b"new"
    assert names(file) == ["file"]


def wait_for_lock(path):
    """Wait until nobody holds a lock on one of the temporary files of `path`."""
    for name in names(path):
        with open(path.with_name(name), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)


def test_a_file_that_is_taken_for_a_leftover_before_it_is_locked(file, monkeypatch):
    """Between its creation and its lock, a different process may see it and take it away."""
    lock = helper.atomic.lock

    def steal(new):
        monkeypatch.setattr(helper.atomic, "lock", lock)
        os.unlink(new.name)
        return lock(new)

    monkeypatch.setattr(helper.atomic, "remove_leftovers", lambda *_: None)
    monkeypatch.setattr(helper.atomic, "lock", steal)
    write(file)
    assert file.read_bytes() == b"new"
    assert names(file) == ["file"]


# ---- Disks that can't flush, are broken or are full ----


@contextlib.contextmanager
def flushing_fails(monkeypatch, is_this, number):
    """Let flushing fail with an error number where `is_this` (S_ISDIR, S_ISREG) says so."""
    calls, fsync = [], os.fsync

    def fail(descriptor):
        if is_this(os.fstat(descriptor).st_mode):
            calls.append(descriptor)
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        yield
    assert len(calls) == 1


CANNOT = [errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS]
BROKEN = [errno.EIO, errno.ENOSPC, errno.EDQUOT]


@pytest.mark.parametrize("number", CANNOT + BROKEN, ids=errno.errorcode.get)
@pytest.mark.skipif(os.name != "posix", reason="Windows flushes no folder")
def test_flushing_a_folder(run, path, monkeypatch, number):
    """A disk that can't is no news; one that fails is, though the new file is complete."""
    context, message = contextlib.nullcontext(), "is saved and complete, but its folder could not"
    if number in BROKEN:
        context = pytest.raises(CheckpointError, match=f"{message}.*{os.strerror(number)}")
    with flushing_fails(monkeypatch, stat.S_ISDIR, number), context:
        save_checkpoint(path, *run, History())
    assert load_checkpoint(path, *run) == History()
    assert os.listdir(path.parent) == ["run.pt"]
    with flushing_fails(monkeypatch, stat.S_ISDIR, errno.EIO), pytest.raises(FolderNotFlushed):
        write(path)


@pytest.mark.parametrize("number", CANNOT + BROKEN, ids=errno.errorcode.get)
def test_flushing_a_file(run, path, monkeypatch, number):
    before, context = path.read_bytes(), contextlib.nullcontext()
    if number in BROKEN:
        message = f"could not be saved and is unchanged: .*{os.strerror(number)}"
        context = pytest.raises(CheckpointError, match=message)
    with flushing_fails(monkeypatch, stat.S_ISREG, number), context:
        save_checkpoint(path, *run, History())
    assert (path.read_bytes() == before) == (number in BROKEN)
    assert os.listdir(path.parent) == ["run.pt"]


def test_a_folder_that_cannot_be_opened_is_not_flushed(file, monkeypatch):
    """It may be written to, but not listed. Root may list all, so the system's answer is given."""

    def refuse(path, flags):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(helper.atomic.os, "open", refuse)
    write(file)
    monkeypatch.undo()
    assert file.read_bytes() == b"new"
