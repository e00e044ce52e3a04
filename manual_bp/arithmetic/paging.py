"""The mode in which a page is run on bounded tensors, and what it notes there: where errors leave open what follows.

A bound says nothing of a program that takes another branch, or orders numbers otherwise.  So it is noted where a number
lies nearer to a limit, to a jump or to another number than their errors, and what depends on it is judged elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from manual_bp.arithmetic import bounded_table
from manual_bp.arithmetic.bounded_table import precision
from manual_bp.arithmetic.bounded_tensor import Bounded, Carrying, Done, How, done_so, pair_of
from manual_bp.dispatch import Mode

aten = torch.ops.aten

# An input has one rounding, as the number that it is in float64 rounds to another one in what is computed in.
INPUT = 1.5


class Running(Mode):
    """Where many operations on `Bounded` are due.  They need no mode, but for the first of them outside one torch
    imports all its distributed tensors, which takes longer than most analyses."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if Bounded in types:
            return Bounded.__torch_dispatch__(func, types, args, kwargs)
        return func(*args, **(kwargs or {}))


Decide = Callable[[Any, tuple[Any, ...], Mapping[str, Any]], tuple[Any, ...]]
"""Of an aten function and its arguments: what stands in place of those without a name."""


def as_it_is(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    return args


class Paging(Running):
    """Where a page is run: zeros that it makes are bounded numbers too, so that it may add to them in place."""

    running: ClassVar[list[Paging]] = []

    def __init__(self, how: How | None = None, notes: bool = False, decide: Decide = as_it_is) -> None:
        """notes: whether it is noted if an order was decided that the bounds leave open (is_undecided), or a branch
        (is_close), and if numbers may be equal on which either depends (is_tied), or computed ones are on whose order
        something depends (is_order_tied).  It is of a recorded program, which writes nothing in place.  decide: what
        stands in place of an operation's arguments, where that is noted.  largest: how many elements the largest tensor
        has that was made."""
        super().__init__()
        self.decide = decide
        self.largest = 0
        self.how = how
        self.notes = notes
        self.is_undecided = False
        self.is_close = False
        self.is_tied = False
        self.is_order_tied = False

    def __enter__(self) -> Paging:
        self.running.append(self)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        self.running.pop()
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if Bounded in types:
            if self.notes:
                result = self.noted(func, partial(Bounded.__torch_dispatch__, func, types), args, kwargs or {})
            else:
                result = Bounded.__torch_dispatch__(func, types, args, kwargs)
            if isinstance(result, Tensor) and result.numel() > self.largest:
                self.largest = result.numel()
            return result
        result = func(*args, **(kwargs or {}))
        if func is aten.zeros.default and result.is_floating_point():
            zero = torch.zeros(result.shape, dtype=torch.float64)
            return done_so(Bounded(zero, zero.clone(), result.dtype), self.how)
        return result

    def is_next(self) -> bool:
        """Whether it is this mode to which the dispatcher comes first: no other was entered since, nor torch.vmap."""
        return _get_current_dispatch_mode() is self and torch._C._functorch.peek_interpreter_stack() is None

    def noted(self, func: Any, done: Done, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        args = self.decide(func, args, kwargs)
        if not _is_noted(func):
            return done(args, kwargs)
        if func in bounded_table.BRANCHES:
            self._note_branch(args[0], *limits_of(args, kwargs))
        if func in bounded_table.JUMPING and isinstance(args[0], Carrying):
            self._note_jump(func, args[0])
        is_place = func in bounded_table.PLACES and len(args) > 1
        if (is_place or func in bounded_table.EXTREMES) and isinstance(args[0], Carrying):
            self._note_order(args[0], _dimension(func, args, kwargs))
        result = done(args, kwargs)
        if func in bounded_table.OF_REGULAR:
            self._note_singular(args[0], result[0] if isinstance(result, tuple) else result)
        if func in bounded_table.SIGNS:  # as of every branch sides.py tells what is right on either side of it
            result.error = torch.zeros_like(result.error)
        return result

    def _note_branch(self, x: Any, *limits: Any) -> None:
        """Note where a number lies nearer to a limit than its error, so that another program may take the other branch.
        One that is the limit itself is at a kink, for which there is a convention."""
        if not isinstance(x, Carrying):
            return
        for limit in limits:
            difference, error = beside(x, limit)
            open_ = difference.abs() <= error
            if bool(open_.any()):
                self.is_tied = True
                self.is_close |= bool((open_ & (difference != 0)).any())

    def _note_jump(self, func: Any, x: Carrying) -> None:
        """Note where a computed number lies nearer to a jump than its error, so that another program may be on the
        other side."""
        computed = _computed(x)
        is_open = func(x.value - computed) != func(x.value + computed)
        self.is_undecided |= bool((is_open & x.value.isfinite()).any())

    def _note_order(self, x: Carrying, dim: int) -> None:
        """Note where two numbers lie nearer to each other than their errors, so that another program may order them in
        another way.  Equal ones are a tie, for which there is a convention; but computed ones may be so here alone, as
        the products with equal rows of a matrix, of which a kernel may add up the last columns in another order."""
        if not x.ndim or not x.value.numel():
            return
        values, order = x.value.sort(dim)
        errors, computed = (e.gather(dim, order) for e in (x.error, _computed(x)))
        last = values.shape[dim] - 1
        gaps = values.narrow(dim, 1, last) - values.narrow(dim, 0, last)
        open_ = gaps <= errors.narrow(dim, 1, last) + errors.narrow(dim, 0, last)
        is_computed = computed.narrow(dim, 1, last) + computed.narrow(dim, 0, last) > 0
        self.is_tied |= bool(open_.any())
        self.is_order_tied |= bool(((gaps == 0) & is_computed).any())
        self.is_undecided |= bool((open_ & (gaps > 0)).any())

    def _note_singular(self, x: Carrying, result: Carrying) -> None:
        """Note where a matrix may be singular, so that programs have there what their roundings make of it."""
        if bool(x.value.isfinite().all()):
            self.is_undecided |= bool(result.error.isinf().any())


def beside(x: Carrying, limit: Any) -> tuple[Tensor, Tensor]:
    """The difference of a number and a limit, and the error of both: nothing is open where that is smaller.

    It is below 0 where a choice was made that is the limit itself: torch's derivative of relu asks whether relu(x) is
    above 0, which is 0 for half of all numbers, and the branch was that of x."""
    value, error = pair_of(limit, x.dtype)
    difference, both = x.value - value, x.error + error
    return difference, torch.where((difference == 0) & (both == 0), -1.0, both) if x.is_choice else both


@cache  # each table that is asked for an operation hashes it anew, which is done in Python
def _is_noted(func: Any) -> bool:
    """Whether an operation may leave something open."""
    table = bounded_table
    tables = (table.BRANCHES, table.JUMPING, table.PLACES, table.EXTREMES, table.OF_REGULAR)
    return any(func in each for each in tables)


def _computed(x: Carrying) -> Tensor:
    """The errors of computed numbers.  An input, which has one rounding at most, is what it is."""
    return torch.where(x.error > INPUT * precision(x.dtype).u * x.value.abs(), x.error, 0.0)


def limits_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    """With what a branch compares its first argument: with 0, if with no other."""
    given = (*args[1:3], *kwargs.values()) if len(args) > 1 or kwargs else (0.0,)
    return [limit for limit in given if limit is not None and not isinstance(limit, bool)]


def _dimension(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """Along which an order is decided."""
    names = [argument.name for argument in func._schema.arguments]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    return int(given.get("dim", -1))


def performed(func: Any, done: Done, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What an operation gives, and what it leaves open noted where that is asked.  done: what is done instead."""
    paging = Paging.running[-1] if Paging.running else None
    return paging.noted(func, done, args, kwargs) if paging and paging.notes else done(args, kwargs)
