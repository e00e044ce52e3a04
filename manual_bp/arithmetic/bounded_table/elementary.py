"""Functions of each element alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded_table.formats import EXACT, INF, NO_ERROR, Pair, Precision, number, rounded, ulps
from manual_bp.arithmetic.bounded_table.meanings import arithmetic, aten

# ------------------------------------------------------------------------------------------------- element by element


@arithmetic(aten.add.Tensor, aten.add.Scalar, operands=2)
def add(p: Precision, a: Pair, b: Pair, alpha: float = 1) -> Pair:
    b = scaled(p, b, alpha)
    if _are_whole(p, a, b):
        return a[0] + b[0], EXACT
    return rounded(p, a[0] + b[0], _of_both(a, b), a, b, underflows=False)


@arithmetic(aten.sub.Tensor, operands=2)
def subtract(p: Precision, a: Pair, b: Pair, alpha: float = 1) -> Pair:
    b = scaled(p, b, alpha)
    if _are_whole(p, a, b):
        return a[0] - b[0], EXACT
    return rounded(p, a[0] - b[0], _of_both(a, b), a, b, underflows=False)


def _of_both(a: Pair, b: Pair) -> Tensor:
    return NO_ERROR if a[1] is NO_ERROR and b[1] is NO_ERROR else a[1] + b[1]


@arithmetic(aten.rsub.Scalar, aten.rsub.Tensor, operands=2)
def _rsub(p: Precision, a: Pair, b: Pair, alpha: float = 1) -> Pair:
    return subtract(p, b, a, alpha)


def _are_whole(p: Precision, a: Pair, b: Pair) -> bool:
    """Whether one is a number of a page's text and both are whole, exact and small: 1 less a mask of 0 and 1."""
    number, other = (a, b) if a[1] is EXACT and not a[0].ndim else (b, a)
    if number[1] is not EXACT or number[0].ndim or not float(number[0].item()).is_integer() or bool(other[1].any()):
        return False
    fits = number[0].abs() + other[0].abs() <= 1 / p.u
    return bool((fits & (other[0] == other[0].round())).all())


def scaled(p: Precision, a: Pair, factor: float) -> Pair:
    """a times a Python number."""
    return a if factor == 1 else multiply(p, a, number(float(factor), p.dtype))


@arithmetic(aten.mul.Tensor, aten.mul.Scalar, operands=2)
def multiply(p: Precision, a: Pair, b: Pair) -> Pair:
    if b[1] is NO_ERROR and a[1] is NO_ERROR:
        propagated = NO_ERROR
    elif b[1] is EXACT or a[1] is EXACT:
        propagated = b[0].abs() * a[1] if b[1] is EXACT else a[0].abs() * b[1]
    else:
        propagated = a[0].abs() * b[1] + (b[0].abs() + b[1]) * a[1]
    roundings = 0.0 if _scales_exactly(a) or _scales_exactly(b) else 1.0
    value, error = rounded(p, a[0] * b[0], propagated, a, b, roundings=roundings, product=True)
    for limit, factor in ((a, b), (b, a)):
        if _is_the_largest(p, limit):  # times a mask of 0 and 1
            error = torch.where((factor[0].abs() == 1) & (factor[1] == 0), EXACT, error)
    return value, error


@arithmetic(aten.div.Tensor, operands=2)
def divide(p: Precision, a: Pair, b: Pair) -> Pair:
    value = a[0] / b[0]
    room = b[0].abs() - b[1]  # the denominator is at least this far from 0
    propagated = torch.where(room > 0, (a[1] + value.abs() * b[1]) / room, INF)
    return rounded(p, value, propagated, a, roundings=0.0 if _scales_exactly(b) else 1.0, product=True)


def _scales_exactly(factor: Pair) -> bool:
    """Whether multiplying by it only changes the exponent: one exact number, a power of 2."""
    value, error = factor
    return value.ndim == 0 and error is EXACT and abs(math.frexp(value.item())[0]) == 0.5


def _is_the_largest(p: Precision, number: Pair) -> bool:
    """Whether it is the format's largest number, of either sign, which stands for an infinity in masks."""
    value, error = number
    return value.ndim == 0 and error is EXACT and abs(value.item()) == p.max


@arithmetic(aten.addcmul.default, operands=3)
def _addcmul(p: Precision, a: Pair, b: Pair, c: Pair, value: float = 1) -> Pair:
    return add(p, a, scaled(p, multiply(p, b, c), value))


@arithmetic(aten.addcdiv.default, operands=3)
def _addcdiv(p: Precision, a: Pair, b: Pair, c: Pair, value: float = 1) -> Pair:
    return add(p, a, scaled(p, divide(p, b, c), value))


