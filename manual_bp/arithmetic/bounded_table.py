"""What each torch function does to a value and to the bound on its error.  The model is explained in bounded.py.

Every meaning is called as meaning(precision, *pairs, *other arguments) and returns a pair of float64 tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten

Pair = tuple[Tensor, Tensor]
"""Value and error, both float64; the error has the value's shape or none."""

ARITHMETIC: dict[Any, tuple[int, Callable[..., Pair]]] = {}
"""By aten function: how many of its first arguments are numbers, and its meaning."""

LAMBDA = 6.0
"""λ of the probabilistic bound: it fails with probability 2 exp(−6²/2) = 3e-8."""

ULPS = {"exp": 2.0, "expm1": 1.0, "log": 1.0, "log1p": 1.0, "tanh": 2.0, "erf": 2.0, "sqrt": 0.5, "pow": 8.0}
"""Errors in ulps, beside the rounding of the result.  From the CUDA C++ Programming Guide, "Mathematical Standard
Library Functions with Maximum ULP Error", which measures from the correctly rounded result: expf 2, expm1f 1, logf 1,
log1pf 1, tanhf 2, erff 2, powf 4 (8 in older editions); the float64 functions are no worse.  SLEEF's u10 functions,
which torch calls on the CPU, are at most 1.0 ulp from the exact result, which is less.  sqrt is rounded correctly on
most machines, but torch's for float32 on the CPU was seen 0.75 ulp off the exact result (torch 2.13, x86); 1 ulp is
granted."""

VISIBLE = 16
"""A term of average size is so many times the worst case of a sum which hides none of its terms: up to 1024 terms in
float32."""

INF = torch.tensor(math.inf, dtype=torch.float64)
EXACT = torch.tensor(0.0, dtype=torch.float64)
"""The error of what has not been rounded."""


class NoMeaning(Exception):
    """A function of the table, called in a way that the table does not cover; the message says in which."""


@dataclass(frozen=True)
class Precision:
    """The numbers of one floating-point format that the model needs.

    accumulate: the format in which its sums are added up, if that is another one.
    in_order: whether sums are granted the worst case, as long as it hides none of their terms: added up one after the
        other, equal terms are rounded alike, and the probabilistic bound does not hold.
    """

    dtype: torch.dtype
    u: float
    tiny: float
    eta: float
    max: float
    accumulate: Precision | None = None
    in_order: bool = False

    def gamma(self, n: int) -> float:
        """What n roundings can do to a term of a sum, relatively."""
        u = self.accumulate.u if self.accumulate else self.u
        if self.in_order and n * u * VISIBLE <= 1 / max(n, 1):
            return n * u / (1 - n * u)
        return gamma(n, u)


@lru_cache
def precision(dtype: torch.dtype, accumulate: torch.dtype | None = None, in_order: bool = False) -> Precision:
    info = torch.finfo(dtype)
    u = info.eps / 2
    eta = max(u * info.tiny, math.ulp(0.0))  # float64's own is no float64 number; the next larger one stands for it
    if accumulate is None or torch.finfo(accumulate).eps >= info.eps:
        return Precision(dtype, u, info.tiny, eta, info.max, in_order=in_order)
    wide = precision(accumulate)  # what is fused with a sum has the range of its format
    return Precision(dtype, u, info.tiny, eta, wide.max, wide, in_order)


def holds(wide: torch.dtype, narrow: torch.dtype) -> bool:
    """Whether every number of `narrow` is one of `wide`."""
    w, n = precision(wide), precision(narrow)
    return w.u <= n.u and w.eta <= n.eta and w.max >= n.max


@lru_cache(maxsize=1024)  # a handful of hyperparameters and small integers per page
def number(x: float, dtype: torch.dtype) -> Pair:
    """A Python number.  2, 0.5 and 1000 are exact; 0.01 and lam/n have been rounded once on entering the format, and
    perhaps once in the Python arithmetic that made them.  Where the format is float64, every Python float would be
    exact; there it counts as exact if float32 holds it."""
    checked = torch.float32 if dtype == torch.float64 else dtype
    exact = math.isinf(x) or torch.tensor(x, dtype=checked).item() == x
    value = torch.tensor(x, dtype=torch.float64)
    return value, EXACT if exact else 2 * precision(dtype).u * value.abs()


