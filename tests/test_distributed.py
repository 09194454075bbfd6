"""Runs over many processes: real ones, really killed, none of which may hang for a minute."""

import json
import resource
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support import many

pytestmark = [many.needs_fully_shard, pytest.mark.slow]


def one_answer(answers):
    """Return what all ranks answered, if they answered the same."""
    assert all(answer == answers[0] for answer in answers)
    return answers[0]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# Exactness


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_continued_run_is_the_uninterrupted_one_on_every_rank(tmp_path, size, optimizer):
    # The buffers of BatchNorm differ between ranks, so each rank has a hash of its own.
    saved = many.run(size, many.train_and_save, tmp_path, 3, "run", optimizer)
    assert many.run(size, many.load, tmp_path, "run", optimizer) == saved
    uninterrupted = many.run(size, many.train_without_interruption, tmp_path, optimizer)
    assert many.run(size, many.load_and_train, tmp_path, "run", optimizer) == [
        (3, sha256) for sha256 in uninterrupted
    ]
    assert len(set(uninterrupted)) == size


@pytest.mark.parametrize(("saved_by", "loaded_by"), [(1, 3), (2, 1), (2, 4), (4, 2), (3, 2)])
def test_any_number_of_ranks_loads_the_same_tensors(tmp_path, saved_by, loaded_by):
    saved = many.run(saved_by, many.train_and_save, tmp_path, 3)
    assert one_answer(many.run(loaded_by, many.load, tmp_path)) == saved[0]


def test_a_process_without_a_group_saves_and_loads_as_one_rank(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sha256 = many.Run().train(3).save("run").sha256()
    assert one_answer(many.run(2, many.load, tmp_path)) == sha256
    many.run(2, many.train_and_save, tmp_path, 4)
    two = many.run(2, many.load, tmp_path)
    assert many.Run().load("run").sha256() == two[0] != sha256


def test_on_a_different_number_of_ranks_a_run_continues_with_different_rounding_only(tmp_path):
    many.run(2, many.train_alike, tmp_path, 3)
    two, four = (many.run(size, many.train_alike, tmp_path, many.BATCHES)[0] for size in (2, 4))
    assert two != four
    for name, values in two.items():
        torch.testing.assert_close(torch.tensor(values), torch.tensor(four[name]))


def test_saving_leaves_the_run_as_it_is(tmp_path):
    uninterrupted = many.run(2, many.train_without_interruption, tmp_path)
    assert many.run(2, many.save_in_between, tmp_path) == uninterrupted
    assert many.run(2, many.load_and_train, tmp_path) == [(3, sha256) for sha256 in uninterrupted]


def test_parts_may_be_omitted(tmp_path):
    answers = many.run(2, many.load_the_model_alone, tmp_path)
    same, not_loaded, states = one_answer(answers)
    assert same
    assert not_loaded == ("optimizer", "scheduler")
    assert states == 0


# Complete or not there


@pytest.mark.parametrize(
    ("keep", "left"), [(1, [3]), (2, [2, 3]), (np.int64(2), [2, 3]), (5, [1, 2, 3])]
)
def test_the_newest_are_kept(tmp_path, monkeypatch, keep, left):
    monkeypatch.chdir(tmp_path)
    run = many.Run()
    for batch in (1, 2, 3):
        run.train(batch).save("run", keep=keep)
    assert names(tmp_path / "run") == [f"checkpoint-00000{number}" for number in left]


# What one of two ranks calls in its third save: gloo (through `all_gather` and dcp), then the disk.
MOMENTS = [
    *[(call % 2, "helper.distributed.all_gather", call) for call in range(1, 10)],
    *[(1, f"torch.distributed.{name}", 1) for name in ("gather_object", "scatter_object_list")],
    *[(0, f"torch.distributed.{name}", 1) for name in ("gather_object", "broadcast_object_list")],
    (1, "torch.distributed.checkpoint.FileSystemWriter.write_data", 1),
    *[(0, "os.fsync", call) for call in range(1, 9)],
    *[(1, "os.fsync", call) for call in (1, 2)],
    (0, "pathlib.Path.mkdir", 1),
    *[(0, "pathlib.Path.rename", call) for call in (1, 2)],
    (0, "shutil.rmtree", 1),
]


@pytest.mark.parametrize(("rank", "name", "call"), MOMENTS)
def test_a_rank_that_dies_while_saving_leaves_a_complete_checkpoint(
    tmp_path, monkeypatch, rank, name, call
):
    monkeypatch.chdir(tmp_path)
    answers = many.run(2, many.die_in_the_third_save, tmp_path, rank, name, call, killed=[rank])
    assert isinstance(answers[1 - rank], many.CheckpointError)
    assert str(answers[1 - rank]).startswith("Saving in run failed")
    run = many.Run().load("run")
    assert run.history.batch in (2, 3)
    assert run.sha256() == (tmp_path / f"sha256-{run.history.batch}").read_text()
    run.save("run")
    left = names(tmp_path / "run")
    assert [name for name in left if name.endswith(".tmp")] == []
    assert len(left) == 2


# A full disk, and other reasons not to save


@pytest.mark.parametrize("rank", [0, 1])
def test_a_full_disk_is_an_error_on_every_rank(tmp_path, rank):
    # The tensors of a rank take more than 3,000 bytes.
    answers = many.run(2, many.save_where_there_is_no_room, tmp_path, rank, 3000)
    message, left, as_before = one_answer(answers)
    assert f"File too large (rank {rank})" in message
    assert left == ["checkpoint-000001"]
    assert as_before


def test_the_error_is_the_disks_own(tmp_path):
    """A tensor larger than a file's buffer fails inside torch.save, which says something else."""
    model = torch.nn.Linear(1000, 100)
    run = model, torch.optim.SGD(model.parameters(), lr=0.1), None, many.History()
    everything = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, everything[1]))
    try:
        with pytest.raises(many.CheckpointError, match="File too large"):
            many.save_sharded(tmp_path, *run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, everything)
    many.save_sharded(tmp_path, *run)
    assert many.load_sharded(tmp_path, *run[:2]) == many.History()


