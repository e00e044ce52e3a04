"""Errors of every size: what is due, multiplied, moved to one side, or wrong in one place alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from manual_bp.oracle.audit.programs import Program, changed, judged, steady
from manual_bp.rule import Rule

SIZES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)
"""From what tests of float64 miss to what nobody can miss who looks."""

BETWEEN = (3e-6, 3e-5, 3e-4, 3e-3, 3e-2, 0.3, 3.0)
"""Of a factor so many more, since that is what most checkers are about."""


def one_sided(x: Tensor, size: float) -> Tensor:
    """Every element moved to the same side, by a fraction of itself."""
    return x + size * x.abs()


def scattered(x: Tensor, size: float) -> Tensor:
    """Every element too large or too small by turns that follow no order: their mean is nearly right."""
    signs = torch.randint(2, (x.numel(),), generator=torch.Generator().manual_seed(x.numel())) * 2 - 1
    return x * (1 + size * signs.reshape(x.shape).to(x))


def one_element(x: Tensor, size: float) -> Tensor:
    """One element, in the middle, off by a fraction of the largest."""
    wrong = x.clone(memory_format=torch.contiguous_format)
    if x.numel():
        wrong.view(-1)[x.numel() // 2] += size * x.abs().max()
    return wrong


def last_row(x: Tensor, size: float) -> Tensor:
    """The last row too large."""
    wrong = x.clone()
    if x.ndim and len(x):
        wrong[-1] *= 1 + size
    return wrong


def written(factor: float) -> str:
    """A factor in words, which near 1 shows by how much it differs."""
    off = factor - 1
    return f"(1 {'+' if off > 0 else '-'} {abs(off):.0e})" if abs(off) < 0.05 else f"{factor:.3g}"


ELEMENT, ROW = "one element off", "last row too large"

KINDS: dict[str, tuple[Callable[[Tensor, float], Tensor], Callable[[str, float], str]]] = {
    "too large": (lambda x, s: x * (1 + s), lambda a, s: f"{a} × {written(1 + s)}"),
    "too small or negated": (lambda x, s: x * (1 - s), lambda a, s: f"{a} × {written(1 - s)}"),
    "moved upwards": (one_sided, lambda a, s: f"{a} + {s:.0e} |{a}|"),
    "moved downwards": (lambda x, s: one_sided(x, -s), lambda a, s: f"{a} - {s:.0e} |{a}|"),
    "off at random": (scattered, lambda a, s: f"{a} off by ± {s:.0e} {a}, at random"),
    ELEMENT: (one_element, lambda a, s: f"one element of {a} off by {s:.0e} of the largest"),
    ROW: (last_row, lambda a, s: f"the last row of {a} × {written(1 + s)}"),
}
"""By kind, how a result is changed by an error of some size, and that in words.  1 less makes 0, and more negative."""

FACTORS = ("too large", "too small or negated")
SIDES = ("moved upwards", "moved downwards")


def sized_programs(rule: Rule) -> Iterator[Program]:
    """Every kind of error of every size, of each result."""
    for argument in judged(rule):
        for kind, (change, words) in KINDS.items():
            for size in sorted((*SIZES, *BETWEEN)) if kind in FACTORS else SIZES:
                answer = changed(argument, lambda x, change=change, size=size: change(x, size))  # type: ignore[misc]
                yield steady(kind, words(argument, size), answer, argument=argument, size=size)


def coarse_first(size: float | None) -> tuple[float, float]:
    """Sorts sizes so that the first few tell most: 1, a hundredth of it, a hundredth of that, then those between."""
    if size is None:
        return (0.0, 0.0)
    power = round(math.log10(size), 3)
    return (0.0 if power % 2 == 0 else 1.0 if power % 1 == 0 else 2.0, abs(power))
