"""Runs over many processes: real ones, really killed, none of which may hang for a minute."""

import resource
import signal

import pytest
import torch

from tests.support import kinds, many

pytestmark = [many.needs_fully_shard, pytest.mark.slow]


def one_answer(answers):
    """Return what all ranks answered, if they answered the same."""
    assert all(answer == answers[0] for answer in answers)
    return answers[0]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# Exactness


@pytest.mark.parametrize(
    ("size", "optimizer"),
    [pytest.param(2, torch.optim.SGD, marks=pytest.mark.kills), (3, torch.optim.AdamW)],
)
def test_a_continued_run_is_the_uninterrupted_one_on_every_rank(tmp_path, size, optimizer):
    # The buffers of BatchNorm differ between ranks, so each rank has a hash of its own.
    saved = many.run(size, many.train_save_and_train, tmp_path, 3, optimizer)
    assert many.run(size, many.load_and_train, tmp_path, optimizer) == saved
    assert len({sha256 for pair in saved for sha256 in pair}) == 2 * size


def test_any_number_of_ranks_loads_the_same_tensors(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved = {}
    for size in (3, 1):
        saved[f"by {size}"] = many.run(size, many.train_and_save, tmp_path, 3, f"by {size}")[0]
    for size in (1, 2, 4):
        loaded = many.run(size, many.load_each, tmp_path, [*saved])
        of_rank_0 = loaded[0]
        if size != 4:
            assert one_answer(loaded) == [*saved.values()]
        assert of_rank_0 == [*saved.values()]
    assert [many.Run().load(folder).sha256() for folder in saved] == [*saved.values()]


def test_a_process_without_a_group_saves_as_one_rank(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sha256 = many.Run().train(3).save("run").sha256()
    assert one_answer(many.run(2, many.load, tmp_path)) == sha256


def test_on_a_different_number_of_ranks_a_run_continues_with_different_rounding_only(tmp_path):
    many.run(2, many.train_alike, tmp_path, 3)
    two, four = (many.run(size, many.train_alike, tmp_path, many.BATCHES)[0] for size in (2, 4))
    assert two != four
    for name, values in two.items():
        torch.testing.assert_close(torch.tensor(values), torch.tensor(four[name]))


def test_saving_leaves_the_run_as_it_is(tmp_path):
    task, first, again = one_answer_each(
        many.run(
            2,
            many.several,
            tmp_path,
            (many.train_without_interruption,),
            (many.save_in_between,),
            (many.save_before_the_first_step,),
        )
    )
    assert task == first
    for hooks, is_same, left in again:
        assert hooks == []
        assert is_same
        assert left == ["checkpoint-000000"]


def one_answer_each(answers):
    """Return the answers of all ranks to each of several tasks."""
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return zip(*answers, strict=True)


def test_parts_may_be_omitted_and_curves_are_those_of_rank_0(tmp_path):
    tasks = (many.load_the_model_alone,), (many.losses_of_its_own,)
    alone, losses = one_answer_each(many.run(2, many.several, tmp_path, *tasks))
    assert one_answer(alone) == (True, ("optimizer", "scheduler"), 0)
    (first, loaded_by_first), (second, loaded_by_second) = losses
    assert loaded_by_first == loaded_by_second == first == second - 1


# Ways to spread a model

KINDS = {
    "FSDP2": (kinds.fsdp,),
    "HSDP": (kinds.hsdp,),
    "tensor parallel": (kinds.tensor_parallel,),
    "tensor parallel and FSDP2": (kinds.tensor_parallel_and_fsdp,),
    "copies": (kinds.copies,),
    "stages of a pipeline, and FSDP2": (kinds.stages,),
    "stages of a pipeline, copied": (kinds.copied_stages,),
    "a state in the shape of rows": (kinds.fsdp, kinds.WithRows),
    "FSDP2 and others": (kinds.fsdp, torch.optim.AdamW, True),
    "stages and others": (kinds.stages, torch.optim.AdamW, True),
    "stages and others, in the background": (kinds.stages, torch.optim.AdamW, True, False),
}


@pytest.fixture(scope="module")
def continued(tmp_path_factory):
    """What each rank has after saving, loading and training, for each kind."""
    tasks = [(kinds.save_and_continue, *arguments) for arguments in KINDS.values()]
    answers = many.run(4, many.several, tmp_path_factory.mktemp("kinds"), *tasks)
    return dict(zip(KINDS, one_answer_each(answers), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_run_continues_exactly(continued, kind):
    for before, saved, loaded, trained, continued_and_trained in continued[kind]:
        assert before == saved == loaded
        assert trained == continued_and_trained != saved


def test_every_kind_loads_what_every_other_has_saved(tmp_path):
    makes = [kinds.fsdp, kinds.tensor_parallel_and_fsdp, kinds.stages, kinds.copied_stages]
    for differing in one_answer(many.run(4, kinds.load_each_from_each, tmp_path, makes)):
        assert differing == []


REFUSED_KINDS = {
    "stages with equal names": (kinds.stages_with_equal_names, "model.same.0.weight from [0, 0]"),
    "experts": (kinds.experts, "model.second.0.weight differs between ranks"),
    "experts of two shapes": (kinds.experts_of_two_shapes, "model.second.0.weight is float32 (7"),
}
REFUSED = {
    "a rate": (many.different_rate, "optimizer.param_groups.0.lr is "),
    "a schedule": (many.different_schedule, "scheduler.last_epoch is 3 on rank 1 and 2 on an"),
    "a group": (many.one_more_group, "optimizer.param_groups is [{"),
    "a step": (many.different_step, "history.minibatch_loss is 1 on rank 1 and 2 on an earlier"),
    "a state": (
        many.step_of_a_different_parameter,
        "optimizer.state.normalize.weight.step d",
    ),
    "not finite": (many.not_finite, "first.weight is not finite"),
    "a different model": (many.optimizer_of_a_different_model, "belongs to a different model"),
    "an object": (many.state_that_cannot_be_loaded, "a state holds builtins.object"),
}


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """What the ranks say when they are asked to save what differs."""
    tasks = [(kinds.save_what_is_refused, make) for make, _ in REFUSED_KINDS.values()]
    of_kinds = many.run(4, many.several, tmp_path_factory.mktemp("kinds"), *tasks)
    tasks = [(many.refuse_to_save, change, 1) for change, _ in REFUSED.values()]
    of_runs = many.run(2, many.several, tmp_path_factory.mktemp("runs"), *tasks)
    answers = [*one_answer_each(of_kinds), *one_answer_each(of_runs)]
    return dict(zip([*REFUSED_KINDS, *REFUSED], answers, strict=True))


@pytest.mark.parametrize("what", [*REFUSED_KINDS, *REFUSED])
def test_what_loading_could_only_get_wrong_is_refused_on_all_ranks_when_it_is_saved(refused, what):
    said, left = one_answer(refused[what])
    assert said.startswith("Saving in run failed, and the checkpoints before are as they were: ")
    assert {**REFUSED_KINDS, **REFUSED}[what][1] in said
    assert left == []


def test_what_to_do_is_said(refused):
    for what in REFUSED_KINDS:
        assert "give them different names, those of the whole model" in refused[what][0][0]
    for what in ("a rate", "a schedule"):
        assert "the same groups in the same order (a group may be empty)" in refused[what][0][0]
    assert "All ranks must save the same run at the same step" in refused["a step"][0][0]


# Complete or not there, whenever a rank dies

GLOO = ("all_reduce", "gather_object", "broadcast_object_list", "scatter_object_list")
WRITE = "helper.folders.HashingStream.write"
CALLS = {  # of rank 0 and of rank 1 in a save
    **{f"torch.distributed.{name}": (n, n) for name, n in zip(GLOO, (11, 3, 5, 1), strict=True)},
    "os.fsync": (6, 1),
    "pathlib.Path.mkdir": (2, 1),
    "pathlib.Path.rename": (3, 0),
    "shutil.rmtree": (1, 0),
    "json.dump": (1, 0),
}
ALL = [
    (rank, name, call)
    for name, counts in CALLS.items()
    for rank, count in enumerate(counts)
    for call in range(1, count + 1)
]
ALL += [(rank, WRITE, call) for rank in (0, 1) for call in (1, 100, 500)]
FEW = [
    (0, "torch.distributed.all_reduce", 4),
    (1, "torch.distributed.broadcast_object_list", 5),
    (0, WRITE, 500),
    (1, WRITE, 100),
    (1, "os.fsync", 1),
    (0, "os.fsync", 4),
    (0, "pathlib.Path.rename", 2),
    (0, "pathlib.Path.rename", 3),
    (0, "json.dump", 1),
    (0, "shutil.rmtree", 1),
]


@pytest.mark.parametrize("wait", [True, False])
def test_these_are_all_the_moments(tmp_path, wait):
    counted = many.run(2, many.count_calls, tmp_path, [*CALLS, WRITE], wait)
    assert min(counts.pop(WRITE) for counts in counted) > 500
    assert {name: tuple(counts[name] for counts in counted) for name in CALLS} == CALLS
    assert {*FEW} < {*ALL}


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize(
    ("rank", "name", "call"),
    [each if each in FEW else pytest.param(*each, marks=pytest.mark.kills) for each in ALL],
)
def test_a_rank_that_dies_while_saving_leaves_a_complete_checkpoint(
    tmp_path, monkeypatch, rank, name, call, wait
):
    monkeypatch.chdir(tmp_path)
    answers = many.run(
        2, many.die_in_the_third_save, tmp_path, rank, name, call, wait, killed=[rank]
    )
    error = answers[1 - rank]
    assert isinstance(error, many.CheckpointError)
    run = many.Run().load("run")
    assert run.history.batch in (2, 3)
    assert run.sha256() == (tmp_path / f"sha256-{run.history.batch}").read_text()
    if str(error).startswith("Saving in run failed"):
        assert ("the new one, checkpoint-000003, is complete" in str(error)) == (
            run.history.batch == 3
        )
        assert ("as they were" in str(error)) == (run.history.batch == 2)
    else:
        assert str(error).startswith("Waiting for the last save failed")
    many.Run().load("run").save("run")
    many.wait_for_save()
    assert len(names(tmp_path / "run")) == 2
    assert not list((tmp_path / "run").glob("*.*"))


def test_a_checkpoint_of_the_same_step_is_not_taken_for_the_one_that_failed(tmp_path):
    error, left = one_answer(many.run(2, many.fail_twice_at_a_step, tmp_path))
    assert "the checkpoints before are as they were" in error
    assert "the disk is gone" in error
    assert left == ["checkpoint-000002"]


def test_what_only_one_rank_cannot_see_is_not_called_broken(tmp_path):
    missing = sorted(["__0_0.distcp", "__1_0.distcp", ".metadata", "run.pt"])[1]  # rank 1's share
    error, left, same = one_answer(
        many.run(2, many.load_what_one_rank_cannot_see, tmp_path, missing)
    )
    assert f"{missing} is missing for rank 1, but not for rank 0" in error
    assert left == ["checkpoint-000002"]
    assert same


# Nobody dies of being late


def test_a_rank_may_be_later_than_training_allows(tmp_path):
    timed_out, left, batch = one_answer(many.run(2, many.save_late, tmp_path))
    assert timed_out
    assert left == ["checkpoint-000001", "checkpoint-000002"]
    assert batch == 2


def test_nobody_waits_for_old_checkpoints_to_be_deleted(tmp_path):
    answers = many.run(2, many.train_while_rank_0_deletes, tmp_path)
    for before, after in answers:
        assert "checkpoint-000002" in before
        assert len(before) == 2
        assert after == ["checkpoint-000002"]


# In the background


def test_what_is_saved_in_the_background_is_the_run_as_it_was(tmp_path):
    for left, saved, loaded, trained in many.run(2, many.train_while_it_is_saved, tmp_path):
        assert left == ["checkpoint-000001"]
        assert saved == loaded != trained


def test_a_failure_in_the_background_surfaces_on_every_rank(tmp_path):
    tasks = [(many.fail_in_the_background, then, 1) for then in ("wait", "save", "load")]
    for answers in one_answer_each(many.run(2, many.several, tmp_path, *tasks)):
        said, before, batch, after = one_answer(answers)
        assert said == (
            "Saving in run failed, and the checkpoints before are as they were: the disk is gone "
            "(rank 1)."
        )
        assert before == ["checkpoint-000001"]
        assert batch == 1
        assert after == ["checkpoint-000001", "checkpoint-000002"]


# Messages

LAYERS = (1, 7)


@pytest.mark.parametrize("size", [2, 4])
def test_our_messages_do_not_grow_with_the_model(tmp_path, size):
    tasks = [(many.count_messages, layers, shard) for layers in LAYERS for shard in (True, False)]
    small, small_copied, large, large_copied = one_answer_each(
        many.run(size, many.several, tmp_path, *tasks)
    )
    for rank in range(size):
        ours = [answers[rank]["ours"] for answers in (small, small_copied, large, large_copied)]
        assert one_answer(ours)[0] == 16
        assert one_answer(ours)[1] < 450 + 200 * size
        assert large[rank]["dcp"][0] == small[rank]["dcp"][0] == 9
        assert large[rank]["dcp"][1] > 3 * small[rank]["dcp"][1]  # so the bytes are counted


# A full disk, and signals


@pytest.mark.parametrize("rank", [0, 1])
def test_a_full_disk_is_an_error_on_every_rank(tmp_path, rank):
    # The tensors of a rank take more than 3,000 bytes.
    answers = many.run(2, many.save_where_there_is_no_room, tmp_path, rank, 3000)
    message, left, as_before = one_answer(answers)
    assert f"File too large (rank {rank})" in message
    assert left == ["checkpoint-000002"]
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


def test_a_signal_is_deferred_until_the_checkpoint_is_complete(tmp_path):
    tasks = [(many.save_under_a_signal, number) for number in (signal.SIGINT, signal.SIGTERM)]
    for answers in one_answer_each(many.run(2, many.several, tmp_path, *tasks)):
        assert answers == ([1], [1])


# What does not fit


UNFIT = {
    "a different optimizer": (many.different_optimizer, "belongs to a different optimizer"),
    "a different scheduler": (many.different_scheduler, "belongs to a different scheduler"),
    "a hook that fails": (many.hook_that_fails, "no room for this state"),
    "a copy that fails": (many.copy_that_fails, "no room for a copy"),
}


@pytest.fixture(scope="module")
def unfit(tmp_path_factory):
    """What the ranks say when they load into what doesn't fit, on all ranks and on rank 1."""
    cases = [(what, rank) for what in UNFIT for rank in (None, 1)]
    tasks = [(many.refuse, UNFIT[what][0], rank) for what, rank in cases]
    answers = many.run(2, many.several, tmp_path_factory.mktemp("unfit"), *tasks)
    return dict(zip(cases, one_answer_each(answers), strict=True))


@pytest.mark.parametrize("rank", [None, 1])
@pytest.mark.parametrize("what", UNFIT)
def test_what_does_not_fit_on_one_rank_changes_nothing_on_any(unfit, what, rank):
    said, unchanged = one_answer(unfit[what, rank])
    assert said.startswith("Loading from run failed, and nothing was changed")
    if rank is None or what not in ("a different optimizer", "a different scheduler"):
        assert UNFIT[what][1] in said
    assert unchanged
