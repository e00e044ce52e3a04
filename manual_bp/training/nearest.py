"""Which number a program was given, by what it has made of it: the one that comes nearest."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

# Gauss and Newton's iteration for one number; near the root each step doubles the digits.
ITERATIONS = 8
SLOPE = 1e-5
"""Of the differences by which it finds its slope: half of float64's digits."""
# Of a number that a program was given seldom more digits are due.
DIGITS = 3


def nearest(function: Callable[[float], Tensor], wanted: Tensor, start: float = 0.0) -> float | None:
    """Where a function of one number comes nearest to what is wanted, from a start on; None for nowhere."""
    there = start
    for _ in range(ITERATIONS):
        here = function(there)
        slope = (function(there + SLOPE) - here) / SLOPE
        length = float(slope @ slope)
        if not length:
            return None
        move = float(slope @ (wanted - here)) / length
        there += move
        if not abs(there) < 1 / SLOPE:  # nan too
            return None
        if abs(move) <= SLOPE * abs(there):
            break
    return there
