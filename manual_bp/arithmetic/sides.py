"""Where the side of a kink is open on which a program is: what is right on either of them.

x w may be 1e-50, and the slope of relu there is that of numbers above 0; in float32 x w is 0, and the program at the
kink.  A branch is open

    by underflow   where the number lies nearer to its limit than the bound on its rounding error (bounded.py), and
                   would not if there were no smallest number, so that errors were roundings alone
    by rounding    where it lies nearer than that bound, or is its limit

and an input is what it is.  The page is then run with such numbers on the limit, just below and just above it, one
branch at a time: a right program is between the least and the most of what comes, as far as its roundings let it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import Contract, How, leave, run_bounded
from manual_bp.arithmetic.bounded_table import BRANCHES
from manual_bp.arithmetic.bounded_tensor import Carrying, Numbers, pair_of
from manual_bp.arithmetic.paging import Decide, beside, limits_of
from manual_bp.rule import Rule

BESIDE = (-1, 1)
# Where elements share sums their open branches are tried by turns, so many at most: each is two runs of the page.
TURNS = 8


class Branch(NamedTuple):
    """One branch as it was run.  difference: of the number and its limit.  error: of both together."""

    difference: Tensor
    error: Tensor


IsOpen = Callable[[Branch, Branch], Tensor]
"""Of a branch, and of the same one if nothing underflows: where it is open."""


class Between(NamedTuple):
    """What a right program may have, roundings included; NaN where no branch is open that changes anything."""

    least: Tensor
    most: Tensor


def between(
    rule: Rule,
    inputs: tuple[Tensor | None, ...],
    dy: Any,
    contract: Contract,
    is_open: IsOpen,
    accumulate: torch.dtype | None = None,
    **hyper: Any,
) -> tuple[Between | None, ...]:
    """Of each output and each cotangent of somebody's function, None for one that is absent; of none if no branch is
    open.  accumulate: the precision in which sums are added up, if it is another one."""

    def run(decide: Decide, how: How = How()) -> tuple[Tensor | None, ...]:  # noqa: B008
        how = how._replace(accumulate=accumulate)
        y, grads, _ = run_bounded(rule, inputs, dy, contract, (None, None), how, hyper, lambda x: x, decide)
        return (*y, *grads)

    watching, without = Watching(), Watching()
    run(watching, How(enters_exactly=True))
    run(without, How(enters_exactly=True, underflows=False))
    open_ = [is_open(*both) for both in zip(watching.branches, without.branches, strict=True)]

    def pushed(sides: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
        try:
            return run(Pushing(open_, sides))
        except ValueError:  # on that side the function is not defined
            return ()

    columns = [pushed([torch.zeros(mask.shape) for mask in open_])]  # all on their limits
    for turn in _turns(watching.branches, open_, 1 if rule.elementwise else TURNS):
        for direction in BESIDE:
            columns.append(pushed([direction * where for where in turn]) or columns[0])
    if len(columns) == 1 or not columns[0]:
        return ()
    return tuple(None if same[0] is None else _hull(same, contract) for same in zip(*columns, strict=True))


def by_underflow(branch: Branch, without: Branch) -> Tensor:
    """A difference of 0 has an error from underflow alone where it has underflowed in float64 itself."""
    gap = branch.difference.abs()
    return (gap <= branch.error) & (branch.error > without.error) & ((gap > without.error) | (gap == 0))


def by_rounding(branch: Branch, without: Branch) -> Tensor:
    return branch.difference.abs() <= branch.error


def _turns(branches: Sequence[Branch], open_: Sequence[Tensor], most: int) -> Iterator[list[Tensor]]:
    """By turns, to which side of its limit each number of each branch goes where another one goes above: 1, -1 where
    they are compared the other way round, and 0 if it stays.  What is compared twice is one branch.

    most: by so many turns go the elements of one branch.
    """
    left = [position for position, mask in enumerate(open_) if bool(mask.any())]
    while left:
        first, where = left[0], open_[left[0]]
        gaps = branches[first].difference[where]
        together = {}
        for position in left:
            other = branches[position].difference[open_[position]]
            orientation = 1 if torch.equal(other, gaps) else -1 if torch.equal(other, -gaps) else 0
            if orientation and torch.equal(open_[position], where):
                together[position] = orientation
        left = [position for position in left if position not in together]
        number = (where.flatten().cumsum(0) - 1).reshape(where.shape) % most
        for turn in range(min(most, int(where.sum()))):
            chosen = (where & (number == turn)).float()
            yield [chosen * together.get(i, 0) if i in together else torch.zeros(m.shape) for i, m in enumerate(open_)]


def _hull(column: Sequence[Any], contract: Contract) -> Between:
    """Of what the runs gave: that on all limits, and then of each turn that below and that above them."""
    base, *moved = (pair_of(x, contract.compute)[0] for x in column)
    error = torch.stack([leave(x, contract) for x in column]).amax(0)
    steps = [torch.stack([base - base, *(x - base for x in two)]) for two in zip(moved[::2], moved[1::2], strict=True)]
    least, most = base - error, base + error
    for step in steps:
        least, most = least + step.amin(0), most + step.amax(0)
    is_moved = torch.stack([(step != 0).any(0) for step in steps]).any(0)
    return Between(*(torch.where(is_moved, end, torch.nan) for end in (least, most)))


class Watching:
    """Keeps every branch that is run."""

    def __init__(self) -> None:
        self.branches: list[Branch] = []

    def __call__(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        for limit in _limits(func, args, kwargs):
            self.branches.append(Branch(*beside(args[0], limit)))
        return args


class Pushing:
    """Puts numbers on their limits or just beside them.

    open_, sides: of every branch, in order, where; and which: 0 is on the limit, -1 below it and 1 above.
    """

    def __init__(self, open_: Sequence[Tensor], sides: Sequence[Tensor]) -> None:
        self._left = list(zip(open_, sides, strict=True))[::-1]

    def __call__(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        for limit in _limits(func, args, kwargs):
            where, side = self._left.pop()
            if bool(where.any()):
                x, (value, _) = args[0], pair_of(limit, args[0].dtype)
                beside = torch.where(side == 0, value, torch.nextafter(value, side.double() * torch.inf))
                pushed = torch.where(where, beside, x.value), torch.where(where, 0.0, x.error)
                args = (Numbers(*pushed, x.dtype), *args[1:])
        return args


def _limits(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    return limits_of(args, kwargs) if func in BRANCHES and isinstance(args[0], Carrying) else []