def rounded(
    p: Precision,
    value: Tensor,
    propagated: Tensor,
    *operands: Pair,
    roundings: float = 1.0,
    underflows: bool = True,
    product: bool = False,
) -> Pair:
    """The pair of an operation: its value, and what its operands' errors and its own roundings make together.

    operands: of an element-wise operation, to tell an exact infinity from an overflow.
    roundings: how many u the operation itself adds.
    underflows: whether a result below tiny may be inexact (not so for + and −).
    product: whether it is 0 only where an operand is 0, so that any other 0 has underflowed in float64 itself.
    """
    magnitude = value.abs() + propagated
    fresh = magnitude * (roundings * p.u)
    if magnitude.numel():
        least, largest = magnitude.aminmax()
        if least >= 2 * p.tiny and largest <= p.max:  # the ordinary case: nothing of what follows
            return value, propagated + fresh
    if underflows:
        small = magnitude > 0 if roundings else (magnitude > 0) & (magnitude < p.tiny)  # one u of tiny is eta
        if product:
            small |= (value == 0) & reduce(torch.logical_and, [x != 0 for x, _ in operands])
        fresh = torch.where(small, fresh.clamp(min=p.eta), fresh)
    error = propagated + fresh
    fits = magnitude <= p.max  # a NaN does not
    if fits.all():
        return value, error
    error = torch.where(fits, error, INF)
    infinite = value.isinf()
    if operands and infinite.any():
        exact = reduce(torch.logical_or, [x.isinf() & (e == 0) for x, e in operands])
        certain = reduce(torch.logical_and, [e.isfinite() for _, e in operands])
        error = torch.where(infinite & exact & certain, EXACT, error)
    return value, error


def _ulps(name: str) -> float:
    return 2 * ULPS[name] + 1  # one ulp is at most 2 u |result|; and the rounding of the result


def gamma(n: int, u: float) -> float:
    """What n roundings can do to a term, relatively: the worst case or, if smaller, the probabilistic bound."""
    worst = n * u / (1 - n * u) if n * u < 1 else math.inf
    exponent = LAMBDA * math.sqrt(n) * u + n * u * u / (1 - u)
    return min(worst, math.expm1(exponent)) if exponent < 1 else worst  # from 1 on neither says anything


def _arithmetic(*functions: Any, operands: int) -> Callable[[Callable[..., Pair]], Callable[..., Pair]]:
    """Enter a meaning in the table for one or more aten functions whose first `operands` arguments are numbers."""

    def enter_table(meaning: Callable[..., Pair]) -> Callable[..., Pair]:
        ARITHMETIC.update(dict.fromkeys(functions, (operands, meaning)))
        return meaning

    return enter_table


# ------------------------------------------------------------------------------------------------- element by element


@_arithmetic(aten.add.Tensor, aten.add.Scalar, operands=2)
def _add(p: Precision, a: Pair, b: Pair) -> Pair:
    return rounded(p, a[0] + b[0], a[1] + b[1], a, b, underflows=False)


@_arithmetic(aten.sub.Tensor, aten.sub.Scalar, operands=2)
def _sub(p: Precision, a: Pair, b: Pair) -> Pair:
    return rounded(p, a[0] - b[0], a[1] + b[1], a, b, underflows=False)


@_arithmetic(aten.rsub.Scalar, aten.rsub.Tensor, operands=2)
def _rsub(p: Precision, a: Pair, b: Pair) -> Pair:
    return _sub(p, b, a)


