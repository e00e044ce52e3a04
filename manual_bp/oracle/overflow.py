"""Where a program overflows on the way: x / (x * x + 1) at 1e25, where x * x is infinite in float32.

The value of a function may be a number all the same (0 is returned there), and so may torch's derivative, which divides
twice where others square: what a right program returns there is a matter of the order in which it multiplies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from manual_bp.dispatch import Mode
from manual_bp.program.program import Evaluate, tensors_in


def without_overflown(evaluate: Evaluate) -> Evaluate:
    """As `evaluate`, with NaN where an operation overflows, which then spreads to whatever depends on it."""

    def evaluated(op: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        result = evaluate(op, args, kwargs)
        numbers = [x for x in tensors_in((args, kwargs)) if x.is_floating_point()]
        is_said = any(isinstance(x, float) and math.isinf(x) for x in args)
        if not numbers or is_said or not isinstance(result, Tensor) or not result.is_floating_point():
            return result
        usual = [_is_usual(x) for x in numbers]
        if torch.Tag.pointwise not in getattr(op, "tags", ()):  # of an element of the result, any may be an operand
            usual = [(x.isfinite().all() if x.numel() else torch.ones((), dtype=torch.bool)) for x in numbers]
        return result.masked_fill(reduce(torch.logical_and, usual, result.isinf()), torch.nan)

    return evaluated


class Watching(Mode):
    """overflown: at which elements an operation of torch with a result of this shape has overflowed so far."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.overflown = torch.zeros(shape, dtype=torch.bool)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        numbers = [x for x in tensors_in((args, kwargs or {})) if x.is_floating_point()]
        usual = [_is_usual(x) for x in numbers]  # before it, as it may be in place
        result = func(*args, **(kwargs or {}))
        is_said = any(isinstance(x, float) and math.isinf(x) for x in args)
        for made in tensors_in((result,)) if usual and not is_said else ():
            alike = made.is_floating_point() and made.shape == self.overflown.shape
            if alike and all(x.shape == made.shape or not x.ndim for x in usual):
                found = made.isinf()
                for each in usual:
                    found &= each
                self.overflown |= found.cpu()
        return result


def _is_usual(x: Tensor) -> Tensor:
    """Where an infinity made of it is an overflow: of an infinity, which a function may write itself, it is none, nor
    of 0, where 1 / x and log(x) have a pole."""
    return x.isfinite() & (x != 0)
