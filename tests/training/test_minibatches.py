"""Mini-batches: each example once per epoch, the same order for the same seed, resumed anywhere."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from manual_bp.training import MiniBatches


@pytest.mark.parametrize(
    ("n", "size", "drop_last", "lengths"),
    [
        (10, 4, False, [4, 4, 2]),
        (10, 4, True, [4, 4]),
        (10, 5, False, [5, 5]),
        (10, 5, True, [5, 5]),
        (10, 10, True, [10]),
        (10, 64, False, [10]),
        (1, 1, False, [1]),
    ],
)
def test_an_epoch_holds_each_example_once(n, size, drop_last, lengths):
    batches = MiniBatches(n, size, seed=0, drop_last=drop_last)
    for number in range(3):
        epoch = batches.epoch(number)
        assert [len(batch) for batch in epoch] == lengths
        assert len(batches) == len(lengths)
        seen = torch.cat(epoch).tolist()
        assert len(set(seen)) == len(seen) == sum(lengths)
        assert set(seen) <= set(range(n))


def test_an_epoch_is_a_function_of_seed_and_number():
    orders = {(seed, number): order(seed, number) for seed in range(3) for number in range(3)}
    assert all(orders[key] == order(*key) for key in orders)
    assert len(set(orders.values())) == len(orders)


def order(seed, number):
    return tuple(torch.cat(MiniBatches(40, 8, seed).epoch(number)).tolist())


@pytest.mark.parametrize("drop_last", [False, True])
def test_resuming_anywhere_continues_the_same_sequence(drop_last):
    batches = MiniBatches(10, 4, seed=3, drop_last=drop_last)
    whole = list(islice(batches.after(0), 12))
    for steps in range(9):
        resumed = list(islice(batches.after(steps), 3))
        assert all(torch.equal(a, b) for a, b in zip(resumed, whole[steps:], strict=False)), steps


def test_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    MiniBatches(10, 4, seed=0).epoch(0)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((10, 0, 0), "came n=10, batch_size=0, seed=0"),
        ((0, 4, 0), "came n=0"),
        ((10, 4, -1), "seed=-1"),
        ((3, 4, 0, True), "came 3 examples for batch_size 4"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        MiniBatches(*arguments)
