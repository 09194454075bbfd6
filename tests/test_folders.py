"""The folders of sharded checkpoints: names, damage, and which of them are kept.

A single process saves them here, without a process group: it takes a tenth of a second.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from helper import folders
from helper.distributed import wait_for_save
from tests.support import many

pytestmark = [many.needs_fully_shard, pytest.mark.slow]


def names(folder):
    wait_for_save()
    return sorted(path.name for path in folder.iterdir())


# Which are kept


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("keep", "left"), [(1, [3]), (2, [2, 3]), (np.int64(2), [2, 3]), (5, [1, 2, 3])]
)
def test_the_newest_are_kept(run_folder, keep, left):
    run = many.Run()
    for batch in (1, 2, 3):
        run.train(batch).save("run", keep=keep)
    assert names(run_folder) == [f"checkpoint-00000{number}" for number in left]


def test_keep_must_be_a_number(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for keep in (0, True, "2", None):
        with pytest.raises(many.CheckpointError, match="keep must be a positive integer"):
            many.Run().save("run", keep=keep)
    assert names(tmp_path) == []


def test_after_a_fallback_only_complete_ones_count(run_folder, capsys):
    run = many.Run()
    for batch in (1, 2):
        run.train(batch).save("run")
    wait_for_save()
    flip_a_bit(run_folder / "checkpoint-000002" / "run.pt")
    again = many.Run().load("run")
    assert again.history.batch == 1
    assert names(run_folder) == ["checkpoint-000001", "checkpoint-000002.broken"]
    assert capsys.readouterr().out == (
        "run/checkpoint-000002 is broken (run.pt is not what was saved). "
        "It's skipped and renamed to checkpoint-000002.broken.\n"
    )
    again.train(2).save("run")
    left = ["checkpoint-000001", "checkpoint-000002", "checkpoint-000002.broken"]
    assert names(run_folder) == left  # two complete ones: the one that was loaded, and a newer one
    again.train(3).save("run")
    assert names(run_folder) == [*left[1:], "checkpoint-000003"]

    flip_a_bit(run_folder / "checkpoint-000002" / "run.pt")
    many.Run().load("run", step=3)
    assert names(run_folder) == [*left[1:], "checkpoint-000003"]
    with pytest.raises(many.CheckpointError, match="no complete checkpoint of step 2 in it; ch"):
        many.Run().load("run", step=2)
    assert names(run_folder)[:2] == ["checkpoint-000002.broken", "checkpoint-000002.broken2"]


def test_with_keep_1_the_loaded_one_stays_until_a_newer_one_is_complete(run_folder, monkeypatch):
    run = many.Run()
    for batch in (1, 2):
        run.train(batch).save("run", keep=2)
    wait_for_save()
    cut(run_folder / "checkpoint-000002" / "run.pt")
    again = many.Run().load("run").train(2)
    with monkeypatch.context() as context:
        context.setattr(json, "dump", many.fail)
        with pytest.raises(many.CheckpointError, match="the disk is gone"):
            again.save("run", keep=1)
    assert names(run_folder) == ["checkpoint-000001", "checkpoint-000002.broken"]
    again.save("run", keep=1)
    assert names(run_folder) == ["checkpoint-000002", "checkpoint-000002.broken"]


def test_a_given_step_is_loaded_and_what_came_later_is_kept_aside(run_folder, capsys):
    run, hashes = many.Run(), {}
    for batch in (1, 2, 3):
        run.train(batch).save("run", keep=3)
        hashes[batch] = run.sha256()
    for batch in (1, 3, 2):
        assert many.Run().load("run", step=batch).sha256() == hashes[batch]
    with pytest.raises(many.CheckpointError, match="no complete checkpoint of step 9 in it"):
        many.Run().load("run", step=9)

    other = many.Run().load("run", step=1)
    other.history.seed = 7
    other.train(2).save("run")
    assert names(run_folder) == [
        "checkpoint-000001",
        "checkpoint-000002",
        "checkpoint-000003.later",
    ]
    assert (
        "checkpoint-000003 is later than what is saved now: renamed to" in capsys.readouterr().out
    )
    assert many.Run().load("run").sha256() == other.sha256() != hashes[2]


@pytest.mark.parametrize(
    ("left", "holds"),
    [
        ([], False),
        (["checkpoint-000003.tmp", "checkpoint-000001.deleted.tmp", "notes"], False),
        (["checkpoint-000003"], True),
        (["checkpoint-000003.broken", "checkpoint-000004.tmp"], True),
        (["checkpoint-000003.later"], True),
    ],
)
def test_a_folder_whose_checkpoints_are_broken_still_holds_a_run(tmp_path, left, holds):
    for name in left:
        (tmp_path / name).mkdir()
    assert folders.holds_a_run(tmp_path) == holds


def test_steps_are_sorted_as_numbers(tmp_path):
    in_order = ["checkpoint-000002", "checkpoint-000010.previous", "checkpoint-000010"]
    in_order += ["checkpoint-999999", "checkpoint-1000000"]
    others = ["checkpoint-000011.tmp", "checkpoint-000012.broken2", "checkpoint-000013.later"]
    for name in [*in_order, *others, "checkpoint-13", "notes-000014"]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").touch()
    assert [path.name for path in folders.list_checkpoints(tmp_path)] == in_order
    folders.delete_old(tmp_path, keep=2)
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(
        [*in_order[-2:], *others, "checkpoint-13", "notes-000014"]
    )


# Saved twice at the same step


def test_a_second_save_at_the_same_step_replaces_the_first(run_folder):
    run = many.Run().train(1).save("run").train(2).save("run")
    run.history.valid_acc.append(50.0)
    run.save("run")
    assert names(run_folder) == ["checkpoint-000001", "checkpoint-000002"]
    assert many.Run().load("run").history.valid_acc == [50.0]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("call", [2, 3, 4])  # the first one is that of .metadata
def test_killed_while_it_is_replaced_one_of_the_two_is_there(run_folder, monkeypatch, call, keep):
    run = many.Run().train(1).save("run").train(2).save("run")
    wait_for_save()
    run.history.valid_acc.append(50.0)
    calls = iter(range(1, 99))

    def rename(path, target):
        if next(calls) >= call:
            raise Killed  # and nothing is cleaned up: nobody catches it
        return original(path, target)

    original = Path.rename
    with monkeypatch.context() as context:
        context.setattr(Path, "rename", rename)
        context.setattr(shutil, "rmtree", lambda *_, **__: None)
        if call < 4:
            with pytest.raises(Killed):
                run.save("run", keep=keep)
        else:  # the thread that deletes old ones dies
            run.save("run", keep=keep)
            with pytest.raises(many.CheckpointError):
                wait_for_save()
    loaded = many.Run().load("run").history
    assert loaded.batch == 2
    assert loaded.valid_acc == ([50.0] if call > 3 else [])
    run.save("run", keep=keep)
    left = ["checkpoint-000001", "checkpoint-000002"][-keep:]
    assert names(run_folder) == left
    assert many.Run().load("run").history.valid_acc == [50.0]


# Damage


@pytest.fixture(scope="module")
def saved_twice(tmp_path_factory):
    """A folder with two checkpoints of two ranks, after 1 and after 2 batches."""
    folder = tmp_path_factory.mktemp("saved")
    many.run(2, many.train_and_save, folder, 1)
    many.run(2, many.train_and_save, folder, 2)
    return folder / "run"


@pytest.fixture
def folder(saved_twice, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(saved_twice, tmp_path / "run")
    return tmp_path / "run"


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


DAMAGES = {"flipped": flip_a_bit, "cut": cut, "missing": Path.unlink}
DAMAGES["empty"] = lambda path: path.write_bytes(b"")
FILES = [".metadata", "__0_0.distcp", "__1_0.distcp", "run.pt", "manifest.json"]


def test_a_checkpoint_has_these_files(folder):
    assert names(folder / "checkpoint-000002") == sorted(FILES)
    manifest = json.loads((folder / "checkpoint-000002" / "manifest.json").read_text())
    assert set(manifest) == set(FILES[:-1])


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_broken_checkpoint_is_passed_over_and_named(folder, capsys, name, damage):
    DAMAGES[damage](folder / "checkpoint-000002" / name)
    assert many.Run().load("run").history.batch == 1
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert "run/checkpoint-000002 is broken (" in printed
    if damage == "missing":
        assert f"{name} is missing" in printed
    elif name != "manifest.json":
        assert f"{name} is not what was saved" in printed

    DAMAGES[damage](folder / "checkpoint-000001" / name)
    with pytest.raises(many.CheckpointError, match="no complete checkpoint") as error:
        many.Run().load("run")
    assert "checkpoint-000001 is broken" in str(error.value)
    assert names(folder) == ["checkpoint-000001.broken", "checkpoint-000002.broken"]


@pytest.mark.parametrize("manifest", ["{}", "[]", "3"])
def test_a_manifest_that_lists_nothing_is_damage(folder, manifest):
    (folder / "checkpoint-000002" / "manifest.json").write_text(manifest)
    assert many.Run().load("run").history.batch == 1


@pytest.mark.parametrize("name", ["__0_0.distcp", "run.pt"])  # each rank looks at other files
def test_damage_that_one_rank_sees_counts_on_all(folder, name):
    flip_a_bit(folder / "checkpoint-000002" / name)
    answers = many.run(2, many.load_position, folder.parent)
    assert answers == [1, 1]
    assert names(folder) == ["checkpoint-000001", "checkpoint-000002.broken"]


def test_what_cannot_be_read_at_the_moment_is_not_called_broken(folder, monkeypatch):
    def read(*_):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as context:
        context.setattr(folders.hashlib, "file_digest", read)
        with pytest.raises(many.CheckpointError, match="nothing was changed: .*Input/output error"):
            many.Run().load("run")
    assert names(folder) == ["checkpoint-000001", "checkpoint-000002"]
    assert many.Run().load("run").history.batch == 2


def test_a_rank_that_sees_a_different_folder_says_so_and_nothing_is_renamed(folder):
    answers = many.run(2, many.load_elsewhere, folder.parent)
    for answer in answers:
        assert isinstance(answer, many.CheckpointError)
        assert "All ranks must see the same folder (rank 1)" in str(answer)
    assert names(folder) == ["checkpoint-000001", "checkpoint-000002"]


def test_no_checkpoint_is_an_error_on_every_rank(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint-000001.tmp").mkdir()
    for folder in ("run", "nothing"):
        for answer in many.run(2, many.load, tmp_path, folder):
            assert isinstance(answer, many.CheckpointError)
            assert "there is no complete checkpoint in it" in str(answer)


# Hashed while it is written


def test_the_checksums_are_those_of_the_bytes_that_were_meant(run_folder, monkeypatch):
    """A disk that changes a bit on the way is found, because the file isn't read for its hash."""

    class BadDisk(folders.HashingStream):
        def write(self, content):
            self.sha256.update(content)
            changed = bytes(content)
            if len(changed) > 40:
                changed = changed[:-1] + bytes([changed[-1] ^ 1])
            return self.file.write(changed)

    run = many.Run().train(1).save("run").train(2)
    with monkeypatch.context() as context:
        context.setattr(folders, "HashingStream", BadDisk)
        run.save("run")
    assert many.Run().load("run").history.batch == 1
    assert names(run_folder) == ["checkpoint-000001", "checkpoint-000002.broken"]
