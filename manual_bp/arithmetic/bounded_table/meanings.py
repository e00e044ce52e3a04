"""The table: which aten function means what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded_table.formats import Pair

aten = torch.ops.aten

ARITHMETIC: dict[Any, tuple[tuple[int, ...], Callable[..., Pair]]] = {}
"""By aten function: which of its arguments are numbers, and its meaning: of the precision and the arguments, with pairs
for the numbers among them, the pair of the result."""

EXTREMES: dict[Any, Callable[..., tuple[Pair, Tensor]]] = {}
"""By aten function: of the precision and its arguments, the first of them as a pair, the pair and the indices of what
is the largest or comes first."""

SOLVED: dict[Any, tuple[int, Callable[..., tuple[Any, ...]]]] = {}
"""By aten function: how many of its first arguments are numbers, and its meaning: of the precision and the arguments,
with pairs for the numbers, its results, pairs or plain tensors."""

Meaning = TypeVar("Meaning", bound=Callable[..., Any])


def arithmetic(*functions: Any, operands: int | tuple[int, ...]) -> Callable[[Meaning], Meaning]:
    """Enter a meaning for one or more aten functions, of which so many first arguments, or those, are numbers."""
    positions = tuple(range(operands)) if isinstance(operands, int) else operands

    def enter(meaning: Meaning) -> Meaning:
        ARITHMETIC.update(dict.fromkeys(functions, (positions, meaning)))
        return meaning

    return enter


def extreme(*functions: Any) -> Callable[[Meaning], Meaning]:
    """Enter a meaning of functions that return values and indices."""

    def enter(meaning: Meaning) -> Meaning:
        EXTREMES.update(dict.fromkeys(functions, meaning))
        return meaning

    return enter


def solving(*functions: Any, operands: int = 1) -> Callable[[Meaning], Meaning]:
    """Enter a meaning of functions of matrices that return several results."""

    def enter(meaning: Meaning) -> Meaning:
        SOLVED.update(dict.fromkeys(functions, (operands, meaning)))
        return meaning

    return enter
