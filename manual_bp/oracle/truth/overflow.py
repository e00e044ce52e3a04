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
from manual_bp.program.program import tensors_in


class Watching(Mode):
    """overflown: at which elements an operation of torch with a result of this shape has overflowed so far."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.overflown = torch.zeros(shape, dtype=torch.bool)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        usual = _usual(func, args, kwargs or {})  # before it, as it may be in place
        result = func(*args, **(kwargs or {}))
        for made in tensors_in((result,)) if usual else ():
            alike = made.is_floating_point() and made.shape == self.overflown.shape
            if alike and all(x.shape == made.shape or not x.ndim for x in usual):
                self.overflown |= reduce(torch.logical_and, usual, made.isinf()).cpu()
        return result


class Spreading(Mode):
    """Where an operation of torch overflows NaN takes the place of its result, and spreads to whatever depends on it.
    An operation is one of torch's: what its kernel does inside is torch's matter.  has_spread: whether any has."""

    has_spread = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        usual = _usual(func, args, kwargs or {})
        result = func(*args, **(kwargs or {}))
        if usual and isinstance(result, Tensor) and result.is_floating_point():
            overflown = reduce(torch.logical_and, usual, result.isinf())
            if bool(overflown.any()):
                self.has_spread = True
                result.masked_fill_(overflown, torch.nan)
        return result


def _usual(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Of each tensor of numbers on which an operation works, where an infinity made of it is an overflow; nothing of
    one that is told of an infinity."""
    if any(isinstance(x, float) and math.isinf(x) for x in args):
        return []
    numbers = [x for x in tensors_in((args, kwargs)) if x.is_floating_point()]
    if torch.Tag.pointwise in func.tags:
        return [_is_usual(x) for x in numbers]
    return [x.isfinite().all() for x in numbers]  # of an element of the result, any may be an operand


def _is_usual(x: Tensor) -> Tensor:
    """Where an infinity made of it is an overflow: of an infinity, which a function may write itself, it is none, nor
    of 0, where 1 / x and log(x) have a pole."""
    return x.isfinite() & (x != 0)
