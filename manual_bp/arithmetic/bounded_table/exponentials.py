"""Exponentials that add up: softmax, its logarithm, and log Σ eˣ.

With m the largest x, d = x − m, s = Σ e^d and p = e^d / s, a program computes e^d / s, d − log s and m + log s.

Propagated.  If x_j is off by up to e_j, then p_i changes by a factor between 1/(1 + F) and 1/(1 − N),

    F = Σ_{j≠i} p_j (e^(e_i + e_j) − 1),    N = Σ_{j≠i} p_j (1 − e^−(e_i + e_j)),

to first order p_i ((1 − p_i) e_i + Σ_{j≠i} p_j e_j): relative to p_i itself, however large the x are that cancel, and
nothing where one of them has all the weight.

Fresh.  Each d is rounded once, which e^d turns into u |d| relatively; s has these errors by weight, those of the
exponentials, and the roundings of a sum.
"""

from __future__ import annotations

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded_table.elementary import times
from manual_bp.arithmetic.bounded_table.formats import EXACT, Pair, Precision, rounded, ulps
from manual_bp.arithmetic.bounded_table.meanings import arithmetic, aten
from manual_bp.arithmetic.bounded_table.sums import Axes, axes_of, count

ROUNDING = torch.finfo(torch.float64).eps
"""What the weights of the other elements, 1 − p_i, may be off by in float64 themselves."""


class _Shifted:
    """Logits along some axes, which are kept as axes of length 1."""

    def __init__(self, p: Precision, a: Pair, axes: list[int]) -> None:
        self.axes = axes
        x = a[0]
        self.error = a[1].expand_as(x)
        self.largest = x.amax(axes, keepdim=True) if count(x, axes) else x.sum(axes, keepdim=True)
        shift = torch.where(self.largest.isfinite(), self.largest, EXACT)  # ∞ − ∞ is no number
        self.difference = x - shift
        exponential = self.difference.exp()
        self.sum = exponential.sum(axes, keepdim=True)
        self.weight = exponential / self.sum
        self.log_weight = self.difference - self.sum.log()
        rounding = torch.where(self.weight > 0, p.u * self.difference.abs(), EXACT)
        self.of_exponential = rounding + p.u * ulps("exp")
        self.of_sum = torch.expm1(self.total(self.weight * self.of_exponential)) + p.gamma(max(count(x, axes) - 1, 0))
        self.of_sum = self.of_sum + count(x, axes) * p.eta
        # p (e^|d| − 1), also where p is 0 in float64 and e^|d| infinite; and p (1 − e^−|d|)
        large = self.error >= 1
        self.up = torch.where(large, (self.log_weight + self.error).exp(), times(self.weight, self.error.expm1()))
        self.down = times(self.weight, -torch.expm1(-self.error))

    def total(self, x: Tensor) -> Tensor:
        return x.sum(self.axes, keepdim=True)

    def others(self, own: Tensor) -> Tensor:
        """The sum over all but each element itself."""
        whole = self.total(own)
        return (whole - own).clamp(min=0) + ROUNDING * whole

    @property
    def changed(self) -> tuple[Tensor, Tensor]:
        """F and N."""
        rest = (1 - self.weight).clamp(min=0) + ROUNDING
        up, down = self.error.expm1(), -torch.expm1(-self.error)
        return times(rest, up) + (1 + up) * self.others(self.up), times(rest, down) + (1 - down) * self.others(
            self.down
        )

    @property
    def log_sum_changed(self) -> Tensor:
        """How far log Σ eˣ may move: log(1 + Σ p (e^|d| − 1)) up, −log(1 − Σ p (1 − e^−|d|)) down, and no further than
        the x themselves."""
        moved = torch.maximum(torch.log1p(self.total(self.up)), -torch.log1p(-self.total(self.down)))
        return torch.minimum(moved, self.error.amax(self.axes, keepdim=True)) if self.error.numel() else moved


@arithmetic(aten._softmax.default, operands=1)
def _softmax(p: Precision, a: Pair, dim: int, half_to_float: bool = False) -> Pair:
    of = _Shifted(p, a, [dim] if a[0].ndim else [])
    value = torch.softmax(a[0], dim)
    more, less = of.changed
    small = value * torch.maximum(more / (1 + more), less / (1 - less))
    propagated = torch.where(of.error < 1, small, (of.log_weight + of.error + of.log_sum_changed).exp())
    internal = value * torch.expm1(of.of_exponential + of.of_sum)
    underflow = torch.where(of.difference.isinf(), EXACT, torch.tensor(2 * p.eta, dtype=torch.float64))
    return rounded(p, value, propagated + internal + underflow, a)


@arithmetic(aten._log_softmax.default, operands=1)
def _log_softmax(p: Precision, a: Pair, dim: int, half_to_float: bool = False) -> Pair:
    of = _Shifted(p, a, [dim] if a[0].ndim else [])
    value = torch.log_softmax(a[0], dim)
    more, less = of.changed
    small = torch.maximum(torch.log1p(more), -torch.log1p(-less))
    propagated = torch.where(of.error < 1, small, of.error + of.log_sum_changed)
    finite = torch.where(of.difference.isfinite(), of.difference.abs(), EXACT)
    internal = p.u * finite + _of_logarithm(p, of)
    return rounded(p, value, propagated + internal, a)


@arithmetic(aten.logsumexp.default, operands=1)
def _logsumexp(p: Precision, a: Pair, dim: Axes, keepdim: bool = False) -> Pair:
    of = _Shifted(p, a, axes_of(a[0], dim))
    value = torch.logsumexp(a[0], of.axes, keepdim=True)
    own = (of.largest, of.total(of.error))
    value, error = rounded(p, value, of.log_sum_changed + _of_logarithm(p, of), own)
    return (value, error) if keepdim else (value.sum(of.axes), error.sum(of.axes))


def _of_logarithm(p: Precision, of: _Shifted) -> Tensor:
    """How far off log s is."""
    return -torch.log1p(-of.of_sum.clamp(max=1)) + p.u * ulps("log") * of.sum.log()


def _apart(lost: float, a: Pair, magnitude: Tensor, dim: int, half_to_float: bool = False) -> Tensor:
    """How far off softmax is as e^(x − log Σ eˣ), where the difference of numbers of such a magnitude loses such a part
    of it."""
    off = _log_apart(lost, a, magnitude, dim)
    logarithm = torch.log_softmax(a[0], dim)
    return torch.where(off < 1, logarithm.exp() * torch.expm1(off), (logarithm + off).exp())


def _log_apart(lost: float, a: Pair, magnitude: Tensor, dim: int, half_to_float: bool = False) -> Tensor:
    """How far off its logarithm is as x − log Σ eˣ."""
    return (lost * (magnitude + torch.logsumexp(a[0], dim, keepdim=True).abs())).nan_to_num(nan=0.0, posinf=0.0)


APART = {aten._softmax.default: _apart, aten._log_softmax.default: _log_apart}
"""What is lost beside by programs that subtract the logarithm of the sum from x, without the largest x."""
