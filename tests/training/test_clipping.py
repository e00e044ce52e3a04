"""Clipping by the norm of all gradients, against torch.nn.utils.clip_grad_norm_."""

from __future__ import annotations

import pytest
import torch

from manual_bp.training import clip_by_norm
from tests.allowed import assert_agrees
from tests.conftest import short


def torch_clipped(gradients, limit):
    leaves = [torch.nn.Parameter(torch.zeros_like(g)) for g in gradients]
    for leaf, g in zip(leaves, gradients, strict=True):
        leaf.grad = g.clone()
    norm = torch.nn.utils.clip_grad_norm_(leaves, limit)
    return (*(leaf.grad for leaf in leaves), norm)


def clipped(limit):
    def run(*gradients):
        found, norm = clip_by_norm({str(i): g for i, g in enumerate(gradients)}, limit)
        return (*found.values(), norm)

    return run


def drawn(scale, dtype):
    generator = torch.Generator().manual_seed(0)
    return [(scale * torch.randn(shape, generator=generator)).to(dtype) for shape in ((4, 3), (4,), (2, 4), (0,))]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=short)
@pytest.mark.parametrize("scale", [1e-6, 0.1, 1.0, 1e6])
@pytest.mark.parametrize("limit", [1e-3, 1.0, 5.0])
def test_clipping_is_torch_s(limit, scale, dtype):
    gradients = drawn(scale, dtype)
    assert_agrees(clipped(limit), gradients, torch_clipped(gradients, limit))


def test_gradients_within_the_limit_are_left_alone():
    gradients = drawn(0.1, torch.float32)
    *found, norm = clipped(5.0)(*gradients)
    assert norm < 5.0
    assert all(torch.equal(a, b) for a, b in zip(found, gradients, strict=True))


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf"), 1e30])
def test_special_values_are_torch_s(value):
    gradients = [torch.tensor([value, 1.0]) if value else torch.zeros(2), torch.zeros(3)]
    for ours, theirs in zip(clipped(1.0)(*gradients), torch_clipped(gradients, 1.0), strict=True):
        assert torch.equal(ours.nan_to_num(nan=-1.0), theirs.nan_to_num(nan=-1.0)), value


def test_nothing_to_clip():
    assert clip_by_norm({}, 1.0) == ({}, torch.zeros(()))