@arithmetic(aten.lerp.Scalar, aten.lerp.Tensor, operands=3)
def _lerp(p: Precision, a: Pair, end: Pair, weight: Pair) -> Pair:
    """a + w (b − a), or b − (1 − w)(b − a), as torch has it for w ≥ ½: what rounds is as large."""
    step = subtract(p, end, a)
    value, error = add(p, a, multiply(p, weight, step))
    other = add(p, end, multiply(p, subtract(p, weight, number(1.0, p.dtype)), step))
    return value, torch.maximum(error, other[1])


@arithmetic(aten.reciprocal.default, operands=1)
def _reciprocal(p: Precision, a: Pair) -> Pair:
    return divide(p, (torch.ones_like(a[0]), EXACT), a)


@arithmetic(aten.neg.default, operands=1)
def neg(_: Precision, a: Pair) -> Pair:
    return -a[0], a[1]


@arithmetic(aten.abs.default, operands=1)
def absolute(_: Precision, a: Pair) -> Pair:
    return a[0].abs(), a[1]


@arithmetic(aten.sign.default, aten.sgn.default, operands=1)
def _sign(_: Precision, a: Pair) -> Pair:
    """A decision, though its answer is a number: where the operand's error leaves it open, any sign may come."""
    value, error = a
    sign = value.sign()
    return sign, torch.where((error > 0) & (value.abs() <= error), 1 + sign.abs(), EXACT)


def _chosen(nearby: Callable[[Tensor], Tensor]) -> Callable[[Precision, Pair], Pair]:
    """A decision likewise: a page that rounds chooses a number beside its own, and what it has chosen is exact."""
    return lambda _, a: (nearby(a[0]), EXACT)


JUMPING = (aten.round.default, aten.floor.default, aten.ceil.default, aten.trunc.default)
for _op in JUMPING:
    arithmetic(_op, operands=1)(_chosen(_op))


@arithmetic(aten.relu.default, operands=1)
def _relu(p: Precision, a: Pair) -> Pair:
    return _maximum(p, a, (EXACT, EXACT))


@arithmetic(aten.clamp.default, aten.clamp.Tensor, operands=3)
def _clamp(p: Precision, a: Pair, low: Pair | None = None, high: Pair | None = None) -> Pair:
    a = a if low is None else _maximum(p, a, low)
    return a if high is None else _minimum(p, a, high)


@arithmetic(aten.clamp_min.default, aten.clamp_min.Tensor, aten.maximum.default, operands=2)
def _maximum(_: Precision, a: Pair, b: Pair) -> Pair:
    """Between the larger of both lower ends and the larger of both upper ends."""
    value = torch.maximum(a[0], b[0])
    upper, lower = torch.maximum(a[0] + a[1], b[0] + b[1]), torch.maximum(a[0] - a[1], b[0] - b[1])
    return value, within(value, lower, upper, torch.maximum(a[1], b[1]))


@arithmetic(aten.clamp_max.default, aten.clamp_max.Tensor, aten.minimum.default, operands=2)
def _minimum(_: Precision, a: Pair, b: Pair) -> Pair:
    value = torch.minimum(a[0], b[0])
    upper, lower = torch.minimum(a[0] + a[1], b[0] + b[1]), torch.minimum(a[0] - a[1], b[0] - b[1])
    return value, within(value, lower, upper, torch.maximum(a[1], b[1]))


def within(value: Tensor, lower: Tensor, upper: Tensor, most: Tensor) -> Tensor:
    """How far a number between both ends is from the value: never more than any operand moves, which is `most`.

    The ends are sums, in which a small error may have vanished beside its number: what is within two of float64's
    roundings of `most` is `most`.
    """
    slack = torch.finfo(torch.float64).eps * value.abs()
    reach = torch.maximum(upper - value, value - lower) + slack
    return torch.where(value.isfinite() & (reach < most), reach, most)


@arithmetic(aten.where.self, operands=3)
def where(_: Precision, condition: Pair, a: Pair, b: Pair) -> Pair:
    """What is not chosen leaves no trace, infinite or not."""
    chosen = condition[0].bool()
    return torch.where(chosen, a[0], b[0]), torch.where(chosen, a[1], b[1])


@arithmetic(aten.masked_fill.Scalar, aten.masked_fill.Tensor, operands=3)
def _masked_fill(p: Precision, a: Pair, mask: Pair, value: Pair) -> Pair:
    return where(p, mask, value, a)


@arithmetic(aten.pow.Tensor_Scalar, operands=1)
def power(p: Precision, a: Pair, exponent: float) -> Pair:
    """A small whole power, as the product that it is; ±½ and negative powers by way of sqrt and reciprocal; else of a
    number above 0 alone."""
    if abs(exponent) == 0.5:
        raised = sqrt(p, a)
    elif float(exponent).is_integer() and 1 <= abs(exponent) <= 8:  # a higher one would be computed by exp and log
        raised = reduce(lambda product, factor: multiply(p, product, factor), [a] * int(abs(exponent)))
    else:
        raised = _number_to_a_power(p, a, number(abs(exponent), p.dtype))
    return _reciprocal(p, raised) if exponent < 0 else raised