REFUSED = {
    "not finite": (many.not_finite, "is not finite"),
    "a different model": (many.optimizer_of_a_different_model, "belongs to a different model"),
    "a state that could not be loaded": (
        many.state_that_cannot_be_loaded,
        "a state holds builtins.object",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_should_not_be_saved_on_one_rank_is_refused_on_all(tmp_path, what):
    change, message = REFUSED[what]
    answers = many.run(2, many.refuse_to_save, tmp_path, change, 0)
    said, left = one_answer(answers)
    assert message in said
    assert left == []


def test_keep_must_be_a_number(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for keep in (0, True, "2", None):
        with pytest.raises(many.CheckpointError, match="keep must be a positive integer"):
            many.Run().save("run", keep=keep)
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_deferred_until_the_checkpoint_is_complete(tmp_path, number):
    assert many.run(2, many.save_under_a_signal, tmp_path, number) == [[1], [1]]


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
    assert set(json.loads((folder / "checkpoint-000002" / "manifest.json").read_text())) == set(
        FILES[:-1]
    )


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_broken_checkpoint_is_passed_over_and_named(folder, capsys, name, damage):
    DAMAGES[damage](folder / "checkpoint-000002" / name)
    assert many.Run().load("run").history.batch == 1
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert "run/checkpoint-000002 is passed over, because it is broken: " in printed
    if damage != "missing" and name != "manifest.json":
        assert f"{name} is not what was saved" in printed

    DAMAGES[damage](folder / "checkpoint-000001" / name)
    with pytest.raises(many.CheckpointError, match="no complete checkpoint") as error:
        many.Run().load("run")
    assert "checkpoint-000001 is broken" in str(error.value)
    assert "checkpoint-000002 is broken" in str(error.value)


def test_a_manifest_that_lists_nothing_is_damage(folder):
    (folder / "checkpoint-000002" / "manifest.json").write_text("{}")
    assert many.Run().load("run").history.batch == 1


@pytest.mark.parametrize("name", ["__0_0.distcp", "run.pt"])  # each rank looks at other files
def test_damage_that_one_rank_sees_counts_on_all(folder, name):
    flip_a_bit(folder / "checkpoint-000002" / name)
    answers = many.run(2, many.load_and_train, folder.parent)
    assert [batch for batch, _ in answers] == [1, 1]


def test_no_checkpoint_is_an_error_on_every_rank(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint-000001.tmp").mkdir()
    for folder in ("run", "nothing"):
        for answer in many.run(2, many.load, tmp_path, folder):
            assert isinstance(answer, many.CheckpointError)
            assert "there is no complete checkpoint in it" in str(answer)


# What does not fit


UNFIT = {
    "a different optimizer": (many.different_optimizer, "belongs to a different optimizer"),
    "a different scheduler": (many.different_scheduler, "belongs to a different scheduler"),
    "a hook that fails": (many.hook_that_fails, "no room for this state"),
    "a copy that fails": (many.copy_that_fails, "no room for a copy"),
}


@pytest.mark.parametrize("rank", [None, 1])
@pytest.mark.parametrize("what", UNFIT)
def test_what_does_not_fit_on_one_rank_changes_nothing_on_any(tmp_path, what, rank):
    change, message = UNFIT[what]
    said, unchanged = one_answer(many.run(2, many.refuse, tmp_path, change, rank))
    assert message in said
    assert said.startswith("Loading from run failed, and nothing was changed")
    assert unchanged