@_arithmetic(aten.mul.Tensor, aten.mul.Scalar, operands=2)
def _mul(p: Precision, a: Pair, b: Pair) -> Pair:
    propagated = a[0].abs() * b[1] + b[0].abs() * a[1] + a[1] * b[1]
    roundings = 0.0 if _scales_exactly(a) or _scales_exactly(b) else 1.0
    return rounded(p, a[0] * b[0], propagated, a, b, roundings=roundings, product=True)


@_arithmetic(aten.div.Tensor, aten.div.Scalar, operands=2)
def _div(p: Precision, a: Pair, b: Pair) -> Pair:
    value = a[0] / b[0]
    room = b[0].abs() - b[1]  # the denominator is at least this far from 0
    propagated = torch.where(room > 0, (a[1] + value.abs() * b[1]) / room, INF)
    return rounded(p, value, propagated, a, roundings=0.0 if _scales_exactly(b) else 1.0, product=True)


def _scales_exactly(factor: Pair) -> bool:
    """Whether multiplying by it only changes the exponent: one exact number, a power of 2."""
    value, error = factor
    return value.ndim == 0 and error is EXACT and abs(math.frexp(value.item())[0]) == 0.5


@_arithmetic(aten.reciprocal.default, operands=1)
def _reciprocal(p: Precision, a: Pair) -> Pair:
    return _div(p, (torch.ones_like(a[0]), EXACT), a)


@_arithmetic(aten.neg.default, operands=1)
def _neg(_: Precision, a: Pair) -> Pair:
    return -a[0], a[1]


@_arithmetic(aten.abs.default, operands=1)
def _abs(_: Precision, a: Pair) -> Pair:
    return a[0].abs(), a[1]


@_arithmetic(aten.sign.default, operands=1)
def _sign(_: Precision, a: Pair) -> Pair:
    """A decision, though its answer is a number."""
    return a[0].sign(), EXACT


@_arithmetic(aten.relu.default, operands=1)
def _relu(_: Precision, a: Pair) -> Pair:
    return a[0].relu(), a[1]


@_arithmetic(aten.clamp.default, aten.clamp.Tensor, operands=3)
def _clamp(_: Precision, a: Pair, low: Pair | None = None, high: Pair | None = None) -> Pair:
    """What comes out is a, low or high, and moves no more than whichever of them moves most."""
    value, error = a
    if low is not None:
        value, error = torch.maximum(value, low[0]), torch.maximum(error, low[1])
    if high is not None:
        value, error = torch.minimum(value, high[0]), torch.maximum(error, high[1])
    return value, error


@_arithmetic(aten.maximum.default, operands=2)
def _maximum(_: Precision, a: Pair, b: Pair) -> Pair:
    return torch.maximum(a[0], b[0]), torch.maximum(a[1], b[1])


@_arithmetic(aten.minimum.default, operands=2)
def _minimum(_: Precision, a: Pair, b: Pair) -> Pair:
    return torch.minimum(a[0], b[0]), torch.maximum(a[1], b[1])


@_arithmetic(aten.where.self, operands=3)
def _where(_: Precision, condition: Pair, a: Pair, b: Pair) -> Pair:
    """What is not chosen leaves no trace, infinite or not."""
    chosen = condition[0].bool()
    return torch.where(chosen, a[0], b[0]), torch.where(chosen, a[1], b[1])


@_arithmetic(aten.pow.Tensor_Scalar, operands=1)
def _pow(p: Precision, a: Pair, exponent: float) -> Pair:
    """A small whole power, as the product that it is; ±½ and negative powers by way of sqrt and reciprocal."""
    if abs(exponent) == 0.5:
        power = _sqrt(p, a)
    elif float(exponent).is_integer() and 1 <= abs(exponent) <= 8:  # a higher one would be computed by exp and log
        power = reduce(lambda product, factor: _mul(p, product, factor), [a] * int(abs(exponent)))
    else:
        raise NoMeaning(f"with exponent {exponent}")
    return _reciprocal(p, power) if exponent < 0 else power


