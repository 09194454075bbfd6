"""The programs whose functions notebooks 9 and 10 call on a few forked ranks."""

import re
import sys
import threading

import pytest
import torch
import torch.distributed.checkpoint as dcp

from helper.distributed import load_sharded, save_sharded
from helper.history import History
from helper.reproducibility import compute_sha256, set_all_seeds, set_deterministic
from tests.support import tasks_of_ranks as tasks
from tests.support.many import needs_fully_shard
from tools.course import ROOT

sys.path.insert(0, str(ROOT / "notebooks"))

from programs import background, collectives, layers, look_at_shards, replicas, split_batches, torn
from programs.ranks import on_ranks
from programs.train_many import LeNet5, hash_run, new_run

pytestmark = [needs_fully_shard, pytest.mark.slow]
SETTINGS = 5, 128, "mnist-5k"  # seed, batch size, digits


@pytest.fixture(autouse=True)
def folder(course, monkeypatch):
    """The working directory: the notebooks in a copy of the course, with the digits."""
    monkeypatch.chdir(course)
    (course / "saved_data").mkdir()
    return course


# Starting ranks


def test_each_rank_returns_its_result():
    assert on_ranks(3, tasks.who_am_i, "a", 2) == [(rank, 3, ("a", 2)) for rank in range(3)]


def test_a_rank_that_fails_is_named():
    with pytest.raises(RuntimeError, match="Rank 1 failed: KeyError: 'mine'"):
        on_ranks(2, tasks.fail_on_rank_one, "raise")
    with pytest.raises(RuntimeError, match="Rank 1 failed: CheckpointException"):
        on_ranks(2, tasks.fail_on_rank_one, "raise dcp's error")
    with pytest.raises(RuntimeError, match="Rank 1 failed: it was killed"):
        on_ranks(2, tasks.fail_on_rank_one, "kill")


def test_a_rank_may_be_killed_and_then_has_to_be():
    assert on_ranks(2, tasks.fail_on_rank_one, "kill", killed=[1]) == ["fine", None]
    with pytest.raises(RuntimeError, match="Rank 1 was not killed"):
        on_ranks(2, tasks.fail_on_rank_one, "", killed=[1])
    with pytest.raises(RuntimeError, match="Rank 1 failed: KeyError: 'mine'"):
        on_ranks(2, tasks.fail_on_rank_one, "raise", killed=[1])


@pytest.mark.slow
@pytest.mark.parametrize("number", [10, pytest.param(50, marks=pytest.mark.kills)])
def test_clean_endings_in_a_row(capfd, number):
    assert [on_ranks(2, tasks.add_up) for _ in range(number)] == [[3, 3]] * number
    assert capfd.readouterr() == ("", "")


# Copies, and one call too many


@pytest.mark.slow
def test_copies_are_equal_and_continue_from_one_file():
    whole = on_ranks(2, replicas.train, "saved_data/whole.pt", 6, *SETTINGS)
    on_ranks(2, replicas.train, "saved_data/cut.pt", 4, *SETTINGS)
    continued = on_ranks(2, replicas.train, "saved_data/cut.pt", 6, *SETTINGS)
    assert continued == whole
    same = {name for name, value in whole[0].items() if value == whole[1][name]}
    assert same == {"weights", "gradients", "momentum"}


def test_one_call_too_many_shifts_all_sums():
    for _ in range(5):
        assert on_ranks(2, collectives.train_and_log) == [
            [
                "step 1: loss 21",
                "step 1: gradient 50",
                "step 2: loss 61",
                "step 2: an error, because rank 1 has ended",
            ],
            ["step 1: gradient 21", "step 2: gradient 50", "step 3: gradient 61"],
        ]


def test_with_the_call_on_both_ranks_all_sums_are_right(folder):
    program = folder / "programs" / "collectives.py"
    text = program.read_text()
    wrong = re.search(r"( +)if rank == 0:\n +(dist.*)\n +(seen.*)\n", text)
    indent, call, note = wrong.groups()
    right = f"{indent}{call}\n{indent}{note}\n"
    (folder / "fixed.py").write_text(text.replace(wrong[0], right))
    sys.path.insert(0, str(folder))
    try:
        import fixed

        sums = [re.findall(r"(loss|gradient) (\d+)", line)[0] for line in fixed_sums(fixed)]
    finally:
        sys.path.remove(str(folder))
    assert [int(number) for _, number in sums] == [3, 30, 3, 60, 3, 90]


def fixed_sums(fixed):
    first, second = on_ranks(2, fixed.train_and_log)
    assert first == second
    return first


