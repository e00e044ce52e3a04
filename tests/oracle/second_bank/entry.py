"""What an entry of the bank is, and how programs are put together from others."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from manual_bp.oracle import Case

F64, F32, BF16, F16 = torch.float64, torch.float32, torch.bfloat16, torch.float16
ALL = (F64, F32, BF16, F16)
WIDE = (F64, F32)
SIXTEEN = (BF16, F16)

Vjp = Callable[..., tuple[Any, tuple[Any, ...]]]
Due = Literal["wrong", "right"]


@dataclass(frozen=True)
class Program:
    """A candidate. Wrong: compare must not pass, strict or not. Right: it must pass, perhaps with a note."""

    name: str
    rule: str
    vjp: Vjp
    dtypes: tuple[torch.dtype, ...]
    due: Due
    why: str


@dataclass(frozen=True)
class Recorded:
    """Results without the program that made them."""

    name: str
    rule: str
    case: Case
    dtype: torch.dtype
    due: Due
    why: str
    beside: tuple[Case, ...] = ()
    """Right results that are judged in the same call, where the case alone could be met by returning 0."""


def computed_in(vjp: Vjp, compute: torch.dtype, only: tuple[torch.dtype, ...] = SIXTEEN) -> Vjp:
    """The program in another precision for inputs of some dtypes, every result rounded once at the end."""

    @functools.wraps(vjp)
    def run(inputs: tuple[Tensor, ...], dy: Tensor, **hyper: Any) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        dtype = dy.dtype
        if dtype not in only:
            return vjp(inputs, dy, **hyper)
        y, grads = vjp(tuple(x if x.dtype == torch.bool else x.to(compute) for x in inputs), dy.to(compute), **hyper)
        return y.to(dtype), tuple(g if g is None else g.to(dtype) for g in grads)

    return run


def only_in(dtypes: tuple[torch.dtype, ...], wrong: Vjp, right: Vjp) -> Vjp:
    """Wrong in the dtypes named, right in every other: a kernel that is specialised by dtype."""

    @functools.wraps(right)
    def run(inputs: tuple[Tensor, ...], dy: Tensor, **hyper: Any) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        return (wrong if dy.dtype in dtypes else right)(inputs, dy, **hyper)

    return run


def changed(vjp: Vjp, result: int | None, change: Callable[..., Tensor], sees_inputs: bool = False) -> Vjp:
    """One result of a program changed: cotangent number `result`, or y if it is None."""

    @functools.wraps(vjp)
    def run(inputs: tuple[Tensor, ...], dy: Tensor, **hyper: Any) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        y, grads = vjp(inputs, dy, **hyper)
        seen = inputs if sees_inputs else ()
        if result is None:
            return change(y, *seen), grads
        return y, tuple(change(g, *seen) if i == result else g for i, g in enumerate(grads))

    return run


def all_changed(vjp: Vjp, change: Callable[[Tensor], Tensor]) -> Vjp:
    """Every result of a program changed."""

    @functools.wraps(vjp)
    def run(inputs: tuple[Tensor, ...], dy: Tensor, **hyper: Any) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        y, grads = vjp(inputs, dy, **hyper)
        return change(y), tuple(g if g is None else change(g) for g in grads)

    return run


def recorded(
    vjp: Vjp, inputs: tuple[Any, ...], dy: Any, dtype: torch.dtype, name: str = "recorded", **hyper: Any
) -> Case:
    """What a program gives at some inputs, as a case."""
    tensors = tuple(
        x if isinstance(x, Tensor) and x.dtype == torch.bool else torch.as_tensor(x, dtype=dtype) for x in inputs
    )
    cotangent = torch.as_tensor(dy, dtype=dtype)
    y, grads = vjp(tuple(x.clone() for x in tensors), cotangent.clone(), **hyper)
    return Case(tensors, cotangent, hyper, name, y=y, grads=grads)
