"""Which numbers a program was given, by what it has made of them: those that come nearest."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# Gauss and Newton's iteration; near the root each step leaves about SLOPE of the error.
ITERATIONS = 8
SLOPE = 1e-5
"""Of the differences by which it finds its slopes.  A slope is off by about so much, as the function bends, and by what
rounding leaves of float64, 2⁻⁵² / SLOPE, which is far less."""
# Of a number that a program was given seldom more digits are due.
DIGITS = 3


def nearest(function: Callable[[float], Tensor], wanted: Tensor, start: float = 0.0) -> float | None:
    """Where a function of one number comes nearest to what is wanted, from a start on; None for nowhere."""
    found = nearest_of_several(lambda numbers: function(numbers[0]), wanted, [start])
    return None if found is None else found[0]


def nearest_of_several(
    function: Callable[[Sequence[float]], Tensor], wanted: Tensor, start: Sequence[float]
) -> list[float] | None:
    """Likewise for a function of several numbers; None too where it does not depend on one of them by itself."""
    there = torch.tensor(start, dtype=torch.float64)
    for _ in range(ITERATIONS):
        here = function(there.tolist())
        moved = [there + SLOPE * unit for unit in torch.eye(len(there), dtype=torch.float64)]
        slopes = torch.stack([(function(each.tolist()) - here) / SLOPE for each in moved], 1)
        if not bool(slopes.isfinite().all()) or torch.linalg.matrix_rank(slopes) < len(there):
            return None
        move = torch.linalg.lstsq(slopes, (wanted - here)[:, None]).solution[:, 0]
        there = there + move
        if not bool((there.abs() < 1 / SLOPE).all()):  # nan too
            return None
        if bool((move.abs() <= SLOPE * there.abs()).all()):
            break
    found: list[float] = there.tolist()
    return found
