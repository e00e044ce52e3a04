"""Operators of torch.ops, as a recorded program holds them, in both arithmetics.

A page calls torch's functions, and ball arithmetic knows those by name; a program holds operators, which are functions
with every argument spelled out.  The mathematical function that a program computes has no precision: a cast from one
floating-point format to another is no operation of it, and numbers that it makes have the precision of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from manual_bp.arithmetic import bounded_table
from manual_bp.arithmetic.bounded_tensor import Bounded, Carrying, Numbers, as_tensor, done_so, pair_of
from manual_bp.program.program import Program, tensors_in

aten = torch.ops.aten

CASTS = (aten._to_copy.default, aten.to.dtype, torch.ops.prims.convert_element_type.default)
MADE = frozenset(
    op
    for name in ("zeros", "ones", "full", "empty", "arange", "linspace", "scalar_tensor", "eye", "empty_strided")
    for overload in getattr(aten, name).overloads()
    if overload != "out" and not overload.endswith("_out")
    for op in [getattr(getattr(aten, name), overload)]
)
"""Operators that make tensors of no other tensor."""

ALWAYS = (aten.reshape.default, aten.empty_strided.default)
"""Which torch itself takes apart on the way."""


VIEWS = (aten.view.default, aten._unsafe_view.default)


@cache  # asked of every operation that is recorded, and tables compare operators by their schemas
def is_bounded(op: Any) -> bool:
    """Whether running error analysis knows what an operator does to a bound, or needs not."""
    table = bounded_table
    known = (table.ARITHMETIC, table.DECISIONS, table.SHAPES, table.EXTREMES, table.SOLVED, table.FILLED)
    return any(op in each for each in (*known, table.CONSTANTS)) or op in MADE or op in CASTS or op in ALWAYS


def narrowest(program: Program) -> torch.dtype:
    """The coarsest format to which a program casts its numbers; float64 where it casts none."""
    dtypes = [torch.float64]
    for node in program.nodes:
        wanted = [*node.kwargs.values(), *(node.args[1:2] if node.op in CASTS else ())]
        dtypes += [x for x in wanted if isinstance(x, torch.dtype) and x.is_floating_point]
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)


def on_tensors(
    dtype: torch.dtype, are_bounded: bool = False
) -> Callable[[Any, tuple[Any, ...], Mapping[str, Any]], Any]:
    """How a program is run on tensors, or on bounded ones: its numbers have this dtype, whatever it cast them to.

    are_bounded: whether numbers that it makes itself carry a bound too.
    """

    def evaluate(op: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        wanted = kwargs.get("dtype")
        if are_bounded:
            args = tuple(as_tensor(entered(x)) for x in args)
        if op in VIEWS and not isinstance(args[0], Bounded):
            op = aten.reshape.default  # what comes may lie in memory in another way than what was recorded
        if op is aten.take.default:  # which torch.vmap runs one by one
            return args[0].reshape(-1)[args[1]]
        if op in CASTS:
            wanted = wanted or args[1]
            x = args[0]
            if wanted.is_floating_point and x.is_floating_point() and (x.dtype == dtype or isinstance(x, Bounded)):
                return x  # and else it is no number of the run, but a constant of the function's
            if wanted.is_floating_point:
                return as_tensor(rounded_on_entering(args[0], dtype)) if are_bounded else args[0].to(dtype)
        elif op in MADE:
            made = op(*args, **kwargs)
            if not made.is_floating_point():
                return made
            if are_bounded:
                return as_tensor(rounded_on_entering(op(*args, **{**kwargs, "dtype": torch.float64}), dtype))
            return made.to(dtype)
        elif wanted is not None and wanted.is_floating_point:
            kwargs = {**kwargs, "dtype": dtype}
        return as_tensor(with_numbers(op, args, kwargs, op(*args, **kwargs), dtype, are_bounded))

    return evaluate


def with_numbers(
    op: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any, dtype: torch.dtype, are_bounded: bool
) -> Any:
    """The result, or what it is in the precision of the run where an operation made numbers of none: a quotient of
    whole numbers."""
    is_other = isinstance(result, Tensor) and result.dtype is not dtype and result.is_floating_point()
    if not is_other or any(x.is_floating_point() for x in tensors_in(args)):
        return result
    wide = (x.double() if isinstance(x, Tensor) and x.dtype is not torch.bool else x for x in args)
    made = op(*wide, **kwargs)
    return rounded_on_entering(made, dtype) if are_bounded else made.to(dtype)


def entered(x: Any) -> Any:
    """A tensor without axes is what torch made of a Python number, which may have been rounded."""
    if type(x) is not Tensor or x.ndim or not x.is_floating_point():
        return x
    value, error = pair_of(x, x.dtype)
    return Numbers(value, error.expand_as(value).clone(), x.dtype)


def rounded_on_entering(made: Tensor, dtype: torch.dtype) -> Carrying:
    """Numbers as bounded ones: each as `bounded_table.number` has a Python number."""
    if isinstance(made, Bounded):  # zeros, which a page may write into
        return done_so(Numbers(made.value, made.error, dtype), made.how)
    value = made.double()
    is_exact = (value.float().double() == value) | (value.abs() == torch.finfo(torch.float64).max)
    return Numbers(value, torch.where(is_exact, 0.0, 2 * bounded_table.precision(dtype).u * value.abs()), dtype)


def on_jets(op: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What an operator gives where some arguments are jets.  Raises UnknownFunction."""
    from manual_bp.arithmetic.balls import MEANINGS, Grid, Jets, UnknownFunction, apply, rearranged

    def holds_grid(x: Any) -> bool:
        return isinstance(x, Grid) or (isinstance(x, tuple | list) and any(map(holds_grid, x)))

    if not holds_grid(args) and not holds_grid(tuple(kwargs.values())):
        return on_tensors(torch.float64)(op, args, kwargs)
    if not hasattr(op, "_schema"):  # a formula, written with torch's functions
        return op(*args, **kwargs)
    name = op._schema.name.partition("::")[2]
    if op in CASTS:
        wanted = kwargs.get("dtype") or args[1]
        if isinstance(args[0], Jets) and wanted.is_floating_point:
            return args[0]
        return _as_whole(args[0], wanted)
    meant = NAMES.get(name, name)
    if meant in MEANINGS or meant == "getitem":
        args = args[: ARGUMENTS.get(name, len(args))]
        if meant == "getitem":
            args = args[0], tuple(slice(None) if i is None else i for i in args[1])
        return apply(meant, args, {key: value for key, value in kwargs.items() if key != "memory_format"})

    def moving(*given: Any, **named: Any) -> Any:
        return op(*given, **named)

    if op not in bounded_table.SHAPES and op not in ALWAYS:
        raise UnknownFunction(name)
    moving.__name__ = name
    return rearranged(moving, args, dict(kwargs))


def _as_whole(x: Any, dtype: torch.dtype) -> Tensor:
    """Numbers that nothing moves and that are whole, as a plain tensor.  Raises UnknownFunction for others."""
    from manual_bp.arithmetic.balls import Jets, UnknownFunction

    cells = x.cells if isinstance(x, Jets) else []
    wholes = [whole for c in cells if c.is_constant and (whole := c.value.unique_fmpz()) is not None]
    if not isinstance(x, Jets) or len(wholes) < len(cells):
        raise UnknownFunction(f"a conversion to {dtype} of what the inputs move")
    return torch.tensor([int(whole) for whole in wholes], dtype=dtype).reshape(x.shape)


NAMES = {"_softmax": "softmax", "_log_softmax": "log_softmax", "index": "getitem"}
"""Operators whose function has another name."""
ARGUMENTS = {"_softmax": 2, "_log_softmax": 2}
"""So many of their arguments are the function's; the others are about formats."""
