"""What an entry of the third bank is, and in which precision its programs run."""

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.oracle.second_bank.entry import ALL, BF16, F16, F32, F64, SIXTEEN, WIDE, Program, Vjp

__all__ = [
    "ALL",
    "BF16",
    "F16",
    "F32",
    "F64",
    "SIXTEEN",
    "WIDE",
    "Entry",
    "Vjp",
]


@dataclass(frozen=True)
class Entry(Program):
    """A candidate; `due` is "right", "wrong" or "loses digits", which must at least be noted and fails under strict."""

    shows: str = ""
    """The probe (see `probes`) at which a program that isn't right is seen to be wrong."""


def cast(x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Numbers in another precision; an index, or what is absent, as it is."""
    return x.to(dtype) if x is not None and x.is_floating_point() else x


def in_precision(vjp: Vjp, compute: torch.dtype, only: tuple[torch.dtype, ...]) -> Vjp:
    """The program in another precision for numbers of some dtypes, every result rounded once at the end."""

    @functools.wraps(vjp)
    def run(inputs: tuple[Tensor | None, ...], dy: Tensor, **hyper: Any) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        dtype = dy.dtype
        if dtype not in only:
            return vjp(inputs, dy, **hyper)
        y, grads = vjp(tuple(cast(x, compute) for x in inputs), dy.to(compute), **hyper)
        return y.to(dtype), tuple(cast(g, dtype) for g in grads)

    return run


def in_float32(vjp: Vjp) -> Vjp:
    """16-bit numbers computed in float32, as kernels do."""
    return in_precision(vjp, F32, SIXTEEN)


def right(rule: str, name: str, vjp: Vjp, why: str, dtypes: tuple[torch.dtype, ...] = ALL) -> Entry:
    return Entry(f"{rule}: {name}", rule, in_float32(vjp), dtypes, "right", why)


def native(rule: str, name: str, vjp: Vjp, why: str, dtypes: tuple[torch.dtype, ...] = ALL) -> Entry:
    """A right program that gets 16-bit numbers as they are."""
    return Entry(f"{rule}: {name}", rule, vjp, dtypes, "right", why)


def wrong(rule: str, name: str, vjp: Vjp, shows: str, why: str, dtypes: tuple[torch.dtype, ...] = ALL) -> Entry:
    return Entry(f"{rule}: {name}", rule, in_float32(vjp), dtypes, "wrong", why, shows)


def faulty(rule: str, name: str, vjp: Vjp, shows: str, why: str, dtypes: tuple[torch.dtype, ...] = ALL) -> Entry:
    """A wrong program that gets every tensor as it is: its fault lies in dtypes, layouts, or what it keeps."""
    return Entry(f"{rule}: {name}", rule, vjp, dtypes, "wrong", why, shows)


def loses(rule: str, name: str, vjp: Vjp, shows: str, why: str, dtypes: tuple[torch.dtype, ...] = ALL) -> Entry:
    return Entry(f"{rule}: {name}", rule, in_float32(vjp), dtypes, "loses digits", why, shows)
