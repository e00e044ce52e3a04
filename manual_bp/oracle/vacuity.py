"""Whether a comparison could have failed at all: what a candidate that computes nothing would have passed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from manual_bp.oracle.case import Case
from manual_bp.outputs import parts

NATURAL = (1.0, -1.0)
"""What a candidate may return without having computed it, beside 0: enough to doubt a single number."""


class Judged(NamedTuple):
    """An argument at a case: expected values and allowances, float64, of the elements that were judged."""

    case: Case
    expected: Tensor
    allowance: Tensor


def untested(judged: Sequence[Judged], dtype: torch.dtype, linear: bool) -> str:
    """Why these cases cannot tell a right argument from one that nobody computed; "" if they can.

    It is 0, or any constant, or the result of another case of the same shape, lies within the allowance in every case.
    linear: whether it is linear in dy, as cotangents are; then cases where dy is 0 are left out, as everything is 0.
    """
    told = [_finite(j) for j in judged if not linear or any(bool((d != 0).any()) for d in parts(j.case.dy))]
    told = [j for j in told if j.expected.numel()]
    if not told:
        return "in no case was there anything to tell a right value from a wrong one"
    tiny = torch.finfo(dtype).smallest_normal  # what is smaller may be flushed, so that 0 is right there
    if not any(bool(((j.expected.abs() > j.allowance) & (j.expected.abs() >= tiny)).any()) for j in told):
        return "0 would pass in every case: nothing but 0 and what its allowance cannot tell from 0 is due"
    low = max(float((j.expected - j.allowance).max()) for j in told)
    high = min(float((j.expected + j.allowance).min()) for j in told)
    if low <= high:
        numbers = sum(j.expected.numel() for j in told)
        natural = [c for c in NATURAL if low <= c <= high]
        if numbers > 1 or natural:
            constant = natural[0] if natural else (low + high) / 2
            return f"the constant {constant:.6g} would pass in every case; take inputs and a cotangent that vary"
    if _interchangeable(told):
        return "the result of one case would pass in all others of its shape: the allowance cannot tell them apart"
    return ""


def structurally_zero(judged: Sequence[Judged]) -> bool:
    """Whether exactly 0 is due everywhere, but where it is multiplied by NaN or infinity."""
    due = [j.expected[~j.expected.isnan()] for j in judged]
    return any(x.numel() for x in due) and all(bool((x == 0).all()) for x in due)


def _finite(j: Judged) -> Judged:
    keep = j.expected.isfinite()
    return Judged(j.case, j.expected[keep], j.allowance[keep])


def _interchangeable(told: Sequence[Judged]) -> bool:
    """Whether every case has others of its shape which expect something else, within the allowances of all."""
    groups: dict[tuple[object, ...], list[Judged]] = {}
    for j in told:
        shapes = tuple(tuple(x.shape) for x in j.case.tensors)
        groups.setdefault((shapes, j.expected.numel()), []).append(j)
    return all(_alike(group) for group in groups.values())


def _alike(group: Sequence[Judged]) -> bool:
    first = group[0].expected
    if all(torch.equal(j.expected, first) for j in group):  # the same is due: that is one case, not several
        return False
    low = torch.stack([j.expected - j.allowance for j in group]).amax(0)
    high = torch.stack([j.expected + j.allowance for j in group]).amin(0)
    return bool((low <= high).all())