def test_a_rank_gives_up_when_the_timeout_is_over():
    assert on_ranks(2, collectives.wait_for_a_rank) == ["gave up", "did something else"]


# Pieces


@pytest.mark.parametrize("size", [2, 4])
def test_the_shards_make_up_the_whole(size):
    looked = on_ranks(size, look_at_shards.look)
    assert sum(num_bytes for _, num_bytes in looked) == 246_824
    assert [lines.splitlines()[0] for lines, _ in looked] == [
        f"Rank {rank} of {size}: I bring {rank + 1}; together we have {size * (size + 1) // 2}."
        for rank in range(size)
    ]


@pytest.mark.slow
def test_layer_by_layer_gives_the_weights_of_the_whole_model():
    set_all_seeds(5)
    whole = compute_sha256(layers.Deep().state_dict())
    for size in (1, 2, 3):
        made = on_ranks(size, layers.hash_models, 5)
        assert made == [made[0]] * size
        assert made[0]["whole_first"] == made[0]["layer_by_layer"] == whole
        assert (made[0]["meta_and_reset"] == whole) == (size == 1)


def test_on_meta_each_rank_draws_the_same_numbers():
    assert on_ranks(2, tasks.equal_halves) == [[True] * 16] * 2


def test_layer_by_layer_no_rank_holds_more_than_its_shards_and_a_layer():
    layer = 4 * (64 * 64 + 64)
    assert on_ranks(2, tasks.most_bytes) == [(7 * layer // 2 + layer, 4 * layer)] * 2


def test_a_buffer_outside_the_state_is_set_by_hand():
    answer = on_ranks(2, layers.save, "saved_data/deep", 5)[0]
    for size in (1, 3):
        assert on_ranks(size, layers.load, "saved_data/deep", True) == [(answer, ["scale"])] * size
        for found, missing in on_ranks(size, layers.load, "saved_data/deep", False):
            assert found != found  # NaN
            assert missing == ["scale"]


@pytest.mark.slow
def test_only_some_layers_notice_the_number_of_ranks():
    found = {size: on_ranks(size, split_batches.first_and_last, *SETTINGS) for size in (1, 2)}
    assert found[2][0] == found[2][1]
    one, two = found[1][0], found[2][0]
    assert one["neither"] == pytest.approx(two["neither"], abs=1e-4)
    for kind in ("BatchNorm", "dropout"):
        assert one[kind] != pytest.approx(two[kind], abs=1e-3)


# In the background


def save_in_one_process(name):
    set_deterministic()
    run, history = new_run(1), History(seed=5, batches_per_epoch=31, batch_size=128)
    save_sharded(f"saved_data/{name}", *run, history)
    return run


def test_what_is_saved_in_the_background_is_what_was_there():
    save_in_one_process("run")
    arguments = background.train_while_saving, "saved_data/run", 128, "mnist-5k"
    saved, at_the_end = on_ranks(2, *arguments, False)[0]
    run = new_run(2)
    assert load_sharded("saved_data/run", *run).batch == 3
    assert hash_run(run) == saved != at_the_end
    assert on_ranks(2, *arguments, True, killed=[1]) == ["the save failed", None]
    assert load_sharded("saved_data/run", *run).batch == 3
    assert hash_run(run) == saved


@pytest.mark.filterwarnings("ignore:.*in a single process")
@pytest.mark.parametrize("writer_class", [torn.CarelessWriter, torn.GatedWriter])
def test_a_checkpoint_is_torn_without_a_copy(writer_class):
    model = LeNet5()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    threads = threading.active_count()
    writer = writer_class("saved_data/torn")
    saving = dcp.async_save(model.state_dict(), storage_writer=writer)
    writer.half_way.wait()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    writer.gate.set()
    saving.result()
    state = LeNet5().state_dict()
    dcp.load(state, checkpoint_id="saved_data/torn")
    copies = writer_class is torn.GatedWriter
    old = [torch.equal(state[name], before[name]) for name in state]
    new = [torch.equal(state[name], tensor) for name, tensor in model.state_dict().items()]
    assert old == [True] * 5 + [copies] * 5
    assert new == [False] * 5 + [not copies] * 5
    assert threading.active_count() <= threads + 1


def test_a_run_of_one_process_is_loaded_by_two():
    run = save_in_one_process("one")
    loaded = on_ranks(2, look_at_shards.load_and_hash, "saved_data/one")
    assert loaded == [("0 epochs", hash_run(run))] * 2
