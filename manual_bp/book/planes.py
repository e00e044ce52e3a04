"""A small tensor as rows of cells with numbers, coloured by the template."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

# More cells are no longer numbers that can be read.
ROWS, COLUMNS = 5, 6


@dataclass(frozen=True)
class Cell:
    """One number; share: of the largest one, from −1 to 1, or None if it is not finite; wrong: beyond its allowance."""

    text: str
    share: float | None
    wrong: bool


@dataclass(frozen=True)
class Plane:
    title: str
    rows: tuple[tuple[Cell, ...], ...]


def window_of(due: Tensor, wrong: Tensor) -> tuple[Any, str]:
    """The part of a tensor that is shown, around the first wrong element, and how it is called: "" of the whole."""
    if due.ndim == 0:
        return ..., ""
    first = wrong.nonzero()[0].tolist() if bool(wrong.any()) else [0] * due.ndim
    index: list[Any] = list(first[:-2])
    said = [str(position) for position in index]
    for length, position, most in zip(due.shape[-2:], first[-2:], (ROWS, COLUMNS)[-min(due.ndim, 2) :], strict=True):
        start = 0 if position < most else min(position - most // 2, length - most)
        end = min(start + most, length)
        index.append(slice(start, end))
        said.append(":" if end - start == length else f"{start}:{end}")
    is_whole = all(part == ":" for part in said)
    return tuple(index), "" if is_whole else f"[{', '.join(said)}] of shape {tuple(due.shape)}"


def plane_of(title: str, values: Tensor, wrong: Tensor, digits: int) -> Plane:
    """A tensor of at most two axes."""
    numbers, marks = (x.reshape(-1, values.shape[-1] if values.ndim else 1).tolist() for x in (values, wrong))
    finite = [abs(value) for row in numbers for value in row if math.isfinite(value)]
    largest = max(finite, default=0.0)
    rows = (
        tuple(_cell(value, largest, mark, digits) for value, mark in zip(row, flags, strict=True))
        for row, flags in zip(numbers, marks, strict=True)
    )
    return Plane(title, tuple(rows))


def _cell(value: float, largest: float, wrong: bool, digits: int) -> Cell:
    if not math.isfinite(value):
        return Cell("NaN" if math.isnan(value) else "∞" if value > 0 else "−∞", None, wrong)
    text = f"{value:.{digits}g}" if value else "0"
    if "e" in text:
        mantissa, _, exponent = text.partition("e")
        text = f"{mantissa}e{int(exponent)}"
    return Cell(text.replace("-", "−"), value / largest if largest else 0.0, wrong)
