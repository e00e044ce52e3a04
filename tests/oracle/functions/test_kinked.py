"""Kinks of a function where no drawn numbers are: some case meets each of them, or the report names it."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

import torch_ref
from manual_bp.oracle import compare
from manual_bp.oracle.functions import reference

PAIR = {"x": (4, 5), "w": (4, 5)}
# A function, its inputs, and the number whose sign decides between its branches.
KINKED = {
    "a sum": (lambda x, w: torch.relu(x + w), PAIR, lambda x, w: x + w),
    "a difference": (lambda x, w: (x - w).abs(), PAIR, lambda x, w: x - w),
    "a product less a constant": (lambda x, w: torch.relu(1 - x * w), PAIR, lambda x, w: 1 - x * w),
    "the larger one": (lambda x, w: torch.maximum(x, w), PAIR, lambda x, w: x - w),
    "a choice": (lambda x, w: torch.where(x > w, 2 * x, x + w), PAIR, lambda x, w: x - w),
    "a slope": (lambda x, w: F.leaky_relu(x + w, 0.1), PAIR, lambda x, w: x + w),
    "a bias": (lambda x, w: torch.relu(x + w), {"x": (4, 5), "w": (5,)}, lambda x, w: x + w),
    "a constant": (lambda x: torch.clamp(x, -0.75, 1.25), {"x": (4, 5)}, lambda x: (x + 0.75) * (x - 1.25)),
    "the lower constant": (lambda x: torch.clamp(x, -0.75, 1.25), {"x": (4, 5)}, lambda x: x + 0.75),
    "a mean": (
        lambda x: (x - x.mean(-1, keepdim=True)).abs(),
        {"x": (4, 5)},
        lambda x: x - x.mean(-1, keepdim=True),
    ),
}


def wrong_at_the_kink(inputs, dy, function, decides, number):
    y, (dx, *others) = torch_ref.vjp(function)(inputs, dy)
    at_kink = decides(*inputs) == 0
    return y, (torch.where(at_kink, number, dx), *others)


@pytest.mark.parametrize("name", KINKED)
def test_what_is_wrong_at_the_kink_alone_is_rejected(name) -> None:
    function, inputs, decides = KINKED[name]
    candidate = partial(wrong_at_the_kink, function=function, decides=decides, number=7.0)
    assert compare(candidate, function, inputs=inputs, diagnose=0).mismatches


@pytest.mark.parametrize(("number", "is_right"), [(torch.nan, False), (-0.1, False), (0.0, True)])
def test_at_the_kink_a_valid_subgradient_is_right(number, is_right) -> None:
    function, inputs, decides = KINKED["a sum"]
    candidate = partial(wrong_at_the_kink, function=function, decides=decides, number=number)
    report = compare(candidate, function, inputs=inputs, dtype=torch.bfloat16, diagnose=0)
    assert (not report.mismatches) is is_right, str(report)


def test_a_kink_that_no_case_meets_is_named() -> None:
    def beyond(x):
        return torch.relu(x.sin() - 0.3)

    report = compare(torch_ref.vjp(beyond), beyond, inputs={"x": (4, 5)}, diagnose=0)
    assert report.passed
    (sentence,) = (text for text in report.not_tested if "kink" in text)
    assert "the kink of relu" in sentence
    assert "x.sin() - 0.3" in sentence


def test_each_kink_is_met_once_and_none_is_named_twice() -> None:
    rule = reference(lambda x, w: torch.relu(x + w) + (x + w).abs(), PAIR)
    assert [edge.name for edge in rule.edges if " = " in edge.name] == ["x = -w at some elements"]
    assert rule.page.UNMET == ()
