"""The replay buffer and the batches it is mixed into; any objects do as images."""

from collections import Counter

import pytest

from casam_fed.method.fitting import batch_at
from simulations.methods.replay import buffer_of, mixed_batch

TASKS = [[f"{task}{number}" for number in range(20)] for task in "abc"]


def test_the_buffer_never_holds_more_than_its_capacity_and_shares_it_equally():
    for joined in (1, 2, 3):
        kept = buffer_of(TASKS[:joined], 10, seed=0)
        assert len(kept) == len(set(kept)) == 10
        shares = Counter(name[0] for name in kept).values()
        assert max(shares) - min(shares) <= 1


def test_a_share_only_shrinks():
    shares = [{name for name in buffer_of(TASKS[:joined], 10, seed=0) if name[0] == "a"} for joined in (1, 2, 3)]
    assert shares[2] < shares[1] < shares[0]


def test_a_small_task_fills_what_it_can():
    assert sorted(buffer_of([["a0", "a1"]], 10, seed=0)) == ["a0", "a1"]


def test_half_of_a_batch_is_replayed():
    batch = mixed_batch(TASKS[1], TASKS[0], step=3, size=6, seed=0)
    assert Counter(name[0] for name in batch) == {"a": 3, "b": 3}
    assert len(set(batch)) == 6
    assert batch != mixed_batch(TASKS[1], TASKS[0], step=4, size=6, seed=0)
    assert batch == mixed_batch(TASKS[1], TASKS[0], step=3, size=6, seed=0)


def test_a_buffer_smaller_than_half_a_batch_is_taken_whole():
    assert Counter(name[0] for name in mixed_batch(TASKS[1], ["a0"], 0, 6, 0)) == {"a": 1, "b": 5}


@pytest.mark.parametrize("size", [1, 6])
def test_without_a_buffer_the_batches_are_those_of_the_task_alone(size):
    assert mixed_batch(TASKS[1], [], 2, size, 0) == batch_at(TASKS[1], 2, size, 0)
