"""Dropout masks: how many are kept, and what they depend on."""

from __future__ import annotations

import math

import pytest
import torch

from manual_bp.masks import Mask, draw


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_elements_are_kept_with_probability_one_minus_p(p, device):
    n = 10**6
    (mask,) = draw({"mask": Mask((1000,), p)}, 1000, seeded(), device).values()
    assert mask.device.type == device
    assert mask.shape == (1000, 1000)
    assert mask.dtype == torch.bool
    # The number kept is binomial; beyond five standard deviations it is once in 3.5 million seeds.
    assert abs(int(mask.sum()) - n * (1 - p)) < 5 * math.sqrt(n * p * (1 - p))
    # So is the number of neighbours that are kept together, by rows and by columns.
    for one, other in ((mask[1:], mask[:-1]), (mask[:, 1:], mask[:, :-1])):
        together = (1 - p) ** 2
        assert abs(int((one & other).sum()) - one.numel() * together) < 7 * math.sqrt(n * together)


def test_nothing_is_dropped_at_0_and_all_at_1(device):
    masks = draw({"none": Mask((7,), 0.0), "all": Mask((7,), 1.0)}, 5, seeded(), device)
    assert masks["none"].all()
    assert not masks["all"].any()


def test_masks_depend_on_the_generator_alone_and_differ_from_each_other(device):
    wanted = {"a": Mask((3, 5), 0.5), "c": Mask((3,), 0.25), "b": Mask((3, 5), 0.5)}
    first, again, other = (draw(wanted, 9, seeded(seed), device) for seed in (1, 1, 2))
    assert {name: tuple(mask.shape) for name, mask in first.items()} == {"a": (9, 3, 5), "c": (9, 3), "b": (9, 3, 5)}
    assert list(first) == list(wanted)
    assert all(torch.equal(first[name], again[name]) for name in wanted)
    assert not torch.equal(first["a"], other["a"])
    assert not torch.equal(first["a"], first["b"])
    generator = seeded(1)
    draw(wanted, 9, generator, device)
    assert not torch.equal(draw(wanted, 9, generator, device)["a"], first["a"])


def test_a_model_without_dropout_leaves_the_generator_alone():
    generator = seeded()
    before = generator.get_state()
    assert draw({}, 4, generator) == {}
    assert torch.equal(generator.get_state(), before)


def test_an_empty_batch_has_an_empty_mask():
    assert draw({"mask": Mask((4,), 0.5)}, 0, seeded())["mask"].shape == (0, 4)
