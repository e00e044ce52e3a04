"""Whether a case's numbers are such that float64 can hold what is made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from manual_bp.oracle.case import Case

# A formula multiplies with each of its arguments, or divides by it, at most so often on the way to one number.
POWER = 2
EXPONENTS = -math.log2(torch.finfo(torch.float64).tiny)


def exponents(case: Case) -> list[float]:
    """Of each tensor, and of each hyperparameter that is a number, the largest |log2| of what is neither 0 nor
    infinite."""
    found = []
    for x in (*case.tensors, *(torch.tensor(h) for h in case.hyper.values() if isinstance(h, float))):
        if x.is_floating_point():
            size = x.detach().abs()
            some = size[(size > 0) & size.isfinite()]
            ends = [float(end) for end in some.aminmax()] if some.numel() else [1.0]
            found.append(max(abs(math.log2(end)) for end in ends))
    return found


def fits_float64(largest: Sequence[float]) -> bool:
    """Whether no product of numbers with such exponents over- or underflows in float64, so that torch can be the
    reference."""
    return POWER * sum(largest) < EXPONENTS
