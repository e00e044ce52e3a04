"""Comparisons, and what is chosen by them."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manual_bp.arithmetic.balls import (
    Axes,
    Choice,
    Grid,
    Jets,
    LeftOpen,
    NeedMoreBits,
    Option,
    axes_of,
    certain,
    common_shape,
    groups,
    lift,
    means,
    options,
    rearranged,
    spread,
)
from manual_bp.arithmetic.balls_table.elementary import minus
from manual_bp.arithmetic.jets import DIRECTION, NAN, ZERO, Cell, Leaf, Tangent, made_of, tangent

from flint import arb  # isort: skip  (after balls, whose message says how to install it)

# Comparisons.


def _sign(x: arb) -> int:
    if x.is_zero():
        return 0
    if x.is_nan() or x.contains(0):
        raise NeedMoreBits
    return 1 if x > 0 else -1


def compared(a: Cell, b: Cell) -> int:
    """The sign of a − b; two infinities of one sign are equal, and what is no number counts as the largest."""
    if a is b:
        return 0
    if a.value.is_nan() or b.value.is_nan():
        return int(a.value.is_nan()) - int(b.value.is_nan())
    if not a.value.is_finite() and _identical(a.value, b.value):
        return 0
    return _sign(a.value - b.value)


def _nearby_signs(slopes: Tangent) -> tuple[int, ...]:
    """Signs that a difference which is 0 can take nearby."""
    ((leaf, slope), *more) = slopes.items()
    direction = 1 if slope > 0 else -1 if slope < 0 else 0
    if more or not direction:  # several inputs can keep each other in balance
        return (-1, 0, 1)
    return (direction,) if leaf is DIRECTION else (-1, 1)


def comparison(holds: Callable[[int, int], bool]) -> Callable[[Any, Any], Choice | Tensor]:
    def option(a: Cell, b: Cell) -> Option:
        if a.value.is_nan() or b.value.is_nan():
            return certain(holds is operator.ne)
        sign = compared(a, b)
        here = holds(sign, 0)
        if sign or a is b or (a.is_constant and b.is_constant):
            return certain(here)
        slopes = tangent(minus(a, b))
        if not slopes:
            return certain(here)
        nearby = tuple({holds(each, 0) for each in _nearby_signs(slopes)})
        return Option(here, nearby, frozenset() if nearby == (here,) else frozenset(slopes))

    def meaning(input: Any, other: Any) -> Choice | Tensor:
        a, b = lift(input), lift(other)
        shape = common_shape(a, b)
        return settled(shape, list(map(option, spread(a, shape), spread(b, shape))), torch.bool)

    return meaning


def settled(shape: Sequence[int], options: list[Option], dtype: torch.dtype) -> Choice | Tensor:
    """A plain tensor if every element is decided."""
    if any(option.leaves for option in options):
        return Choice(shape, options)
    return torch.tensor([option.here for option in options], dtype=dtype).reshape(shape)


at_most, below, at_least, above = map(comparison, (operator.le, operator.lt, operator.ge, operator.gt))
means("le", "less_equal")(at_most)
means("lt", "less")(below)
means("ge", "greater_equal")(at_least)
means("gt", "greater")(above)
means("eq")(comparison(operator.eq))
means("ne", "not_equal")(comparison(operator.ne))


def _plain(property: Callable[[arb], bool]) -> Callable[[Any], Tensor]:
    """A question to the value alone."""
    return lambda input: torch.tensor([property(c.value) for c in input.cells], dtype=torch.bool).reshape(input.shape)


means("isnan")(_plain(lambda x: bool(x.is_nan())))
means("isfinite")(_plain(lambda x: bool(x.is_finite())))
means("isinf")(_plain(lambda x: not x.is_finite() and not x.is_nan()))
means("isneginf")(_plain(lambda x: bool(x == arb("-inf"))))
means("isposinf")(_plain(lambda x: bool(x == arb("inf"))))


@means("signbit")
def _signbit(input: Any) -> Choice | Tensor:
    return below(input, 0)


# Masks.


def _combined(function: Callable[..., Any], parts: Sequence[Option]) -> Option:
    here = function(*(part.here for part in parts))
    undecided = [part for part in parts if part.leaves]
    if not undecided:
        return certain(here)
    nearby = tuple({function(*outcome) for outcome in itertools.product(*(part.nearby for part in parts))})
    return Option(here, nearby, frozenset().union(*(o.leaves for o in undecided)) if nearby != (here,) else frozenset())


def logical(function: Callable[..., bool]) -> Callable[..., Choice | Tensor]:
    """And, or, not of masks."""

    def meaning(*masks: Any) -> Choice | Tensor:
        grids = [options(mask) for mask in masks]
        shape = common_shape(*grids)
        results = [_combined(function, parts) for parts in zip(*(spread(grid, shape) for grid in grids), strict=True)]
        return settled(shape, results, torch.bool)

    return meaning


means("and", "logical_and", "bitwise_and")(logical(operator.and_))
means("or", "logical_or", "bitwise_or")(logical(operator.or_))
means("xor", "logical_xor", "bitwise_xor")(logical(operator.xor))
means("invert", "logical_not", "bitwise_not")(logical(operator.not_))


def _of_all(function: Callable[..., bool]) -> Callable[..., Choice | Tensor]:
    def meaning(input: Choice, dim: Axes = None, keepdim: bool = False) -> Choice | Tensor:
        shape = torch.sum(torch.zeros(input.shape), dim, keepdim).shape  # type: ignore[arg-type]
        return settled(shape, [_combined(function, part) for part in groups(input, axes_of(input, dim))], torch.bool)

    return meaning


means("any")(_of_all(lambda *outcomes: any(outcomes)))
means("all")(_of_all(lambda *outcomes: all(outcomes)))


# What is chosen by a mask or an index.


def chosen(choice: Choice, pick: Callable[[Tensor], Jets]) -> Jets:
    """What `pick` gives for an undecided mask or index: the value here, and the derivatives that all outcomes share."""
    outcomes = [(o.here, *o.nearby) for o in choice.cells]

    def outcome(number: int) -> Jets:
        each = [some[min(number, len(some) - 1)] for some in outcomes]
        return pick(torch.tensor(each, dtype=choice.dtype).reshape(choice.shape))

    here, *nearby = (outcome(number) for number in range(max(map(len, outcomes))))
    undecided = [o.leaves for o in spread(choice, here.shape)]
    branches = zip(*(jets.cells for jets in nearby), strict=True)
    return Jets(here.shape, list(map(_agreed, here.cells, branches, undecided)))


# A jump of a thousandth of a unit in the last place of float64 is none.
MEETING = 2.0**-63


class Cut(NamedTuple):
    """A number at a kink: the leaf that stands for it, its derivatives by each branch that is possible nearby, and the
    inputs that decide which one is taken."""

    leaf: Leaf
    branches: tuple[Tangent, ...]
    undecided: frozenset[Leaf]

    @property
    def inputs(self) -> set[Leaf]:
        return set().union(*self.branches)


_CUTS: list[list[Cut]] = []


@contextmanager
def cutting() -> Iterator[list[Cut]]:
    """Inside, a number whose branches have one value and several slopes is a new input, whatever is made of it."""
    _CUTS.append([])
    try:
        yield _CUTS[-1]
    finally:
        _CUTS.pop()


def _agreed(here: Cell, nearby: tuple[Cell, ...], undecided: frozenset[Leaf]) -> Cell:
    """The value at the point; for the inputs that can change the branch, the slope that all possible branches share."""
    if not undecided:
        return here
    continuous = all(_meets(cell.value, here.value) for cell in nearby)
    branches = [tangent(cell) for cell in nearby]
    if _CUTS and continuous and any(branch != branches[0] for branch in branches):
        cut = Cut(Leaf(here.value, -2 - len(_CUTS[-1])), tuple(branches), undecided)
        _CUTS[-1].append(cut)
        return cut.leaf
    moves: list[tuple[Cell, arb]] = [(leaf, s) for leaf, s in tangent(here).items() if leaf not in undecided]
    for leaf in undecided:
        slope, *others = (branch.get(leaf, ZERO) for branch in branches)
        agreed = continuous and all(_identical(slope, other) for other in others)
        moves.append((leaf, slope if agreed else NAN))
    return made_of(here.value, moves)


def _identical(a: arb, b: arb) -> bool:
    """Certainly equal: == of two balls holds only if both are exact."""
    return a is b or bool(a == b)


def _meets(a: arb, b: arb) -> bool:
    """Equal, or certainly so near that float64 has no number between: log ½ and −log(1 + e⁰) are equal, and no ball
    tells."""
    return _identical(a, b) or bool(abs(a - b) <= abs(b) * MEETING)


@means("where")
def where(condition: Any, input: Any, other: Any) -> Jets:
    a, b = lift(input), lift(other)
    if isinstance(condition, Choice):
        return chosen(condition, lambda mask: where(mask, a, b))
    jets: Jets = rearranged(torch.where, (torch.as_tensor(condition), a, b), {})
    return jets


@means("masked_fill")
def _masked_fill(input: Any, mask: Any, value: Any) -> Jets:
    shape = common_shape(lift(input), options(mask))
    return where(mask, value, lift(input).broadcast_to(shape))


def decided(index: Any) -> Any:
    """An index that was computed, as plain numbers.  Raises LeftOpen where a tie may change one."""
    if not isinstance(index, Jets):
        return index
    found = [whole for c in index.cells if c.is_constant and (whole := c.value.unique_fmpz()) is not None]
    if len(found) < len(index.cells):
        raise LeftOpen("an index computed of a mask that a tie leaves open")
    return torch.tensor([int(whole) for whole in found], dtype=torch.int64).reshape(index.shape)


@means("gather")
def gather(input: Any, dim: int, index: Any, *, sparse_grad: bool = False) -> Jets:
    x = lift(input)
    if isinstance(index, Choice):
        return chosen(index, lambda plain: gather(x, dim, plain))
    index = decided(index)
    jets: Jets = rearranged(torch.gather, (x, dim, index), {})
    return jets


@means("take_along_dim")
def _take_along_dim(input: Any, indices: Any, dim: int) -> Jets:
    x = lift(input)
    shapes = [torch.Size((*each.shape[:dim], 1, *each.shape[dim:][1:])) for each in (x, indices)]
    shape = common_shape(*(Grid(shape, []) for shape in shapes))
    lengths = [[*shape[:dim], each.shape[dim], *shape[dim:][1:]] for each in (x, indices)]
    return gather(x.broadcast_to(lengths[0]), dim, indices.broadcast_to(lengths[1]))
