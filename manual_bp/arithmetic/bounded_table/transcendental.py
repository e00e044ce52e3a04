"""Functions of each element alone that are less common: hyperbolic ones, inverse ones, those of gamma and of errors.

Each slope grows or falls with x or |x| on either side, so that it is steepest at an end of the interval [x - e, x + e],
or at the point of it that is nearest to 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded_table.elementary import divide, log, nearest_to_zero, times
from manual_bp.arithmetic.bounded_table.formats import EXACT, INF, Pair, Precision, number, rounded, ulps
from manual_bp.arithmetic.bounded_table.meanings import arithmetic, aten

Steepest = Callable[[Tensor, Tensor], Tensor]
"""Of x and e the steepest slope between x - e and x + e; infinite where the function is not defined all along."""


def _far(x: Tensor, e: Tensor) -> Tensor:
    return x.abs() + e


def _at_far(slope: Callable[[Tensor], Tensor], limit: float = math.inf) -> Steepest:
    """Of an odd or even function that is defined below `limit`: steepest at the largest magnitude."""
    return lambda x, e: torch.where(_far(x, e) < limit, slope(_far(x, e)), INF)


def _at_near(slope: Callable[[Tensor], Tensor]) -> Steepest:
    """Steepest at the smallest magnitude."""
    return lambda x, e: slope(nearest_to_zero((x, e)))


def _at_ends(slope: Callable[[Tensor], Tensor], low: float, high: float = math.inf) -> Steepest:
    """Of a function that is defined between `low` and `high`."""

    def steepest(x: Tensor, e: Tensor) -> Tensor:
        either = torch.maximum(slope(x - e).abs(), slope(x + e).abs())
        return torch.where((x - e > low) & (x + e < high), either, INF)

    return steepest


def _tan_slope(x: Tensor, e: Tensor) -> Tensor:
    """1 + tan², in an interval without a pole."""
    either = torch.maximum((x - e).tan().abs(), (x + e).tan().abs())
    turns = [((end / math.pi) + 0.5).floor() for end in (x - e, x + e)]
    return torch.where(turns[0] == turns[1], 1 + either**2, INF)


def _i1_slope(t: Tensor) -> Tensor:
    """I₁' = I₀ - I₁/x = (I₀ + I₂) / 2, which is 1/2 at 0 and grows."""
    return torch.where(t > 0, torch.special.i0(t) - torch.special.i1(t) / t, 0.5)


def _i0e_slope(t: Tensor) -> Tensor:
    """|(exp(-x) I₀)'| = exp(-x) (I₀ - I₁), which falls: I₁/I₀ is at most x / (1/2 + x) (Amos 1974, eq. 11)."""
    slope: Tensor = torch.special.i0e(t) - torch.special.i1e(t)
    return slope


def _i1e_slope(t: Tensor) -> Tensor:
    """(exp(-x) I₁)' = exp(-x) (I₀ - I₁ - I₁/x)."""
    return _i0e_slope(t) - torch.where(t > 0, torch.special.i1e(t) / t, 0.5)


def _i1e_steepest(x: Tensor, e: Tensor) -> Tensor:
    """From 1/2 at 0 it falls to -0.019626 near 2.78, beyond which it rises towards 0."""
    near, far = nearest_to_zero((x, e)).abs(), _far(x, e)
    ends = torch.maximum(_i1e_slope(near).abs(), _i1e_slope(far).abs())
    return torch.where((near < 2.79) & (far > 2.77), ends.clamp(min=0.01963), ends)


ROOT_PI = math.sqrt(math.pi)

SLOPES: dict[str, tuple[Any, Steepest]] = {
    "exp2": (aten.exp2.default, lambda x, e: math.log(2) * torch.exp2(x + e)),
    "sinh": (aten.sinh.default, _at_far(torch.cosh)),
    "cosh": (aten.cosh.default, _at_far(torch.sinh)),
    "tan": (aten.tan.default, _tan_slope),
    "asin": (aten.asin.default, _at_far(lambda t: ((1 - t) * (1 + t)).rsqrt(), 1.0)),
    "acos": (aten.acos.default, _at_far(lambda t: ((1 - t) * (1 + t)).rsqrt(), 1.0)),
    "atan": (aten.atan.default, _at_near(lambda t: 1 / (1 + t * t))),
    "asinh": (aten.asinh.default, _at_near(lambda t: 1 / torch.hypot(t, torch.ones_like(t)))),
    "acosh": (aten.acosh.default, _at_ends(lambda t: ((t - 1) * (t + 1)).rsqrt(), 1.0)),
    "atanh": (aten.atanh.default, _at_far(lambda t: 1 / ((1 - t) * (1 + t)), 1.0)),
    "erfinv": (aten.erfinv.default, _at_far(lambda t: ROOT_PI / 2 * torch.exp(torch.erfinv(t) ** 2), 1.0)),
    "ndtri": (
        aten.special_ndtri.default,
        _at_ends(lambda t: math.sqrt(2) * ROOT_PI * torch.exp(torch.special.ndtri(t) ** 2 / 2), 0.0, 1.0),
    ),
    "erfcx": (aten.special_erfcx.default, lambda x, e: 2 / ROOT_PI - 2 * (x - e) * torch.special.erfcx(x - e)),
    "i0": (aten.i0.default, _at_far(torch.special.i1)),
    "i0e": (aten.special_i0e.default, lambda x, e: _i0e_slope(nearest_to_zero((x, e)).abs())),
    "i1": (aten.special_i1.default, _at_far(_i1_slope)),
    "i1e": (aten.special_i1e.default, _i1e_steepest),
}
"""By name: the function, and its steepest slope."""


