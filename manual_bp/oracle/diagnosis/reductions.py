"""Sums: which reduction of the page's text would have to be taken otherwise.

A page's sums, means, matrix products and sums by index are found by running its text once under a dispatch mode, and
each is done wrongly by running it again; so a new page needs no entry here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from manual_bp.dispatch import Mode
from manual_bp.oracle.case import Case
from manual_bp.oracle.diagnosis.examination import Examination
from manual_bp.oracle.diagnosis.hypothesis import Explanation, Prediction, wide

aten = torch.ops.aten

SUMS = {aten.sum.default: "sum", aten.sum.dim_IntList: "sum", aten.mean.default: "mean", aten.mean.dim: "mean"}
PRODUCTS = (aten.mm.default, aten.bmm.default, aten.mv.default, aten.dot.default)

ADDED: Mapping[Any, Callable[..., Tensor]] = {
    aten.index_add.default: lambda x, dim, index, source, **_: aten.index_copy(x, dim, index, source),
    aten.scatter_add.default: lambda x, dim, index, source: aten.scatter(x, dim, index, source),
    aten.index_put.default: lambda x, indices, values, *_, **__: aten.index_put(x, indices, values),
}
"""What adds at an index, and what the same would be if it wrote there."""

Change = Callable[[Tensor, Any, tuple[Any, ...], Mapping[str, Any]], Tensor]
"""(right result, torch function, its arguments) -> wrong result."""


class Altered(Mode):
    """Runs a page's text with its reduction number `position` done otherwise; counts its reductions."""

    def __init__(self, position: int = -1, change: Change | None = None) -> None:
        super().__init__()
        self.position, self.change, self.seen = position, change, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        right = func(*args, **(kwargs or {}))
        if func not in SUMS and func not in PRODUCTS and func not in ADDED:
            return right
        self.seen += 1
        if self.change is None or self.seen != self.position + 1 or (func in ADDED) != (self.change is _written):
            return right
        return self.change(right, func, args, kwargs or {})


def sums_of_backward(found: Examination) -> Iterator[Explanation]:
    """A sum, mean or product of backward, taken otherwise."""

    def predict(position: int, change: Change, case: Case) -> Prediction:
        y, kept = found.forward(case)
        with Altered(position, change):
            return Prediction((y, *found.rule.bare_backward(kept, wide(case.dy))))

    case = found.rows[0][0].evidence.case
    _, kept = found.forward(case)
    with Altered() as text:  # how many reductions there are does not depend on the case
        found.rule.bare_backward(kept, wide(case.dy))
    for position, (words, change) in itertools.product(range(text.seen), CHANGES.items()):
        name = f"sum {position} of backward {words}"
        yield from found.matched(partial(predict, position, change), f"{{}}: one of its sums is {words}", name)


def sums_of_forward(found: Examination) -> Iterator[Explanation]:
    """Right from what forward keeps, had one of its sums (a mean, a variance) been taken otherwise."""

    def predict(position: int, change: Change, case: Case) -> Prediction:
        inputs = tuple(map(wide, case.inputs))
        with Altered(position, change):
            y, kept = found.rule.bare_forward(*inputs, **case.hyper)
        return Prediction((y, *found.rule.backward(kept, wide(case.dy))))

    case = found.rows[0][0].evidence.case
    with Altered() as text:
        found.rule.bare_forward(*map(wide, case.inputs), **case.hyper)
    for position, (words, change) in itertools.product(range(text.seen), CHANGES.items()):
        sentence = f"{{}} is what follows from a forward in which a sum is {words}"
        yield from found.matched(partial(predict, position, change), sentence, f"sum {position} of forward {words}")


def _reduced(func: Any, args: tuple[Any, ...]) -> tuple[int, ...]:
    """The axes of the first operand over which is summed."""
    if func in PRODUCTS:
        return (args[0].ndim - 1,)
    given = args[1] if len(args) > 1 and args[1] else range(args[0].ndim)
    return tuple(axis % args[0].ndim for axis in given)


def _count(func: Any, args: tuple[Any, ...]) -> int:
    return math.prod(args[0].shape[axis] for axis in _reduced(func, args))