@arithmetic(aten.pow.Scalar, aten.pow.Tensor_Tensor, operands=2)
def _number_to_a_power(p: Precision, a: Pair, b: Pair) -> Pair:
    """A number to powers: (a + d)^(b + e) = a^b exp(b log(1 + d/a) + e log(a + d)).  Of 0 only exact powers above 0."""
    value = a[0] ** b[0]
    base = -torch.log1p(-a[1] / a[0])  # at most |log(1 + d/a)|; NaN at 0 and ∞ or NaN where the base may be negative
    propagated = times(value.abs(), torch.expm1(b[0].abs() * base + b[1] * (a[0].log().abs() + base)))
    zero = (a[0] == 0) & (a[1] == 0) & (b[0] > b[1])
    propagated = torch.where(zero, EXACT, torch.where(a[0] > a[1], propagated, INF))
    return rounded(p, value, propagated, roundings=ulps("pow"))


@arithmetic(aten.sqrt.default, operands=1)
def sqrt(p: Precision, a: Pair) -> Pair:
    """|√(a + d) − √a| = |d| / (√(a + d) + √a) ≤ √(a + |d|).  Where a may be negative, a program may have NaN.

    May be negative by less than tiny, that is: such a bound comes from terms that have underflowed, which rounding may
    take to 0 and not beyond (differences are exact there).
    """
    value, lower = a[0].sqrt(), a[0] - a[1]
    propagated = torch.where(a[1] > 0, a[1] / (lower.sqrt() + value), EXACT)
    underflowed = (lower < 0) & (lower > -p.tiny) & (a[0] >= 0)
    propagated = torch.where(underflowed, (a[0] + a[1]).sqrt(), propagated)
    return rounded(p, value, torch.where((lower >= 0) | underflowed, propagated, INF), a, roundings=ulps("sqrt"))


@arithmetic(aten.rsqrt.default, operands=1)
def _rsqrt(p: Precision, a: Pair) -> Pair:
    return _reciprocal(p, sqrt(p, a))


@arithmetic(aten.exp.default, operands=1)
def _exp(p: Precision, a: Pair) -> Pair:
    """|e^(a + d) − e^a| ≤ e^a (e^|d| − 1).  Never 0, so that eta is due even where float64 itself has underflowed."""
    value = a[0].exp()
    return rounded(p, value, _change_of_exp(a) + p.eta, a, roundings=ulps("exp"))


def _change_of_exp(a: Pair) -> Tensor:
    """e^a (e^|d| − 1); where |d| is large e^(a + |d|), since e^a may be 0 there and e^|d| infinite."""
    value, error = a
    return torch.where(error < 1, times(value.exp(), error.expm1()), (value + error).exp())


@arithmetic(aten.expm1.default, operands=1)
def _expm1(p: Precision, a: Pair) -> Pair:
    return rounded(p, a[0].expm1(), _change_of_exp(a), a, roundings=ulps("expm1"))


@arithmetic(aten.log.default, operands=1)
def log(p: Precision, a: Pair) -> Pair:
    """|log(a + d) − log a| ≤ −log(1 − |d|/a)."""
    propagated = torch.where(a[1] < a[0], -torch.log1p(-a[1] / a[0]), INF)
    return rounded(p, a[0].log(), propagated, a, roundings=ulps("log"))


@arithmetic(aten.log1p.default, operands=1)
def _log1p(p: Precision, a: Pair) -> Pair:
    """Of a number below the smallest normal one torch's is the one beside it: an ulp, which is 2 eta there."""
    shifted = 1 + a[0]
    propagated = torch.where(a[1] < shifted, -torch.log1p(-a[1] / shifted), INF)
    beside = torch.where(a[0] == 0, EXACT, 2 * p.eta)
    return rounded(p, a[0].log1p(), propagated + beside, a, roundings=ulps("log1p"))


@arithmetic(aten.tanh.default, operands=1)
def _tanh(p: Precision, a: Pair) -> Pair:
    propagated = NO_ERROR
    if a[1] is not NO_ERROR:
        e = torch.exp(-2 * nearest_to_zero(a))
        propagated = times(4 * e / (1 + e) ** 2, a[1])
    return rounded(p, a[0].tanh(), propagated, a, roundings=ulps("tanh"))


