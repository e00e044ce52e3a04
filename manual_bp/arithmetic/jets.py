"""Jets: numbers that know how they move with the inputs.

A jet is a value and its first derivatives with respect to the inputs (Griewank & Walther, "Evaluating Derivatives",
2nd ed., SIAM 2008).  Arithmetic on jets is the chain rule,

    φ(a, b) = ( φ(a, b),   ∂φ/∂a · a' + ∂φ/∂b · b' ),

and nothing about a page is known beyond the derivatives of the elementary functions.  Both parts are *balls*: a
midpoint with a radius that contains the exact number, every rounding included (Johansson, "Arb: Efficient
Arbitrary-Precision Midpoint-Radius Interval Arithmetic", IEEE Trans. Computers 66 (2017)).  So what comes out is an
enclosure, not an estimate.

A jet keeps the two slopes ∂φ/∂a and ∂φ/∂b, and of what numbers they are.  The derivatives of one result with respect
to every input are then a sum over all paths, and one sweep from the result back to the inputs finds it [chapter 3.2]:
its cost is that of the computation, however many inputs there are.  Along one direction of the inputs there is a single
derivative, which is found at once, on the way forward [chapter 3.1].
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

try:
    from flint import arb as arb
except ImportError as error:
    raise ImportError("certified truth needs python-flint: pip install 'manual-bp[truth]'") from error

ZERO, ONE, NAN = arb(0), arb(1), arb("nan")

Moves = Sequence[tuple["Cell", arb]]
"""Numbers of which another one is made, and its derivative with respect to each."""

_order = itertools.count()


class Cell:
    """One number: a jet.

    moves: what it is made of; empty for an input and for a constant.
    along: the derivative along the direction, where a page is differentiated along one.
    is_constant: whether nothing moves it.
    """

    __slots__ = ("along", "is_constant", "moves", "order", "value")

    def __init__(self, value: arb, moves: Moves = (), along: arb | None = None) -> None:
        self.value = value
        self.moves = moves
        self.along = along
        self.is_constant = not moves and along is None
        self.order = next(_order)


class Leaf(Cell):
    """An element of an input, of number `key`."""

    __slots__ = ("key",)

    def __init__(self, value: arb, key: int, along: arb | None = None) -> None:
        super().__init__(value, along=along)
        self.is_constant = False
        self.key = key


DIRECTION = Leaf(ZERO, -1, along=ONE)
"""What everything moves with where a page is differentiated along one direction of the inputs."""

Tangent = dict[Leaf, arb]
"""The derivatives that may differ from 0."""


def made_of(value: arb, moves: Iterable[tuple[Cell, arb]]) -> Cell:
    """The number `value`, with these derivatives with respect to others; constants among them count for nothing."""
    kept = [move for move in moves if not move[0].is_constant]
    if not kept:
        return Cell(value)
    if kept[0][0].along is None:
        return Cell(value, kept)
    along = ZERO
    for cell, slope in kept:
        along += slope * (ZERO if cell.along is None else cell.along)
    return Cell(value, along=along)


_MADE: list[dict[Hashable, tuple[Cell, ...]]] = []


@contextmanager
def remembered() -> Iterator[None]:
    """Inside, one function of the same numbers is one number.

    Two that are worked out twice overlap in every precision, and could not be told to be equal: r · a and clamp(r) · a,
    where r is within the limits, of which a policy's loss takes the smaller one.
    """
    _MADE.append({})
    try:
        yield
    finally:
        _MADE.pop()


def once(function: Callable[..., Cell]) -> Callable[..., Cell]:
    """The function, which inside `remembered` is worked out once for the same numbers."""
    if not _MADE:
        return function
    made = _MADE[-1]

    def of(*cells: Cell) -> Cell:
        key = (function, *map(_which, cells))
        if key not in made:
            made[key] = (function(*cells), *cells)  # which live as long as their ids are asked for
        return made[key][0]

    return of


def _which(cell: Cell) -> Hashable:
    """An exact constant is told by its value: it becomes a cell anew wherever it is used."""
    x: Any = cell.value
    return x.man_exp() if cell.is_constant and x.is_exact() and x.is_finite() else id(cell)


def pulled_back(weights: Iterable[tuple[Cell, arb]]) -> Tangent:
    """Σ weight · ∂cell/∂leaf, for every leaf on which the cells may depend."""
    total: dict[Cell, arb] = {}
    for cell, weight in weights:
        total[cell] = total[cell] + weight if cell in total else weight
    gradient: Tangent = {}
    for cell in sorted(_behind(total), key=lambda cell: cell.order, reverse=True):
        weight = total[cell]
        if isinstance(cell, Leaf):
            gradient[cell] = weight
        elif cell.along is not None:
            gradient[DIRECTION] = gradient.get(DIRECTION, ZERO) + weight * cell.along
        for part, slope in cell.moves:
            step = weight if slope is ONE else weight * slope
            total[part] = total[part] + step if part in total else step
    return gradient


def tangent(cell: Cell) -> Tangent:
    """The derivatives of one number."""
    return pulled_back([(cell, ONE)])


def leaves(cell: Cell) -> frozenset[Leaf]:
    """The inputs on which a number may depend."""
    if cell.along is not None:
        return frozenset({DIRECTION})
    return frozenset(each for each in _behind([cell]) if isinstance(each, Leaf))


def _behind(cells: Iterable[Cell]) -> set[Cell]:
    """The cells and all of which they are made."""
    found, waiting = set(cells), list(cells)
    while waiting:
        for part, _ in waiting.pop().moves:
            if part not in found:
                found.add(part)
                waiting.append(part)
    return found
