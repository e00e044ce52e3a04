"""A recorded program on numbers that carry a bound on their error, by the table alone (bounded_tensor.py).

What torch does before an operation comes to the table, and the tensor that it wants back, take two thirds of the time
of one.  A program needs none of that: what each of its operations does is looked up once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded_table import NO_ERROR
from manual_bp.arithmetic.bounded_tensor import (
    Bounded,
    Carrying,
    Constant,
    Done,
    NotAtOnce,
    Numbers,
    UnknownFunctionError,
    done_by,
    done_so,
    pair_of,
    tensors_taken,
)
from manual_bp.arithmetic.operators import ALWAYS, CASTS, MADE, VIEWS, entered, rounded_on_entering, with_numbers
from manual_bp.arithmetic.paging import Paging, performed
from manual_bp.arithmetic.runs_at_once import performed_at_once
from manual_bp.dispatch import without_modes
from manual_bp.program.program import Node, Program, Ref, placed, refs_in, uncollected
from manual_bp.program.recording import recorded

aten = torch.ops.aten


class Step(NamedTuple):
    """An operation, ready to be done.

    done: of its arguments, where some of them carry a bound.  args: with what is known of them.  places: where results
    of earlier ones stand among them, if no list holds any.  carries: whether what is known carries a bound.  ends: the
    results that no later operation asks for, nor anybody else: of a long program all of them fill the memory.
    """

    op: Any
    done: Done
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    places: tuple[tuple[int, Ref], ...] | None
    carries: bool
    ends: tuple[int, ...]


@uncollected()
def run_bounded_program(program: Program, inputs: Sequence[Any], dtype: torch.dtype) -> Any:
    """The program's results for inputs some of which carry a bound: with `Numbers` among them.  Must be called where
    `Paging` is what comes first (`Paging.is_next`)."""
    steps = program.prepared.get(dtype)
    if steps is None:
        with without_modes():
            steps = program.prepared[dtype] = _steps(program, dtype)
    with torch._C._DisableTorchDispatch(), torch._C._AutoDispatchBelowAutograd():
        runs = max((x.runs for x in inputs if isinstance(x, Carrying)), default=0)
        return _run(program, steps, list(map(_as_numbers, inputs)), dtype, runs)


def _run(program: Program, steps: Sequence[Step], values: list[Any], dtype: torch.dtype, runs: int) -> Any:
    paging = Paging.running[-1]
    for op, done, known, kwargs, places, carries, ends in steps:
        if places is None:
            args, kwargs = placed(known, values), placed(kwargs, values)
            carries = any(isinstance(x, Carrying) for arg in args for x in (arg if type(arg) is list else (arg,)))
            in_runs = _runs(args) if runs else 0
        else:
            given, in_runs = list(known), 0
            for place, (position, item) in places:
                x = values[position] if item is None else values[position][item]
                given[place] = x
                if type(x) is Numbers:
                    carries = True
                    in_runs = in_runs or x.runs
            args = tuple(given)
        if in_runs:
            is_own = op in CASTS or not hasattr(op, "_schema")
            result = done(args, kwargs) if is_own else performed_at_once(op, done, args, kwargs, runs)
        elif carries:
            result = performed(op, done, args, kwargs)
            if type(result) is Numbers and (count := result.value.numel()) > paging.largest:
                paging.largest = count
        else:
            result = _plain(op, args, kwargs, dtype)
        values.append(result)
        for position in ends:
            values[position] = None
    return placed(program.results, values)


def _runs(args: Sequence[Any]) -> int:
    """In how many runs at once arguments come; 0 if there is no axis of runs."""
    each = (x for arg in args for x in (arg if type(arg) is list else (arg,)))
    return max((x.runs for x in each if type(x) is Numbers), default=0)


def _as_numbers(x: Any) -> Any:
    if not isinstance(x, Bounded):
        return entered(x)
    numbers = Numbers(x.value, x.error, x.dtype)
    numbers.terms, numbers.is_choice, numbers.runs = x.terms, x.is_choice, x.runs
    numbers.how, numbers.magnitude = x.how, x.magnitude
    if x.how and x.how.dice is not None and not bool(x.error.any()):
        numbers.error, numbers.has_erred = NO_ERROR.expand(x.value.shape), True
    return numbers


def _plain(op: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """What an operation gives of which no argument carries a bound."""
    args, wanted = tuple(x.number if isinstance(x, Constant) else x for x in args), kwargs.get("dtype")
    if op in CASTS:
        return _cast(args, kwargs, dtype)
    if op is aten.zeros.default and (wanted or torch.get_default_dtype()).is_floating_point:
        zero = torch.zeros(args[0], dtype=torch.float64)
        return done_so(Numbers(zero, zero.clone(), dtype), Paging.running[-1].how)
    if op in MADE:
        made = op(*args, **kwargs)
        if not made.is_floating_point():
            return made
        return rounded_on_entering(op(*args, **{**kwargs, "dtype": torch.float64}), dtype)
    result = op(*args, **kwargs)
    return entered(with_numbers(op, args, kwargs, result, dtype, are_bounded=True))


def _cast(args: tuple[Any, ...], kwargs: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """A number of the run has its precision already, and what is in it was none of the function's."""
    x, wanted = args[0], kwargs.get("dtype") or args[1]
    if isinstance(x, Carrying) and wanted.is_floating_point:
        if x.dtype is not torch.bool:
            return x
        made = Numbers(x.value, x.error, dtype)
        made.runs, made.has_erred = x.runs, x.has_erred
        return made
    if isinstance(x, Carrying):
        if x.runs:
            raise NotAtOnce(f"whole numbers made of {x.dtype}")
        return x.value.to(wanted)
    if not wanted.is_floating_point:
        return x.to(wanted)
    return x if x.dtype == dtype else rounded_on_entering(x, dtype)


