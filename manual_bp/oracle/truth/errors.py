"""How far off a tensor is: in units of its allowance, and in units in the last place."""

from __future__ import annotations

import torch
from torch import Tensor


def errors(got: Tensor, expected: Tensor, allowance: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Error over allowance, and error in ulp of the expected value, element by element in float64.

    A value that is not finite must be met exactly; an exact 0 is right where the expected value is below the smallest
    normal number of the dtype, because hardware may flush it.  Where the allowance is infinite, since a step on the way
    may overflow, every number is right and NaN is not, unless it is what is expected.
    """
    expected, got = expected.cpu(), got.detach().cpu().to(torch.float64)
    rounded = expected.to(dtype).to(torch.float64)
    anything = allowance.isinf() & ~got.isnan() & ~expected.isnan()
    special = ~(rounded.isfinite() & got.isfinite()) & ~anything
    same = (rounded == got) | (rounded.isnan() & got.isnan())
    flushed = (got == 0) & (expected.abs() < torch.finfo(dtype).smallest_normal)
    error = (got - expected).abs()
    ratio = torch.where((error == 0) | anything, 0, error / allowance)
    ulps = (error / ulp(expected, dtype)).nan_to_num(nan=torch.inf)
    infinite = torch.where(same, 0, torch.inf).to(torch.float64)
    none = torch.zeros_like(error)
    return (
        torch.where(special, infinite, torch.where(flushed, none, ratio)),
        torch.where(special, infinite, torch.where(flushed, none, ulps)),
    )


def ulp(value: Tensor, dtype: torch.dtype) -> Tensor:
    """One unit in the last place of `value` in `dtype`, as float64; at least the smallest subnormal."""
    info = torch.finfo(dtype)
    _, exponent = torch.frexp(value.to(torch.float64))  # |value| = mantissa · 2^exponent with mantissa in [½, 1)
    spacing = torch.ldexp(torch.full_like(value, info.eps, dtype=torch.float64), exponent - 1)
    return spacing.clamp(min=info.smallest_normal * info.eps)