@_arithmetic(aten.pow.Scalar, operands=2)
def _number_to_a_power(p: Precision, a: Pair, b: Pair) -> Pair:
    """A number to powers: (a + d)^(b + e) = a^b exp(b log(1 + d/a) + e log(a + d)).  Of 0 only exact powers above 0."""
    value = a[0] ** b[0]
    base = -torch.log1p(-a[1] / a[0])  # at most |log(1 + d/a)|; NaN at 0 and ∞ or NaN where the base may be negative
    propagated = _times(value.abs(), torch.expm1(b[0].abs() * base + b[1] * (a[0].log().abs() + base)))
    zero = (a[0] == 0) & (a[1] == 0) & (b[0] > b[1])
    propagated = torch.where(zero, EXACT, torch.where(a[0] > a[1], propagated, INF))
    return rounded(p, value, propagated, roundings=_ulps("pow"))


@_arithmetic(aten.sqrt.default, operands=1)
def _sqrt(p: Precision, a: Pair) -> Pair:
    """|√(a + d) − √a| = |d| / (√(a + d) + √a) ≤ √(a + |d|).  Where a may be negative, a program may have NaN.

    May be negative by less than tiny, that is: such a bound comes from terms that have underflowed, which rounding may
    take to 0 and not beyond (differences are exact there).
    """
    value, lower = a[0].sqrt(), a[0] - a[1]
    propagated = torch.where(a[1] > 0, a[1] / (lower.sqrt() + value), EXACT)
    underflowed = (lower < 0) & (lower > -p.tiny) & (a[0] >= 0)
    propagated = torch.where(underflowed, (a[0] + a[1]).sqrt(), propagated)
    return rounded(p, value, torch.where((lower >= 0) | underflowed, propagated, INF), a, roundings=_ulps("sqrt"))


@_arithmetic(aten.rsqrt.default, operands=1)
def _rsqrt(p: Precision, a: Pair) -> Pair:
    return _reciprocal(p, _sqrt(p, a))


@_arithmetic(aten.exp.default, operands=1)
def _exp(p: Precision, a: Pair) -> Pair:
    """|e^(a + d) − e^a| ≤ e^a (e^|d| − 1).  Never 0, so that eta is due even where float64 itself has underflowed."""
    value = a[0].exp()
    return rounded(p, value, _change_of_exp(a) + p.eta, a, roundings=_ulps("exp"))


def _change_of_exp(a: Pair) -> Tensor:
    """e^a (e^|d| − 1); where |d| is large e^(a + |d|), since e^a may be 0 there and e^|d| infinite."""
    value, error = a
    return torch.where(error < 1, _times(value.exp(), error.expm1()), (value + error).exp())


@_arithmetic(aten.expm1.default, operands=1)
def _expm1(p: Precision, a: Pair) -> Pair:
    return rounded(p, a[0].expm1(), _change_of_exp(a), a, roundings=_ulps("expm1"))


@_arithmetic(aten.log.default, operands=1)
def _log(p: Precision, a: Pair) -> Pair:
    """|log(a + d) − log a| ≤ −log(1 − |d|/a)."""
    propagated = torch.where(a[1] < a[0], -torch.log1p(-a[1] / a[0]), INF)
    return rounded(p, a[0].log(), propagated, a, roundings=_ulps("log"))


@_arithmetic(aten.log1p.default, operands=1)
def _log1p(p: Precision, a: Pair) -> Pair:
    shifted = 1 + a[0]
    propagated = torch.where(a[1] < shifted, -torch.log1p(-a[1] / shifted), INF)
    return rounded(p, a[0].log1p(), propagated, a, roundings=_ulps("log1p"))


@_arithmetic(aten.tanh.default, operands=1)
def _tanh(p: Precision, a: Pair) -> Pair:
    e = torch.exp(-2 * _nearest_to_zero(a))
    propagated = _times(4 * e / (1 + e) ** 2, a[1])
    return rounded(p, a[0].tanh(), propagated, a, roundings=_ulps("tanh"))