def _steps(program: Program, dtype: torch.dtype) -> tuple[Step, ...]:
    results = {ref.position for ref in refs_in(program.results)}
    last = {ref.position: position for position, node in enumerate(program.nodes) for ref in node.refs}
    ends: dict[int, list[int]] = {}
    for position, asked_by in last.items():
        if position not in results:
            ends.setdefault(asked_by, []).append(position)
    operations = enumerate(program.nodes[program.inputs :], program.inputs)
    return tuple(_step(node, dtype, tuple(ends.get(position, ()))) for position, node in operations)


def _step(node: Node, dtype: torch.dtype, ends: tuple[int, ...]) -> Step:
    op, kwargs = node.op, dict(node.kwargs)
    args = tuple(map(entered, node.args)) if hasattr(op, "_schema") else node.args
    if kwargs.get("dtype") is not None and kwargs["dtype"].is_floating_point:
        kwargs["dtype"] = dtype
    if not hasattr(op, "_schema"):  # a formula, written with torch's functions
        done = _taken_apart(op, tuple(None if isinstance(x, Ref) else (x,) for x in args), dtype)
    else:
        done = _done(op, dtype)
        taken = tensors_taken(op)
        args = tuple(_constant(x, dtype) if i in taken else x for i, x in enumerate(args))
        op = aten.reshape.default if op in VIEWS else op  # what comes may lie in memory otherwise
    places = tuple((i, x) for i, x in enumerate(args) if isinstance(x, Ref))
    is_flat = len(places) == len(refs_in((args, kwargs)))
    carries = any(isinstance(x, Numbers) for x in args)
    return Step(op, done, args, kwargs, places if is_flat else None, carries, ends)


def _done(op: Any, dtype: torch.dtype) -> Done:
    if op in CASTS:
        return lambda args, kwargs: _cast(args, kwargs, dtype)
    if op in ALWAYS:
        return done_by(aten.view.default)

    def unknown(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        return done_by(op)(args, kwargs)

    try:
        return done_by(op)
    except UnknownFunctionError:  # which is none if nothing carries a bound
        return unknown


@cache  # of a loop one for all of its steps
def _taken_apart(formula: Any, known: tuple[Any, ...], dtype: torch.dtype) -> Done:
    """A formula of numbers that go element by element, which is the same program for all of their shapes.

    known: the arguments that are given, each in a tuple, and None for the others."""

    def function(*tensors: Tensor) -> Any:
        rest = iter(tensors)
        return formula(*(next(rest) if x is None else x[0] for x in known))

    one = torch.ones(1, dtype=torch.float64)
    program = recorded(function, [one.clone() for x in known if x is None])
    steps = _steps(program, dtype)

    def done(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        given = [x for x, is_known in zip(args, known, strict=True) if is_known is None]
        return _run(program, steps, given, dtype, _runs(args))

    return done


def _constant(x: Any, dtype: torch.dtype) -> Any:
    """A Python number as the tensor without axes that torch's dispatcher makes of it, in float64 if it is no whole."""
    if isinstance(x, bool) or not isinstance(x, int | float):
        return x
    tensor = torch.tensor(x, dtype=torch.float64 if isinstance(x, float) else torch.int64)
    return Constant(*pair_of(tensor, dtype), x)
