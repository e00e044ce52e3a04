"""The largest, the order of all, and functions that are made of such choices."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cmp_to_key, reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manual_bp.arithmetic.balls import (
    Axes,
    Choice,
    Jets,
    NeedMoreBits,
    Option,
    along,
    axes_of,
    certain,
    groups,
    lift,
    means,
)
from manual_bp.arithmetic.balls_table.decisions import above, at_least, at_most, below, compared, gather, settled, where
from manual_bp.arithmetic.balls_table.elementary import multiply
from manual_bp.arithmetic.jets import DIRECTION, NAN, ZERO, Cell, arb, leaves, made_of, tangent

HALF, NEGATIVE = arb("0.5"), arb("-inf")


class Selected(NamedTuple):
    """What torch.max, topk and sort return."""

    values: Jets
    indices: Choice | Tensor


def _tied(cells: list[Cell], tied: list[int]) -> Option:
    """Which of equal elements comes first: here the first of them, nearby any that can get ahead."""
    undecided = frozenset().union(*(leaves(cells[i]) for i in tied)) if len(tied) > 1 else frozenset()
    if not undecided:
        return certain(tied[0])
    if undecided != {DIRECTION}:
        return Option(tied[0], tuple(tied), undecided)
    slopes = {i: tangent(cells[i]).get(DIRECTION, ZERO) for i in tied}
    return Option(tied[0], tuple(i for i in tied if not any(slopes[j] > slopes[i] for j in tied)), undecided)


def _winner(cells: list[Cell]) -> Option:
    """The index of the first of the largest."""
    tied = [0]
    for i in range(1, len(cells)):
        sign = compared(cells[i], cells[tied[0]])
        same = any(cells[i] is cells[j] for j in tied)  # of one number twice none gets ahead
        tied = [i] if sign > 0 else [*tied, i] if sign == 0 and not same else tied
    return _tied(cells, tied)


@means("argmax")
def argmax(input: Any, dim: int | None = None, keepdim: bool = False) -> Choice | Tensor:
    jets = lift(input)
    shape = torch.argmax(torch.zeros(jets.shape), dim, keepdim).shape  # raises where torch does
    return settled(shape, [_winner(group) for group in groups(jets, axes_of(jets, dim))], torch.int64)


def _joined(x: Jets, dim: Axes) -> tuple[Jets, tuple[int, ...]]:
    """x with the axes that are reduced as the last one, and the shape with each of them of length 1."""
    axes = axes_of(x, dim)
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    shape = tuple(1 if axis in axes else length for axis, length in enumerate(x.shape))
    count = torch.Size(x.shape[axis] for axis in axes).numel()
    return x.permute((*kept, *axes)).reshape((*(x.shape[axis] for axis in kept), count)), shape


def _of_constants(values: list[arb]) -> arb:
    """The largest of some balls; arb.max knows no infinity."""
    beyond = [x for x in values if not (x.is_finite() or x == NEGATIVE)]  # NaN, +∞ or anything
    if beyond:
        return next((x for x in beyond if x.is_nan()), beyond[0])
    finite = [x for x in values if x.is_finite()]
    return reduce(arb.max, finite) if finite else NEGATIVE


@means("amax")
def largest(input: Any, dim: Axes = (), keepdim: bool = False) -> Jets:
    """Of constants it need not be known which one it is, so that balls which overlap are no question."""
    x, shape = _joined(lift(input), dim)
    if x.shape[-1] and all(cell.is_constant for cell in x.cells):
        rows = groups(x, [x.ndim - 1])
        y = Jets(x.shape[:-1], [Cell(_of_constants([cell.value for cell in row])) for row in rows])
    else:
        y = gather(x, -1, argmax(x, -1, keepdim=True))
    result: Jets = y.reshape(shape if keepdim else x.shape[:-1])
    return result


@means("amin")
def _smallest(input: Any, dim: Axes = (), keepdim: bool = False) -> Jets:
    return multiply(largest(multiply(input, -1), dim, keepdim), -1)


@means("argmin")
def _argmin(input: Any, dim: int | None = None, keepdim: bool = False) -> Choice | Tensor:
    return argmax(-lift(input), dim, keepdim)


@means("max")
def _max(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    if dim is None:
        return largest(input)
    if not isinstance(dim, int):  # max(input, other)
        return maximum(input, dim)
    return Selected(largest(input, dim, keepdim), argmax(input, dim, keepdim))


@means("min")
def _min(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    if dim is None:
        return _smallest(input)
    if not isinstance(dim, int):
        return minimum(input, dim)
    return Selected(_smallest(input, dim, keepdim), _argmin(input, dim, keepdim))


def _in_order(cells: list[Cell], *, descending: bool, most: int) -> list[Option]:
    """The index of the first, of the second ... element in order; equal ones in the order in which they stand."""

    def compare(i: int, j: int) -> int:
        return compared(cells[j], cells[i]) if descending else compared(cells[i], cells[j])

    order = cmp_to_key(compare)
    ordered = sorted(range(len(cells)), key=order)
    options = []
    for _, equal in itertools.groupby(ordered, key=order):
        tied = list(equal)
        undecided = frozenset().union(*(leaves(cells[i]) for i in tied)) if len(tied) > 1 else frozenset()
        options += [Option(i, tuple(tied), undecided) if undecided else certain(i) for i in tied]
    return options[:most]


def _ordered(input: Any, dim: int, *, descending: bool, most: int | None = None) -> Selected:
    x = lift(input)
    most = most if most is not None else x.shape[dim] if x.ndim else 1
    lines = [_in_order(line, descending=descending, most=most) for line in groups(x, axes_of(x, dim))]
    shape = [most if axis == dim % x.ndim else length for axis, length in enumerate(x.shape)]
    indices = settled(shape, along(x, dim, lines), torch.int64)
    return Selected(gather(x, dim, indices) if x.ndim else x, indices)


@means("sort")
def _sort(input: Any, dim: int = -1, descending: bool = False, *, stable: Any = None) -> Selected:
    return _ordered(input, dim, descending=descending)


@means("argsort")
def _argsort(input: Any, dim: int = -1, descending: bool = False, stable: bool = False) -> Choice | Tensor:
    return _ordered(input, dim, descending=descending).indices


@means("topk")
def _topk(input: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Selected:
    return _ordered(input, dim, descending=largest, most=k)


# Kinks of one element.


@means("maximum")
def maximum(input: Any, other: Any) -> Jets:
    return where(at_least(input, other), input, other)


@means("minimum")
def minimum(input: Any, other: Any) -> Jets:
    return where(at_most(input, other), input, other)


@means("clamp", "clip")
def clamp(input: Any, min: Any = None, max: Any = None) -> Jets:
    x = lift(input)
    x = x if min is None else where(below(x, min), min, x)
    return x if max is None else where(above(x, max), max, x)


means("clamp_min")(lambda input, min: clamp(input, min))
means("clamp_max")(lambda input, max: clamp(input, max=max))
means("relu")(lambda input: where(at_most(input, 0), 0, input))


@means("abs", "absolute")
def _abs(input: Any) -> Jets:
    return where(below(input, 0), multiply(input, -1), input)


def _nearby(whole_of: Callable[[arb], arb], jumps_at: Callable[[arb], bool]) -> Callable[[Any], Jets]:
    """A whole number beside each; a jump where `jumps_at` says so, and constant elsewhere."""

    def of(cell: Cell) -> Cell:
        whole = whole_of(cell.value).unique_fmpz()
        if whole is None:
            raise NeedMoreBits
        return made_of(arb(whole), [(leaf, NAN) for leaf in leaves(cell)] if jumps_at(cell.value) else ())

    def meaning(input: Any) -> Jets:
        jets = lift(input)
        return Jets(jets.shape, list(map(of, jets.cells)))

    return meaning


def _rounded(x: arb) -> arb:
    """To the nearest whole number, of two the even one."""
    whole = (x + HALF).floor()
    return 2 * (x / 2 + HALF / 2).floor() if _is_whole(x + HALF) else whole


def _is_whole(x: arb) -> bool:
    return bool(x.is_integer())


means("round")(_nearby(_rounded, lambda x: _is_whole(x + HALF)))
means("floor")(_nearby(arb.floor, _is_whole))
means("ceil")(_nearby(arb.ceil, _is_whole))
means("trunc", "fix")(
    _nearby(lambda x: x.ceil() if x.mid() < 0 else x.floor(), lambda x: _is_whole(x) and not x.is_zero())
)


@means("sign", "sgn")
def _signum(input: Any) -> Jets:
    return where(below(input, 0), -1, where(above(input, 0), 1, 0))