@_arithmetic(aten.sigmoid.default, operands=1)
def _sigmoid(p: Precision, a: Pair) -> Pair:
    """Computed as 1 / (1 + e⁻ˣ): a division, an addition, and the exponential's ulps, weighted by e⁻ˣ / (1 + e⁻ˣ) ≤ 1.
    Where e⁻ˣ overflows, the program has 0.  Never 0 itself, so that eta is due even where float64 has underflowed."""
    e = torch.exp(-a[0].abs())
    value = torch.where(a[0] < 0, e, 1.0) / (1 + e)  # torch.sigmoid itself flushes e⁻⁷⁴⁰ to 0
    e = torch.exp(-_nearest_to_zero(a))
    flushed = torch.where(-a[0] > math.log(p.max), value, EXACT)
    propagated = _times(e / (1 + e) ** 2, a[1]) + flushed + p.eta
    return rounded(p, value, propagated, a, roundings=2 + _ulps("exp"))


@_arithmetic(aten.erf.default, operands=1)
def _erf(p: Precision, a: Pair) -> Pair:
    slope = 2 / math.sqrt(math.pi) * torch.exp(-(_nearest_to_zero(a) ** 2))
    return rounded(p, a[0].erf(), _times(slope, a[1]), a, roundings=_ulps("erf"))


def _nearest_to_zero(a: Pair) -> Tensor:
    """The smallest magnitude in the interval: where the slope of a bell-shaped derivative is steepest."""
    return (a[0].abs() - a[1]).clamp(min=0)


def _times(slope: Tensor, error: Tensor) -> Tensor:
    """slope · error, where 0 · ∞ is 0 if it is the error that is 0 (an exact operand)."""
    return torch.where(error > 0, slope * error, EXACT)


# ------------------------------------------------------------------------------------------------- sums and matrices


@_arithmetic(aten.sum.default, aten.sum.dim_IntList, operands=1)
def _sum(p: Precision, a: Pair, dim: list[int] | None = None, keepdim: bool = False) -> Pair:
    axes = dim or list(range(a[0].ndim))
    terms = math.prod(a[0].shape[axis] for axis in axes)
    propagated = a[1].sum(axes, keepdim)
    magnitude = a[0].abs().sum(axes, keepdim) + propagated
    fresh = magnitude * p.gamma(max(terms - 1, 0))
    return _accumulated(p, a[0].sum(axes, keepdim), propagated, fresh, magnitude)


@_arithmetic(aten.mean.default, aten.mean.dim, operands=1)
def _mean(p: Precision, a: Pair, dim: list[int] | None = None, keepdim: bool = False) -> Pair:
    terms = math.prod(a[0].shape[axis] for axis in dim or range(a[0].ndim))
    return _div(p, _sum(p, a, dim, keepdim), number(float(terms), p.dtype))


@_arithmetic(aten.mm.default, aten.bmm.default, aten.mv.default, aten.dot.default, operands=2)
def _matmul(p: Precision, a: Pair, b: Pair) -> Pair:
    """Each of the n products is rounded once and then takes part in at most n − 1 additions."""
    terms = a[0].shape[-1]
    a_abs, b_abs = a[0].abs(), b[0].abs()
    propagated = a_abs @ b[1].expand_as(b_abs) + a[1].expand_as(a_abs) @ (b_abs + b[1])
    magnitude = a_abs @ b_abs + propagated
    fresh = magnitude * p.gamma(terms)
    rounds = magnitude > 0
    if not rounds.all():  # a product of two numbers that are not 0 may have underflowed in float64 itself
        rounds |= (a[0] != 0).double() @ (b[0] != 0).double() > 0
    fresh = torch.where(rounds, fresh + terms * p.eta, fresh)
    return _accumulated(p, a[0] @ b[0], propagated, fresh, magnitude)


