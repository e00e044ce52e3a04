"""How many digits an honest formula may lose: a finite bound, derived in the precision under test.

tanh'(x) is 1 / cosh² x and also 1 − y², which subtracts numbers near 1 to make one near 0.  A program that does so is
right in exact arithmetic; its error is that of a few roundings of what it subtracts, and no more.

    element-wise   the slopes that a program subtracts are no larger than the largest slope s between −r and r, where
                   r = max(1, |x|); so dx is within ROUNDINGS u |dy| s, and y within ROUNDINGS u times the largest
                   |y| there
    others         every operation of the page makes PER_OPERATION roundings of the sum of the magnitudes of the terms
                   into which it expands (Σ(x − t)² into Σx² − 2 Σxt + Σt²), and they propagate like all others:
                   see "Expanded" in manual_bp/arithmetic/bounded.py

beside what every right program may be off.  Where the truth is larger than the bound a digit is due: there 0, twice
the truth or a constant is outside of it.  What is lost to an overflow of a step is digits like any other: the slope
−2x / (1 + x²)² with its square multiplied out is 0 from 2³² on in float32, within 64 u of the largest slope, and a
note; NaN is within nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import Contract, How, magnitudes, widths
from manual_bp.arithmetic.bounded_table import precision
from manual_bp.inputs import Mistake, Value
from manual_bp.oracle.case import Case
from manual_bp.rule import Rule

Values = tuple[Tensor | None, ...]

# A formula for a slope is a dozen operations at most; library functions among them are a few ulps off, and a square
# doubles what came before.  2⁶ roundings: six bits of the largest slope.
ROUNDINGS = 64.0
# A page's operation is a few of an expanded program, with rounded constants: three bits each.
PER_OPERATION = 8.0
# Where the largest slope is looked for, in units of max(1, |x|) and, of what has a slope at 0 (1 / x has none), of 1.
BETWEEN = (-1.0, -0.75, -0.5, -0.25, -0.125, 0.0, 0.125, 0.25, 0.5, 0.75, 1.0)


def lost_digits(rule: Rule, case: Case, contract: Contract) -> Values:
    """How far off y and each cotangent may be, float64, None for one without; infinite where a step may overflow."""
    if not rule.elementwise:
        how = How(roundings=PER_OPERATION)
        found = widths(rule, case.inputs, case.dy, contract, how=how, **case.hyper)
        return (*found.outputs, *found.grads)
    own = widths(rule, case.inputs, case.dy, contract, **case.hyper)
    lost = ROUNDINGS * precision(contract.compute).u
    return tuple(
        None if width is None or reach is None else width + lost * reach
        for width, reach in zip((*own.outputs, *own.grads), reach_of(rule, case), strict=True)
    )


def reach_of(rule: Rule, case: Case, formula: Mistake | Value | None = None) -> Values:
    """How large the numbers are of which y and the cotangents are made.

    Of an element-wise rule: the largest |y|, and |dy| times the largest slope, between −max(1, |x|) and it; of any
    other the magnitudes of the terms into which it expands, or into which a formula of the page does that loses digits.
    """
    if not rule.elementwise:
        instead = formula.instead if formula else {}
        found = magnitudes(rule, case.inputs, case.dy, **instead, **case.hyper)
        return (*found.outputs, *found.grads)
    given = {name: x.detach().cpu() for name, x in zip(rule.inputs, case.inputs, strict=True)}  # all are there
    dy = None if case.dy is None else case.dy.detach().cpu().double().nan_to_num(posinf=0.0, neginf=0.0)

    def sizes(part: float, unit: Callable[[Tensor], Tensor]) -> list[Tensor | None]:
        inputs = tuple(part * unit(x.double()) if rule.is_number(n) else x for n, x in given.items())
        y, grads = rule.vjp(inputs, dy, **case.hyper)
        return [None if value is None else value.abs() for value in (y, *grads)]

    at_0 = sizes(0.0, torch.ones_like)
    largest = [None if size is None else torch.zeros_like(size) for size in at_0]
    for unit, needs_slope_at_0 in ((_reach, False), (torch.ones_like, True)):
        for part in BETWEEN:
            for position, (size, zero) in enumerate(zip(sizes(part, unit), at_0, strict=True)):
                before = largest[position]
                if size is None or zero is None or before is None:
                    continue
                counts = size.isfinite() & (zero.isfinite() | (not needs_slope_at_0))
                largest[position] = torch.maximum(before, torch.where(counts, size, 0.0))
    return tuple(largest)


def _reach(x: Tensor) -> Tensor:
    """max(1, |x|)"""
    return x.abs().clamp(min=1.0)
