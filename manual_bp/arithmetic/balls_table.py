"""What each torch function means on jets: one line in one table (`MEANINGS`, at the end), and what the lines need.

A function, a method and an operator of one name have one meaning.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from manual_bp.arithmetic.balls import (
    DIRECTION,
    MEANINGS,
    NAN,
    ONE,
    ZERO,
    Axes,
    Cell,
    Choice,
    Grid,
    Jets,
    NeedMoreBits,
    Option,
    Tangent,
    UnknownFunction,
    axes_of,
    common_shape,
    groups,
    lift,
    rearranged,
    spread,
)

from flint import arb  # isort: skip  (after balls, whose message says how to install it)

# Arithmetic.


def _certain(result: arb, *operands: arb) -> arb:
    """`result`, unless it is not finite and that may be due to the width of an operand."""
    if not result.is_finite() and any(x.is_finite() and not x.is_exact() for x in operands):
        raise NeedMoreBits
    return result


def _plus(*tangents: Tangent) -> Tangent:
    total = dict(tangents[0]) if tangents else {}
    for tangent in tangents[1:]:
        for key, slope in tangent.items():
            total[key] = total[key] + slope if key in total else slope
    return total


def _times(factor: arb, tangent: Tangent) -> Tangent:
    return {key: factor * slope for key, slope in tangent.items()}


def _add(a: Cell, b: Cell) -> Cell:
    return Cell(a.value + b.value, _plus(a.tangent, b.tangent))


def _sub(a: Cell, b: Cell) -> Cell:
    return Cell(a.value - b.value, _plus(a.tangent, _times(-ONE, b.tangent)))


def _mul(a: Cell, b: Cell) -> Cell:
    return Cell(a.value * b.value, _plus(_times(b.value, a.tangent), _times(a.value, b.tangent)))


def _div(a: Cell, b: Cell) -> Cell:
    value = _certain(a.value / b.value, a.value, b.value)
    return Cell(value, _plus(_times(1 / b.value, a.tangent), _times(-value / b.value, b.tangent)))


def _total(cells: list[Cell]) -> Cell:
    return Cell(sum((c.value for c in cells), ZERO), _plus(*(c.tangent for c in cells)))


def _pair(function: Callable[[Cell, Cell], Cell]) -> Callable[[Any, Any], Jets]:
    """A function of two elements, broadcast."""

    def meaning(input: Any, other: Any) -> Jets:
        a, b = lift(input), lift(other)
        shape = common_shape(a, b)
        return Jets(shape, list(map(function, spread(a, shape), spread(b, shape))))

    return meaning


def _elementary(value: Callable[[arb], arb], slope: Callable[[arb, arb], arb]) -> Callable[[Any], Jets]:
    """A function of one element: y = value(x), with derivative slope(x, y)."""

    def of(cell: Cell) -> Cell:
        x = cell.value
        y = _certain(value(x), x)
        return Cell(y, _times(_certain(slope(x, y), x), cell.tangent) if cell.tangent else {})

    return lambda input: Jets(input.shape, [of(cell) for cell in lift(input).cells])


def _pow(input: Any, exponent: Any) -> Jets:
    if not isinstance(exponent, int | float) or not isinstance(input, Jets):
        raise UnknownFunction("pow with an exponent that is not a Python number")
    n = int(exponent) if exponent == int(exponent) else arb(exponent)
    return _elementary(lambda x: x**n, lambda x, _: ZERO if n == 0 else n * x ** (n - 1))(input)


def _logistic(x: arb) -> arb:
    if x.mid() >= 0:  # of the two forms the one whose exponential does not overflow
        return 1 / (1 + (-x).exp())
    e = x.exp()
    return e / (1 + e)


def _sum(input: Jets, dim: Axes = None, keepdim: bool = False) -> Jets:
    shape = torch.sum(torch.zeros(input.shape), dim, keepdim).shape
    return Jets(shape, [_total(group) for group in groups(input, axes_of(input, dim))])


def _mean(input: Jets, dim: Axes = None, keepdim: bool = False) -> Any:
    return _sum(input, dim, keepdim) / torch.Size(input.shape[axis] for axis in axes_of(input, dim)).numel()


def _matmul(input: Any, other: Any) -> Any:
    a, b = lift(input), lift(other)
    rows = a[..., None, :] if a.ndim > 1 else a  # (..., n, 1, k) meets (..., 1, m, k)
    columns = b.mT[..., None, :, :] if b.ndim > 1 and a.ndim > 1 else b.mT if b.ndim > 1 else b
    if a.shape[-1] != (b.shape[-2] if b.ndim > 1 else b.shape[-1]):
        raise ValueError(f"matmul: {tuple(a.shape)} and {tuple(b.shape)} do not fit")
    product = (a if b.ndim == 1 else rows) * columns
    return _sum(product, -1)


# Decisions.


def _sign(x: arb) -> int:
    if x.is_zero():
        return 0
    if x.contains(0):
        raise NeedMoreBits
    return 1 if x > 0 else -1


def _moves(tangent: Tangent, key: int) -> int:
    """The sign of one derivative, 0 if it may be 0."""
    slope = tangent.get(key, ZERO)
    return 1 if slope > 0 else -1 if slope < 0 else 0


def _nearby_signs(tangent: Tangent) -> tuple[int, ...]:
    """Signs that a difference which is 0 can take nearby."""
    (key, *more) = tangent
    direction = _moves(tangent, key)
    if more or not direction:  # several inputs can keep each other in balance
        return (-1, 0, 1)
    return (direction,) if key == DIRECTION else (-1, 1)


def _comparison(holds: Callable[[int, int], bool]) -> Callable[[Any, Any], Choice | Tensor]:
    def option(difference: Cell) -> Option:
        if difference.value.is_nan():
            return Option(False, (False,), frozenset())
        sign = _sign(difference.value)
        here = holds(sign, 0)
        if sign or not difference.tangent:
            return Option(here, (here,), frozenset())
        nearby = tuple({holds(each, 0) for each in _nearby_signs(difference.tangent)})
        return Option(here, nearby, frozenset() if nearby == (here,) else frozenset(difference.tangent))

    def meaning(input: Any, other: Any) -> Choice | Tensor:
        difference = _pair(_sub)(input, other)
        return _settled(difference.shape, [option(cell) for cell in difference.cells], torch.bool)

    return meaning


def _settled(shape: torch.Size, options: list[Option], dtype: torch.dtype) -> Choice | Tensor:
    """A plain tensor if every element is decided."""
    if any(option.keys for option in options):
        return Choice(shape, options)
    return torch.tensor([option.here for option in options], dtype=dtype).reshape(shape)


def _winner(cells: list[Cell]) -> Option:
    """The index of the first of the largest."""
    first, *others = range(len(cells))
    tied = [first]
    for i in others:
        sign = _sign(cells[i].value - cells[tied[0]].value)
        tied = [i] if sign > 0 else [*tied, i] if sign == 0 else tied
    keys = frozenset(key for i in tied for key in cells[i].tangent) if len(tied) > 1 else frozenset()
    if not keys:
        return Option(tied[0], (tied[0],), keys)
    slopes = {i: cells[i].tangent.get(DIRECTION, ZERO) for i in tied}
    ahead = [i for i in tied if not any(slopes[j] > slopes[i] for j in tied)]
    return Option(tied[0], tuple(ahead if keys == {DIRECTION} else tied), keys)


def _argmax(input: Jets, dim: int | None = None, keepdim: bool = False) -> Choice | Tensor:
    shape = torch.argmax(torch.zeros(input.shape), dim, keepdim).shape  # raises where torch does
    return _settled(shape, [_winner(group) for group in groups(input, axes_of(input, dim))], torch.int64)


def _logical(function: Callable[..., bool]) -> Callable[..., Choice | Tensor]:
    """And, or, not of masks."""

    def options(mask: Any) -> Grid:
        if isinstance(mask, Choice):
            return mask
        plain = torch.as_tensor(mask)
        return Grid(plain.shape, [Option(value, (value,), frozenset()) for value in plain.flatten().tolist()])

    def combined(*parts: Option) -> Option:
        here = function(*(part.here for part in parts))
        nearby = tuple({function(*outcome) for outcome in itertools.product(*(part.nearby for part in parts))})
        keys = frozenset().union(*(part.keys for part in parts)) if nearby != (here,) else frozenset()
        return Option(here, nearby, keys)

    def meaning(*masks: Any) -> Choice | Tensor:
        grids = [options(mask) for mask in masks]
        shape = common_shape(*grids)
        return _settled(shape, list(map(combined, *(spread(grid, shape) for grid in grids))), torch.bool)

    return meaning


def _chosen(choice: Choice, pick: Callable[[Tensor], Jets], dtype: torch.dtype) -> Jets:
    """What `pick` gives for an undecided mask or index: the value here, and the derivatives that all outcomes share."""
    outcomes = [(o.here, *o.nearby) for o in choice.cells]

    def outcome(number: int) -> Jets:
        chosen = [some[min(number, len(some) - 1)] for some in outcomes]
        return pick(torch.tensor(chosen, dtype=dtype).reshape(choice.shape))

    here, *nearby = (outcome(number) for number in range(max(map(len, outcomes))))
    keys = [o.keys for o in spread(choice, here.shape)]
    branches = zip(*(jets.cells for jets in nearby), strict=True)
    return Jets(here.shape, list(map(_agreed, here.cells, branches, keys)))


def _agreed(here: Cell, nearby: tuple[Cell, ...], keys: frozenset[int]) -> Cell:
    """The value at the point; for the inputs that can change the branch, the slope that all possible branches share."""
    if not keys:
        return here
    continuous = all(_identical(cell.value, here.value) for cell in nearby)
    tangent = {key: slope for key, slope in here.tangent.items() if key not in keys}
    for key in keys:
        slope, *others = (cell.tangent.get(key, ZERO) for cell in nearby)
        tangent[key] = slope if continuous and all(_identical(slope, other) for other in others) else NAN
    return Cell(here.value, tangent)


def _identical(a: arb, b: arb) -> bool:
    """Certainly equal: == of two balls holds only if both are exact."""
    return a is b or bool(a == b)


def _where(condition: Any, input: Any, other: Any) -> Jets:
    a, b = lift(input), lift(other)
    if isinstance(condition, Choice):
        return _chosen(condition, lambda mask: _where(mask, a, b), torch.bool)
    jets: Jets = rearranged(torch.where, (condition, a, b), {})
    return jets


def _gather(input: Any, dim: int, index: Any) -> Jets:
    x = lift(input)
    if isinstance(index, Choice):
        return _chosen(index, lambda plain: _gather(x, dim, plain), torch.int64)
    jets: Jets = rearranged(torch.gather, (x, dim, index), {})
    return jets


def _largest(input: Jets, dim: int, keepdim: bool = False) -> Any:
    y = _gather(input, dim, _argmax(input, dim, keepdim=True))
    return y if keepdim else y.squeeze(dim)


def _clamp(input: Any, min: Any = None, max: Any = None) -> Any:
    x = lift(input)
    x = x if min is None else _where(x < min, min, x)
    return x if max is None else _where(x > max, max, x)


def _logsumexp(input: Jets, dim: int, keepdim: bool = False) -> Any:
    return _sum(input.exp(), dim, keepdim).log()


_TABLE: dict[str, Callable[..., Any]] = {
    "add": _pair(_add),
    "sub": _pair(_sub),
    "mul": _pair(_mul),
    "div": _pair(_div),
    "truediv": _pair(_div),
    "neg": lambda input: input * -1,
    "pow": _pow,
    "square": lambda input: _pow(input, 2),
    "reciprocal": lambda input: 1 / input,
    "exp": _elementary(arb.exp, lambda _, y: y),
    "expm1": _elementary(arb.expm1, lambda x, _: x.exp()),
    "log": _elementary(arb.log, lambda x, _: 1 / x),
    "log1p": _elementary(arb.log1p, lambda x, _: 1 / (1 + x)),
    "sqrt": _elementary(arb.sqrt, lambda _, y: 1 / (2 * y)),
    "rsqrt": _elementary(arb.rsqrt, lambda x, y: -y / (2 * x)),
    "sigmoid": _elementary(_logistic, lambda x, _: (x / 2).sech() ** 2 / 4),  # y(1 − y) would cancel
    "tanh": _elementary(arb.tanh, lambda x, _: x.sech() ** 2),  # and so would 1 − y²
    "sin": _elementary(arb.sin, lambda x, _: x.cos()),
    "cos": _elementary(arb.cos, lambda x, _: -x.sin()),
    "erf": _elementary(arb.erf, lambda x, _: 2 / arb.pi().sqrt() * (-x * x).exp()),
    "sum": _sum,
    "mean": _mean,
    "matmul": _matmul,
    "logsumexp": _logsumexp,
    "log_softmax": lambda input, dim: input - _logsumexp(input, dim, keepdim=True),
    "softmax": lambda input, dim: (input - _logsumexp(input, dim, keepdim=True)).exp(),
    "le": _comparison(operator.le),
    "lt": _comparison(operator.lt),
    "ge": _comparison(operator.ge),
    "gt": _comparison(operator.gt),
    "eq": _comparison(operator.eq),
    "ne": _comparison(operator.ne),
    "and": _logical(operator.and_),
    "or": _logical(operator.or_),
    "xor": _logical(operator.xor),
    "logical_and": _logical(operator.and_),
    "logical_or": _logical(operator.or_),
    "logical_not": _logical(operator.not_),
    "invert": _logical(operator.not_),
    "where": _where,
    "gather": _gather,
    "argmax": _argmax,
    "amax": _largest,
    "maximum": lambda input, other: _where(input >= other, input, other),
    "minimum": lambda input, other: _where(input <= other, input, other),
    "relu": lambda input: _where(input <= 0, 0, input),
    "abs": lambda input: _where(input < 0, -input, input),
    "clamp": _clamp,
    "zeros_like": lambda input: torch.zeros(input.shape, dtype=torch.float64),
    "ones_like": lambda input: torch.ones(input.shape, dtype=torch.float64),
    "expand_as": lambda input, other: rearranged(Tensor.expand, (lift(input), other.shape), {}),
    "numel": lambda input: input.shape.numel(),
    "size": lambda input, dim=None: input.shape if dim is None else input.shape[dim],
    "dim": lambda input: input.ndim,
}

MEANINGS.update(_TABLE)