def _times(function: Callable[[int], float], which: Sequence[str]) -> Change:
    """The reduction times a function of its count; only for the kinds `which`."""

    def change(right: Tensor, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        if SUMS.get(func, "product") not in which or _count(func, args) < 2:
            return right
        return right * function(_count(func, args))

    return change


def _first_only(axis: int) -> Change:
    """An axis is not summed: only its first element is taken."""

    def change(right: Tensor, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        if func not in SUMS or axis not in _reduced(func, args):
            return right
        taken: Tensor = func(args[0].narrow(axis, 0, 1), *args[1:], **kwargs)
        return taken

    return change


def _over(*over: int) -> Change:
    """A sum or mean over these axes, in place of its own; for one that has too few elements, whatever shape comes."""

    def change(right: Tensor, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        x = args[0]
        if func not in SUMS or max(over) >= x.ndim or set(over) == set(_reduced(func, args)):
            return right
        taken: Tensor = x.mean(over) if SUMS[func] == "mean" else x.sum(over)
        return taken

    return change


def _without_last(axis: int) -> Change:
    """The reduction without the last element of an axis; of a product, if it is axis 0."""

    def change(right: Tensor, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        a, *rest = args
        if func in PRODUCTS and axis == 0:
            b = rest[0]
            shorter: Tensor = func(a[..., :-1], b[:-1] if b.ndim == 1 else b[..., :-1, :])
            return shorter
        if func in PRODUCTS or axis not in _reduced(func, args):
            return right
        left: Tensor = func(a.narrow(axis, 0, max(a.shape[axis] - 1, 0)), *rest, **kwargs)
        return left

    return change


def _last_only(right: Tensor, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """Only the last summand: an assignment where the sum is to be accumulated."""
    a, *rest = args
    if func in PRODUCTS:
        b = rest[0]
        last: Tensor = func(a[..., -1:], b[-1:] if b.ndim == 1 else b[..., -1:, :])
        return last
    if 0 not in _reduced(func, args) or not a.shape[0]:
        return right
    only: Tensor = func(a[-1:], *rest, **kwargs)
    return only


def _written(right: Tensor, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """What is written at an index, and not added there."""
    return ADDED[func](*args, **kwargs)


def _transposed(operand: int) -> Change:
    """A matrix product whose operand is transposed; only where both are square is there a result."""

    def change(right: Tensor, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        if func not in PRODUCTS or args[operand].ndim < 2 or args[operand].shape[-1] != args[operand].shape[-2]:
            return right
        operands = list(args)
        operands[operand] = operands[operand].mT
        product: Tensor = func(*operands)
        return product

    return change


CHANGES: Mapping[str, Change] = {
    "a mean where a sum is due (1/n)": _times(lambda n: 1 / n, ("sum", "product")),
    "a sum where a mean is due (n)": _times(lambda n: n, ("mean",)),
    "divided by its count n once more": _times(lambda n: 1 / n, ("mean",)),
    "multiplied by its count n": _times(lambda n: n, ("sum", "product")),
    "divided by n - 1 and not by n": _times(lambda n: n / (n - 1), ("mean",)),
    "multiplied by n/(n-1)": _times(lambda n: n / (n - 1), ("sum", "product")),
    "taken without its last element": _without_last(0),
    "not accumulated: only its last element is taken": _last_only,
    **{f"taken without the last element of axis {axis}": _without_last(axis) for axis in range(1, 4)},
    **{f"not summed over axis {axis}: only its first element is taken": _first_only(axis) for axis in range(4)},
    "summed over axis 0 only": _over(0),
    "summed over axis 1 only": _over(1),
    "summed over axis 2 only": _over(2),
    "summed over axis 3 only": _over(3),
    "summed over axes 0 and 1": _over(0, 1),
    "summed over axes 1 and 2": _over(1, 2),
    "summed over axes 0 and 2": _over(0, 2),
    "summed over axes 1, 2 and 3": _over(1, 2, 3),
    "summed over axes 0, 1 and 3": _over(0, 1, 3),
    "summed over axes 0, 1 and 2": _over(0, 1, 2),
    "taken of a transposed first factor": _transposed(0),
    "taken of a transposed second factor": _transposed(1),
    "written where it is to be added, so that of what has the same index one alone is left": _written,
}
"""How a reduction is got wrong, in words that follow "a sum is"."""
