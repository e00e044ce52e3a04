"""Images in memory: what is wrong for one layout of images alone, height and width being alike, is seen."""

from __future__ import annotations

import pytest
import torch

import manual_bp as bp
from manual_bp import axes
from manual_bp.oracle import compare
from manual_bp.oracle.cases.images import IMAGE
from manual_bp.outputs import parts, whole
from tests.conftest import COSTLY
from tests.judging import as_candidate, judged
from torch_ref import vjp

OF_IMAGES = [
    name
    for name, rule in bp.RULES.items()
    if axes.tokens(rule.annotations[next(iter(rule.inputs))])[-1].startswith("*") and rule.has_backward
]


def is_channels_last(x):
    return x.ndim == IMAGE and x.stride(1) == 1 and not x.is_contiguous()


def turned(x):
    """Height and width exchanged, where that leaves the shape."""
    return x.mT.contiguous() if isinstance(x, torch.Tensor) and x.ndim >= IMAGE and x.shape[-1] == x.shape[-2] else x


def wrong_for(rule, position):
    """Right, but for an image at that position of inputs and cotangent which has channels last."""

    def candidate(inputs, dy, **hyper):
        y, grads = rule.vjp(inputs, dy, **hyper)
        if not is_channels_last((*inputs, *parts(dy))[position]):
            return y, grads
        return whole(tuple(map(turned, parts(y))), y), tuple(map(turned, grads))

    return as_candidate(rule, candidate)


def seen_in(name, position):
    """The cases in which such a candidate is wrong."""
    rule = bp.RULES[name]
    report = judged(wrong_for(rule, position), rule, torch.float32, lambda case: case.name.startswith("an image"))
    return {m.case.partition(": ")[2] for m in report.mismatches}


@pytest.mark.thinned(6)
@pytest.mark.parametrize("name", [name for name in OF_IMAGES if name not in COSTLY])
def test_axes_exchanged_in_one_layout_alone_are_seen(name):
    assert "everything channels last" in seen_in(name, 0)


def test_axes_exchanged_in_one_layout_alone_are_seen_where_windows_move():
    for name in (name for name, rule in bp.RULES.items() if ".convolution." in rule.page.__name__):
        assert seen_in(name, 0) == {"everything channels last", "x channels last"}, name
        assert seen_in(name, -1) == {"everything channels last", "dy channels last"}, name


def test_so_they_are_of_a_function():
    right = vjp(torch.nn.functional.conv2d)

    def candidate(inputs, dy):
        y, (dx, dweight) = right(inputs, dy)
        return y, (turned(dx) if is_channels_last(inputs[0]) else dx, dweight)

    shapes = {"x": (2, 3, 5, 4), "weight": (2, 3, 3, 2)}
    report = compare(candidate, lambda x, weight: torch.nn.functional.conv2d(x, weight), inputs=shapes)
    assert {m.argument for m in report.mismatches} == {"dx"}
    assert "x is read as if it were contiguous" in report.diagnoses[0]