@arithmetic(aten.sigmoid.default, operands=1)
def _sigmoid(p: Precision, a: Pair) -> Pair:
    """Computed as 1 / (1 + e⁻ˣ): a division, an addition, and the exponential's ulps, weighted by e⁻ˣ / (1 + e⁻ˣ) ≤ 1.
    Where e⁻ˣ overflows, the program has 0.  Never 0 itself, so that eta is due even where float64 has underflowed."""
    e = torch.exp(-a[0].abs())
    value = a[0].clamp(max=0).exp() / (1 + e)  # torch.sigmoid itself flushes e⁻⁷⁴⁰ to 0
    propagated = NO_ERROR
    if a[1] is not NO_ERROR:
        e = torch.exp(-nearest_to_zero(a))
        propagated = times(e / (1 + e) ** 2, a[1])
    lowest = -math.log(p.max)
    if not (a[0].numel() and a[0].min().item() >= lowest):
        propagated = propagated + torch.where(a[0] < lowest, value, EXACT)
    propagated = propagated + p.eta
    return rounded(p, value, propagated, a, roundings=2 + ulps("exp"))


@arithmetic(aten.erf.default, operands=1)
def _erf(p: Precision, a: Pair) -> Pair:
    slope = 2 / math.sqrt(math.pi) * torch.exp(-(nearest_to_zero(a) ** 2))
    return rounded(p, a[0].erf(), times(slope, a[1]), a, roundings=ulps("erf"))


@arithmetic(aten.erfc.default, operands=1)
def _erfc(p: Precision, a: Pair) -> Pair:
    """Never 0, so that eta is due even where float64 itself has underflowed."""
    slope = 2 / math.sqrt(math.pi) * torch.exp(-(nearest_to_zero(a) ** 2))
    return rounded(p, torch.special.erfc(a[0]), times(slope, a[1]) + p.eta, a, roundings=ulps("erfc"))


@arithmetic(aten.sin.default, operands=1)
def _sin(p: Precision, a: Pair) -> Pair:
    return rounded(p, a[0].sin(), _wave(a[0].cos(), a[1]), a, roundings=ulps("sin"))


@arithmetic(aten.cos.default, operands=1)
def _cos(p: Precision, a: Pair) -> Pair:
    return rounded(p, a[0].cos(), _wave(a[0].sin(), a[1]), a, roundings=ulps("cos"))


def _wave(slope: Tensor, error: Tensor) -> Tensor:
    """|sin(a + d) − sin a| ≤ |cos a| |d| + d²/2, and at most |d|, and 2; the arguments are reduced exactly."""
    taylor = slope.abs() * error + error * error / 2
    return torch.minimum(taylor, torch.minimum(error, torch.full_like(error, 2.0)))


@arithmetic(aten.xlogy.Tensor, aten.xlogy.Scalar_Self, aten.xlogy.Scalar_Other, operands=2)
def _xlogy(p: Precision, a: Pair, b: Pair) -> Pair:
    """a log b, and 0 where a is 0, whatever b is."""
    value, error = multiply(p, a, log(p, b))
    nothing = (a[0] == 0) & (a[1] == 0) & ~b[0].isnan()
    return torch.where(nothing, EXACT, value), torch.where(nothing, EXACT, error)


@arithmetic(aten.logaddexp.default, operands=2)
def _logaddexp(p: Precision, a: Pair, b: Pair) -> Pair:
    """max + log(1 + e^−d), d = |a − b|.  The slopes are σ(a − b) and σ(b − a), largest where these differences
    are.  An error of d or of e^−d counts by the slope of the smaller one.  Below the smallest normal number e^−d may be
    2 eta off and its log1p as much, as these functions are by themselves."""
    value = torch.logaddexp(a[0], b[0])
    d = torch.where(a[0] == b[0], EXACT, (a[0] - b[0]).abs())
    change = a[1] + b[1]
    of_a, of_b = (times(torch.sigmoid(x[0] - y[0] + change).nan_to_num(1.0), x[1]) for x, y in ((a, b), (b, a)))
    propagated = torch.minimum(of_a + of_b, torch.maximum(a[1], b[1]))  # both slopes together are 1
    e = torch.exp(-d)
    internal = (
        p.u * (torch.where(e > 0, e * d, EXACT) / (1 + e) + ulps("exp") * e / (1 + e) + ulps("log1p") * torch.log1p(e))
        + 4 * p.eta
    )
    return rounded(p, value, propagated + internal, a, b)


def nearest_to_zero(a: Pair) -> Tensor:
    """The smallest magnitude in the interval: where the slope of a bell-shaped derivative is steepest."""
    return (a[0].abs() - a[1]).clamp(min=0)


def times(slope: Tensor, error: Tensor) -> Tensor:
    """slope · error, where 0 · ∞ is 0 if it is the error that is 0 (an exact operand)."""
    return torch.where(error > 0, slope * error, EXACT)
