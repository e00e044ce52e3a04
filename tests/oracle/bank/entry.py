"""What an entry of the bank is, and how it becomes a Vjp."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from manual_bp.oracle.calling.adapters import to_tensor
from manual_bp.rule import Grads
from manual_bp.signature import computing_dtype

Program = Callable[..., tuple[Any, ...]]
"""(*inputs, dy, **hyper) -> (y, one cotangent or None per input)."""


@dataclass(frozen=True)
class Entry:
    """A program for a rule.

    kind: what sort of mistake it is; "right" if it is none. cause: a regular expression that the first diagnosis must
    hold, whatever its case. arrays: what the program is called with, "torch" or "numpy".
    """

    rule: str
    name: str
    kind: str
    cause: str
    program: Program
    arrays: str = "torch"

    def vjp(self, inputs: tuple[Tensor, ...], dy: Tensor, **hyper: Any) -> tuple[Tensor, Grads]:
        """The program as a candidate.  16-bit numbers are widened for it and its results rounded once, as kernels do
        that compute in float32."""
        widened = [x.to(computing_dtype(x.dtype)) if x.is_floating_point() else x for x in (*inputs, dy)]
        if self.arrays == "numpy":
            with np.errstate(all="ignore"):
                results = self.program(*(x.numpy() for x in widened), **hyper)
        else:
            results = self.program(*widened, **hyper)
        y, *grads = (None if r is None else to_tensor(r, dy).to(dy.dtype) for r in results)
        return y, tuple(grads)

    def __str__(self) -> str:
        return f"{self.rule}-{self.name}"


class Bank(list[Entry]):
    """The entries of one rule, entered by decorating their programs."""

    def __init__(self, rule: str) -> None:
        super().__init__()
        self.rule = rule

    def wrong(self, kind: str, cause: str, arrays: str = "torch") -> Callable[[Program], Program]:
        return lambda program: self._enter(program, kind, cause, arrays)

    def right(self, arrays: str = "torch") -> Callable[[Program], Program]:
        return lambda program: self._enter(program, "right", "", arrays)

    def _enter(self, program: Program, kind: str, cause: str, arrays: str) -> Program:
        name = program.__name__.strip("_").replace("_", " ")
        if name in (entry.name for entry in self):
            raise ValueError(f"{self.rule} must have one entry of a name; came {name!r} again.")
        self.append(Entry(self.rule, name, kind, cause, program, arrays))
        return program


def rows(x: Tensor) -> Tensor:
    """All axes but the last as one."""
    return x.reshape(x.shape[:-1].numel(), x.shape[-1])
