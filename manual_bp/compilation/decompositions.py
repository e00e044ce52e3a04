"""Operations that inductor compiles to slow or inexact code on the CPU, in terms of others; a GPU has them too.

Each computes the same function as the operation that it stands for; the oracle judges the compiled rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten

# An axis of at most so many elements is unrolled, so that the code is vectors over the axis before it.
FEW = 16
# Below this |x|, eˣ − 1 is summed as a series.  From here on the subtraction multiplies the error of the exponential by
# at most 1.5: by e^-½/(1 − e^-½), for h = e^(x/2) at 1 as for eˣ at ½.
SERIES_BELOW = 0.5
SERIES_OF_HALVES_BELOW = 1.0
# From here on erfc is below erf, so that 1 − erfc does not cancel.
ERF_SERIES_BELOW = 0.5


def expm1(x: Tensor) -> Tensor:
    """eˣ − 1 = (h + 1)(h − 1), h = e^(x/2), with all its digits.  Inductor's own is exp(x) − 1, which cancels near 0.

    The derivative of ELU needs h too, so that there is one exponential and not two.
    """
    h = torch.exp(x / 2)
    return torch.where(x.abs() < SERIES_OF_HALVES_BELOW, _series(x, SERIES_OF_HALVES_BELOW), (h + 1) * (h - 1))


def _series(x: Tensor, below: float) -> Tensor:
    """Σ xⁱ/i! from i = 1 on, with as many terms as change the sum: the first one left out is below^n/(n+1)! of it."""
    terms = next(n for n in range(1, 100) if below**n / math.factorial(n + 1) < torch.finfo(x.dtype).eps / 4)
    series = torch.full_like(x, 1 / math.factorial(terms))
    for i in range(terms - 1, 0, -1):
        series = series * x + 1 / math.factorial(i)
    return series * x


def sigmoid(x: Tensor) -> Tensor:
    """1/(1 + e^−x) by e = e^−|x|, which the derivative needs too, so that there is one exponential and not two."""
    e = torch.exp(-x.abs())
    return torch.where(x < 0, e, 1) / (1 + e)


def tanh(x: Tensor) -> Tensor:
    """(1 − e)/(1 + e) by e = e^−2|x|, which the derivative needs too."""
    z = -2 * x.abs()
    e = torch.exp(z)
    one_less_e = torch.where(z > -SERIES_BELOW, -_series(z, SERIES_BELOW), 1 - e)
    return torch.copysign(one_less_e / (1 + e), x)


def erf(x: Tensor) -> Tensor:
    """2/√π ∫ e^−t² from 0 to x, with all its digits.  Inductor's own is a polynomial whose error is 10⁻⁷ near 0 too.

    Near 0 it is the series 2/√π Σ (−x²)ⁿ x/(n! (2n + 1)), with as many terms as change the sum; elsewhere 1 − erfc |x|,
    which multiplies the error of erfc by less than 1.
    """
    square, below = x * x, ERF_SERIES_BELOW**2
    terms = next(n for n in range(1, 100) if below**n / math.factorial(n) < torch.finfo(x.dtype).eps / 4)
    series = torch.full_like(x, (-1) ** terms / (math.factorial(terms) * (2 * terms + 1)))
    for n in range(terms - 1, -1, -1):
        series = series * square + (-1) ** n / (math.factorial(n) * (2 * n + 1))
    near = x.abs() < ERF_SERIES_BELOW
    return torch.where(near, 2 / math.sqrt(math.pi) * x * series, torch.copysign(1 - torch.erfc(x.abs()), x))


def argmax(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """The index of the first maximum along a short last axis; NaN counts as the largest."""
    if not _short_last_axis(x, dim):
        return NotImplemented  # type: ignore[no-any-return]  # as torch's decompositions say that they pass
    first, *others = x.unbind(-1)
    largest, index = first, torch.zeros_like(first, dtype=torch.int64)
    for i, other in enumerate(others, start=1):
        larger = (other > largest) | (other.isnan() & ~largest.isnan())
        largest, index = torch.where(larger, other, largest), torch.where(larger, i, index)
    return index.unsqueeze(-1) if keepdim else index


def gather(x: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False) -> Tensor:
    """One element of each row of a short last axis."""
    if not _short_last_axis(x, dim) or index.shape != (*x.shape[:-1], 1):
        return NotImplemented  # type: ignore[no-any-return]
    first, *others = x.unbind(-1)
    found = first
    for i, other in enumerate(others, start=1):
        found = torch.where(index[..., 0] == i, other, found)
    return found.unsqueeze(-1)


def spread(condition: Tensor, x: Tensor, other: float) -> Tensor:
    """where(condition, x, other) for an x that is the same all along a short last axis of the condition."""
    if not _short_last_axis(condition, -1) or x.shape != (*condition.shape[:-1], 1) or condition.shape[-1] < 2:
        return NotImplemented  # type: ignore[no-any-return]
    return torch.stack([torch.where(chosen, x[..., 0], other) for chosen in condition.unbind(-1)], dim=-1)


def _short_last_axis(x: Tensor, dim: int | None) -> bool:
    if dim is None or x.ndim == 0 or dim % x.ndim != x.ndim - 1:
        return False
    length = x.shape[-1]
    return isinstance(length, int) and 0 < length <= FEW  # one that may be any is a SymInt


DECOMPOSITIONS: dict[Any, Callable[..., Tensor]] = {
    aten.expm1.default: expm1,
    aten.sigmoid.default: sigmoid,
    aten.tanh.default: tanh,
    aten.erf.default: erf,
    aten.argmax.default: argmax,
    aten.gather.default: gather,
    aten.where.ScalarOther: spread,
}
