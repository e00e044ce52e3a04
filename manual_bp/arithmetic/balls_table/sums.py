"""Sums and products, and what is made of them: norms, variance, sums to places, softmax."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from manual_bp.arithmetic.balls import Axes, Jets, UnknownFunction, along, axes_of, groups, lift, means, numbering
from manual_bp.arithmetic.balls_table.elementary import (
    divide,
    minus,
    multiply,
    over,
    plus,
    raised,
    sqrt,
    subtract,
    times,
)
from manual_bp.arithmetic.jets import ONE, ZERO, Cell, made_of

from flint import arb  # isort: skip  (after balls, whose message says how to install it)

Reduction = Callable[[list[Cell]], Cell]

NEGATIVE = arb("-inf")

# Along axes.


def total(cells: Iterable[Cell]) -> Cell:
    cells = list(cells)
    return made_of(sum((c.value for c in cells), ZERO), [(c, ONE) for c in cells])


def product(cells: Iterable[Cell]) -> Cell:
    return reduce(times, cells, Cell(ONE))


def reduced(input: Any, of: Reduction, dim: Axes, keepdim: bool) -> Jets:
    jets = lift(input)
    shape = torch.sum(torch.zeros(jets.shape), dim, keepdim).shape  # type: ignore[arg-type]  # raises where torch does
    return Jets(shape, [of(group) for group in groups(jets, axes_of(jets, dim))])


@means("sum")
def summed(input: Any, dim: Axes = None, keepdim: bool = False, *, dtype: Any = None) -> Jets:
    return reduced(input, total, dim, keepdim)


@means("mean")
def mean(input: Any, dim: Axes = None, keepdim: bool = False, *, dtype: Any = None) -> Jets:
    return divide(summed(input, dim, keepdim), _count(input, dim))


def _count(input: Any, dim: Axes) -> int:
    return math.prod(input.shape[axis] for axis in axes_of(input, dim))


@means("prod")
def _prod(input: Any, dim: int | None = None, keepdim: bool = False, *, dtype: Any = None) -> Jets:
    return reduced(input, product, dim, keepdim)


def _running(step: Callable[[Cell, Cell], Cell]) -> Callable[..., Jets]:
    def meaning(input: Any, dim: int, *, dtype: Any = None) -> Jets:
        jets = lift(input)
        lines = [list(accumulate(line, step)) for line in groups(jets, axes_of(jets, dim))]
        return Jets(jets.shape, along(jets, dim, lines))

    return meaning


means("cumsum")(_running(plus))
means("cumprod")(_running(times))


@means("var")
def variance(
    input: Any, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: float | None = None
) -> Jets:
    if isinstance(dim, bool):  # var(unbiased)
        dim, unbiased = None, dim
    freedom = _count(input, dim) - (int(unbiased) if correction is None else correction)
    deviation = subtract(input, mean(input, dim, keepdim=True))
    return divide(summed(multiply(deviation, deviation), dim, keepdim), freedom)


@means("std")
def _std(input: Any, *args: Any, **kwargs: Any) -> Jets:
    return sqrt(variance(input, *args, **kwargs))


@means("linalg_vector_norm", "norm", "linalg_norm")
def _norm(
    input: Any, ord: Any = 2, dim: Axes = None, keepdim: bool = False, *, dtype: Any = None, p: Any = None
) -> Any:
    ord = ord if p is None else p
    if ord in (2, "fro", None):
        return sqrt(summed(multiply(input, input), dim, keepdim))
    if ord == 1:
        return summed(lift(input).abs(), dim, keepdim)
    if ord == math.inf:
        return lift(input).abs().amax(() if dim is None else dim, keepdim)
    if not 0 < ord < math.inf:
        raise UnknownFunction(f"a norm of order {ord!r}")
    return raised(summed(raised(lift(input).abs(), ord), dim, keepdim), 1 / arb(ord))


# Sums that go to places.


def _added(input: Any, places: Tensor, source: Jets) -> Jets:
    """x with each element of the source added at its place."""
    x = lift(input)
    groups: list[list[Cell]] = [[cell] for cell in x.cells]
    for place, cell in zip(places.flatten().tolist(), source.cells, strict=True):
        groups[place].append(cell)
    return Jets(x.shape, [group[0] if len(group) == 1 else total(group) for group in groups])


@means("index_add")
def _index_add(input: Any, dim: int, index: Tensor, source: Any, *, alpha: Any = 1) -> Jets:
    places = numbering(input.shape).index_select(dim, index)
    return _added(input, places, lift(source if alpha == 1 else multiply(source, alpha)))


@means("scatter_add")
def _scatter_add(input: Any, dim: int, index: Tensor, src: Any) -> Jets:
    inside = tuple(slice(length) for length in index.shape)
    return _added(input, numbering(input.shape).gather(dim, index), lift(src)[inside])


@means("index_put")
def _index_put(input: Any, indices: Sequence[Any], values: Any, accumulate: bool = False) -> Jets:
    places = numbering(input.shape)[tuple(slice(None) if i is None else i for i in indices)]
    source = lift(values).broadcast_to(places.shape)
    if accumulate:
        return _added(input, places, source)
    cells = list(lift(input).cells)
    for place, cell in zip(places.flatten().tolist(), source.cells, strict=True):
        cells[place] = cell
    return Jets(input.shape, cells)


# Exponentials that add up.


class _Logits:
    """Numbers x of which e^x is summed: Σ e^x = e^m (1 + rest), with the largest of them m.

    Everything is made of differences x − m, so that nothing cancels or overflows.  Which one is taken as m is only a
    choice of reference: no branch of the function, and no tie where several are equal.
    """

    def __init__(self, cells: list[Cell]) -> None:
        at = reduce(lambda best, i: i if _exceeds(cells[i], cells[best]) else best, range(len(cells)))
        self.largest = cells[at]
        own = at if self.largest.value.is_finite() else None  # ∞ − ∞ is no number
        self.differences = [Cell(ZERO) if i == own else minus(c, self.largest) for i, c in enumerate(cells)]
        self.exponentials = [Cell(ONE) if i == own else _exp(d) for i, d in enumerate(self.differences)]
        self.rest = total(e for i, e in enumerate(self.exponentials) if i != at)

    def log_sum(self) -> Cell:
        """log Σ e^x − m = log(1 + rest)."""
        rest = self.rest.value
        return made_of(rest.log1p(), ((self.rest, 1 / (1 + rest)),))


def _exceeds(a: Cell, b: Cell) -> bool:
    return bool(b.value.is_nan() or a.value.mid() > b.value.mid())


def _exp(d: Cell) -> Cell:
    value = d.value.exp()
    return made_of(value, ((d, value),))


@means("logsumexp", "special_logsumexp")
def _logsumexp(input: Any, dim: Axes, keepdim: bool = False) -> Jets:
    def of(cells: list[Cell]) -> Cell:
        if all(c.value == NEGATIVE for c in cells):  # an empty sum: no e^x at all
            return Cell(NEGATIVE)
        logits = _Logits(cells)
        return plus(logits.largest, logits.log_sum())

    return reduced(input, of, dim, keepdim)


def _of_lines(of: Callable[[list[Cell]], list[Cell]]) -> Callable[..., Jets]:
    def meaning(input: Any, dim: int, dtype: Any = None, *, _stacklevel: int = 3) -> Jets:
        jets = lift(input)
        return Jets(jets.shape, along(jets, dim, [of(line) for line in groups(jets, axes_of(jets, dim)) if line]))

    return meaning


@means("softmax", "special_softmax")
@_of_lines
def _softmax(cells: list[Cell]) -> list[Cell]:
    logits = _Logits(cells)
    whole = plus(logits.rest, Cell(ONE))
    return [over(e, whole) for e in logits.exponentials]


@means("log_softmax", "special_log_softmax")
@_of_lines
def _log_softmax(cells: list[Cell]) -> list[Cell]:
    logits = _Logits(cells)
    log_sum = logits.log_sum()
    return [minus(d, log_sum) for d in logits.differences]