def _of(name: str, function: Any, steepest: Steepest) -> Callable[[Precision, Pair], Pair]:
    def meaning(p: Precision, a: Pair) -> Pair:
        x, e = a
        return rounded(p, function(x), times(steepest(x, e), e), a, roundings=ulps(name))

    return meaning


for _name, (_function, _steepest) in SLOPES.items():
    arithmetic(_function, operands=1)(_of(_name, _function, _steepest))


@arithmetic(aten.log2.default, operands=1)
def _log2(p: Precision, a: Pair) -> Pair:
    return _log_of_base(p, a, 2.0, torch.log2, "log2")


@arithmetic(aten.log10.default, operands=1)
def _log10(p: Precision, a: Pair) -> Pair:
    return _log_of_base(p, a, 10.0, torch.log10, "log10")


def _log_of_base(p: Precision, a: Pair, base: float, function: Callable[[Tensor], Tensor], name: str) -> Pair:
    """By the function itself, or as log x / log b: the wider of both."""
    _, error = divide(p, log(p, a), number(math.log(base), p.dtype))
    propagated = torch.where(a[1] < a[0], -torch.log1p(-a[1] / a[0]) / math.log(base), INF)
    value, own = rounded(p, function(a[0]), propagated, a, roundings=ulps(name))
    return value, torch.maximum(own, error)


@arithmetic(aten.atan2.default, operands=2)
def _atan2(p: Precision, y: Pair, x: Pair) -> Pair:
    """On the way from (x, y) by (d, f) the angle changes by ∫ (x f - y d) / r²: at most (|x| |f| + |y| |d|) / r², with
    the smallest r on the way; and by 2π, which is what it jumps by at the cut."""
    change = x[0].abs() * y[1] + y[0].abs() * x[1]
    room = torch.hypot(y[0], x[0]) - torch.hypot(y[1].expand_as(y[0]), x[1].expand_as(x[0]))
    crosses = (x[0] - x[1] < 0) & (y[0].abs() <= y[1]) & (y[1] > 0)
    propagated = torch.where((room > 0) & ~crosses, times(1 / room**2, change), 2 * math.pi)
    propagated = torch.where(y[1] + x[1] > 0, propagated.clamp(max=2 * math.pi), EXACT)
    return rounded(p, torch.atan2(y[0], x[0]), propagated, y, roundings=ulps("atan2"))


@arithmetic(aten.lgamma.default, operands=1)
def _lgamma(p: Precision, a: Pair) -> Pair:
    """log |Γ(x)|, whose slope ψ rises with x between two poles (0, -1, -2 ...), and above 0.

    Below 0 it is log(π / |sin πx|) - log Γ(1 - x), terms that are nearly equal beside each of its roots.
    """
    x, e = a
    low, high = x - e, x + e
    has_no_pole = (low > 0) | ((high < 0) & (low > high.floor()))
    slope = torch.where(has_no_pole, torch.maximum(torch.digamma(low).abs(), torch.digamma(high).abs()), INF)
    value = torch.lgamma(x)
    reflected = torch.where(x < 0, torch.lgamma(1 - x).abs(), EXACT)
    terms = ulps("lgamma") * p.u * (reflected + (value + reflected).abs())
    return rounded(p, value, times(slope, e) + torch.where(x < 0, terms, EXACT), a, roundings=ulps("lgamma"))


@arithmetic(aten.digamma.default, operands=1)
def _digamma(p: Precision, a: Pair) -> Pair:
    """Of numbers above 0.  Computed as ψ(x + n) - Σ_{k<n} 1/(x + k) with x + n beyond 10: the terms add up to
    2 log(11 + x) - ψ(x) at most, and each is rounded, and takes part in n additions."""
    x, e = a
    slope = _at_ends(lambda t: torch.polygamma(1, t), 0.0)(x, e)
    value = torch.digamma(x)
    internal = p.gamma(STEPS + 2) * (2 * torch.log(11 + x) + value.abs())
    return rounded(p, value, times(slope, e) + torch.where(x > 0, internal, INF), a)


STEPS = 10


@arithmetic(aten.polygamma.default, operands=(1,))
def _polygamma(p: Precision, n: int, a: Pair) -> Pair:
    """Of numbers above 0: ±n! Σ_k 1/(x + k)^(n + 1), whose terms have one sign, each a power and a quotient.

    Not by torch.polygamma(1, x), which keeps four terms of a series and is off by 6e-9 of itself near x = 1.
    """
    if n == 0:
        return _digamma(p, a)
    x, e = a
    slope = _at_ends(lambda t: torch.polygamma(n + 1, t), 0.0)(x, e)
    value = (-1) ** (n + 1) * math.factorial(n) * torch.special.zeta(float(n + 1), x)
    internal = (value.abs() + times(slope, e)) * p.gamma(STEPS + 2 * n + 3)
    return rounded(p, value, times(slope, e) + torch.where(x > 0, internal, INF), a)