def _accumulated(p: Precision, value: Tensor, propagated: Tensor, fresh: Tensor, magnitude: Tensor) -> Pair:
    """The pair of a sum, whose fresh roundings are known; one more where it was added up in another format.

    magnitude: what the terms add up to if all have one sign: in some order a part of the sum is up to half of that
    beyond the whole, and may overflow.
    """
    error = propagated + fresh
    if p.accumulate:
        error = error + p.u * (value.abs() + error)
    largest = torch.maximum(value.abs(), (value.abs() + magnitude) / 2)
    return value, torch.where(largest + error <= p.max, error, INF)  # a NaN fails the comparison too


@_arithmetic(aten.amax.default, operands=1)
def _amax(_: Precision, a: Pair, dim: tuple[int, ...] = (), keepdim: bool = False) -> Pair:
    """|max(a') − max(a)| ≤ max |a' − a|."""
    return a[0].amax(dim, keepdim), a[1].expand_as(a[0]).amax(dim, keepdim)


@_arithmetic(aten.amin.default, operands=1)
def _amin(_: Precision, a: Pair, dim: tuple[int, ...] = (), keepdim: bool = False) -> Pair:
    return a[0].amin(dim, keepdim), a[1].expand_as(a[0]).amax(dim, keepdim)


SUMS = {aten.sum.default, aten.sum.dim_IntList}
PRODUCTS = {aten.mm.default, aten.bmm.default, aten.mv.default, aten.dot.default}
"""Sums of products."""
ADDITIONS = {aten.add.Tensor, aten.sub.Tensor}


def _sum_of(a: Tensor, b: Tensor) -> Tensor:
    return a + b


def _power_of(a: Tensor, exponent: float) -> Tensor:
    return a**exponent if exponent > 0 else torch.zeros_like(a)  # a negative one is no polynomial


def _chosen_of(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(condition.bool(), a, b)


MAGNITUDES: dict[Any, Callable[..., Tensor]] = {
    **dict.fromkeys((aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.sub.Scalar), _sum_of),
    **dict.fromkeys((aten.rsub.Scalar, aten.rsub.Tensor), _sum_of),
    aten.pow.Tensor_Scalar: _power_of,
    aten.where.self: _chosen_of,
    **{
        same: same
        for same in (
            *(aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar, aten.neg.default, aten.abs.default),
            *(aten.sum.default, aten.sum.dim_IntList, aten.mean.default, aten.mean.dim),
            *(aten.mm.default, aten.bmm.default, aten.mv.default, aten.dot.default),
            *(aten.maximum.default, aten.minimum.default),
        )
    },
}
"""What the terms of an expanded result add up to, from what those of its operands do; never less than its own size,
which holds for every function that is not here."""
DIVISIONS = {aten.div.Tensor, aten.div.Scalar}

# ---------------------------------------------------------------------------------------- what is not arithmetic

_COMPARISONS = [getattr(aten, name) for name in ("lt", "le", "gt", "ge", "eq", "ne")]

DECISIONS = {
    *(comparison.Tensor for comparison in _COMPARISONS),
    *(comparison.Scalar for comparison in _COMPARISONS),
    *(aten.isnan.default, aten.isinf.default, aten.argmax.default, aten.argmin.default),
}
"""Made on the values; the answer is a plain tensor."""


def _reshaped(x: Tensor, shape: list[int]) -> Tensor:
    """view, where the float64 tensors inside may lie in memory in another way than the tensor that torch sees."""
    return x.reshape(shape)


SHAPES: dict[Any, Callable[..., Tensor]] = {
    **dict.fromkeys((aten.view.default, aten._unsafe_view.default), _reshaped),
    **{
        same: same
        for same in (
            *(aten.detach.default, aten.alias.default, aten.clone.default, aten.expand.default, aten.unsqueeze.default),
            *(aten.t.default, aten.transpose.int, aten.permute.default, aten.flip.default, aten.squeeze.dim),
            *(aten.select.int, aten.slice.Tensor, aten.gather.default, aten.index_select.default),
            *(aten.cat.default, aten.stack.default),
        )
    },
}
"""Done to values and errors alike."""

CONSTANTS = {aten.ones_like.default, aten.zeros_like.default, aten.full_like.default}
"""Exact, whatever they are like."""
