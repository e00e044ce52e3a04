"""How long the axes of a function may be, told by recording it with longer ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable
from typing import Any

from manual_bp import axes

# Axes are made so many times longer to see what grows with them, and as many times again: with its square is what grows
# by more than SQUARE each time.  A length less a constant (of a window) grows so at the first of them alone.
TIMES, SQUARE = 4, 8
# So long is a square: 257 is one beyond a block of 256, and its square takes 0.5 MB.
MOST_SQUARED = 257
# A recurrence is as long as the longest of these blocks, and one step longer, for which its program has no more than
# so many operations: in a second they are recorded and run with bounds.  Beside another axis that is long it is short.
STEPS, MOST_OPERATIONS, FEW_STEPS = (32, 64, 128, 256), 6000, 3
# And one is a block itself, up to this one.
EXACT = 64
# No other axis is longer: 4097 is one beyond a block of 1024 threads with four loads each.  A program that makes a
# square where the function makes none, as of numbers of nodes, then takes 0.1 GB and not the whole memory.
MOST = 4097
# Nor one along which there are indices: what has one index adds up equal terms, whose roundings are all to one side;
# of so many they are within what random roundings are allowed.
MOST_COUNTED = 257


RecordedAt = Callable[[axes.Sizes], Any]
"""The function's derivative (torch_ref/derivative.py) at axes of such lengths; ValueError if it has none."""


def growing(sizes: axes.Sizes, recorded_at: RecordedAt) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """The axes with which the work grows: of those over which the program itself grows, which are recurrences, the
    lengths that they get; and how long those may be with whose square a tensor on the way grows.

    sizes: the usual lengths.
    """
    usual = recorded_at(sizes)
    steps, squared = {}, {}
    for name, lengths in sizes.items():
        if len(lengths) != 1 or lengths[0] < 2:
            continue
        longer = TIMES * lengths[0]
        try:
            there = recorded_at({**sizes, name: (longer,)})
        except ValueError:
            continue
        if there.operations > usual.operations:
            steps[name] = _steps(lengths[0], longer, usual.operations, there.operations)
        elif _may_be_squared(usual, there) and _is_squared(there, {**sizes, name: (TIMES * longer,)}, recorded_at):
            squared[name] = max(MOST_SQUARED, lengths[0])
    return steps, squared


def _is_squared(there: Any, longer: axes.Sizes, recorded_at: RecordedAt) -> bool:
    try:
        return _may_be_squared(there, recorded_at(longer))
    except ValueError:
        return False


def _may_be_squared(short: Any, long: Any) -> bool:
    """Whether a result of the longer program is so much larger than that of the same operation of the shorter one, if
    they have the same operations; else whether the largest is.  (The largest alone may be one that does not grow, such
    as a weight, beside which a square is hidden for long.)"""
    if len(short.elements) != len(long.elements):
        return bool(max(long.elements) >= SQUARE * max(short.elements))
    return any(n >= SQUARE * m for m, n in zip(short.elements, long.elements, strict=True) if m)


def _steps(usual: int, longer: int, operations: int, more: int) -> tuple[int, ...]:
    """The lengths that a recurrence gets, whose program has so many operations at two lengths: as they grow between
    these (as the square, where a loop is within another one), so they grow beyond."""
    power = max(1.0, math.log(more / operations) / math.log(longer / usual))
    block = max(n for n in STEPS if n == STEPS[0] or more * (n / longer) ** power <= MOST_OPERATIONS)
    return tuple(max(n, usual) for n in (min(block, EXACT), block + 1))


def few_steps(sizes: axes.Sizes, recurrences: Iterable[str], recorded_at: RecordedAt) -> dict[str, int]:
    """Of recurrences how long they are beside an axis that is long: as usual where the function is not defined for few
    steps."""
    found = {}
    for name in recurrences:
        few = min(FEW_STEPS, *sizes[name])
        try:
            recorded_at({**sizes, name: (few,)})
        except ValueError:
            continue
        found[name] = few
    return found


def longest(sizes: axes.Sizes, counted: Container[str]) -> dict[str, int]:
    """How long any other axis may be.  counted: those along which there are indices."""
    most = {name: MOST_COUNTED if name in counted else MOST for name in sizes}
    return {name: max(most[name], *lengths) for name, lengths in sizes.items() if lengths}
