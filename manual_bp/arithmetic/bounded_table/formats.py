"""The numbers of a floating-point format, and what one rounding does in it.  The model is explained in bounded.py."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache, reduce

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]
"""Value and error, both float64; the error has the value's shape or none."""

LAMBDA = 6.0
"""λ of the probabilistic bound: it fails with probability 2 exp(−6²/2) = 3e-8."""

ULPS = {
    "exp": 2.0,
    "expm1": 1.0,
    "log": 1.0,
    "log1p": 1.0,
    "tanh": 2.0,
    "sin": 2.0,
    "cos": 2.0,
    "erf": 2.0,
    "erfc": 5.0,
    "sqrt": 0.5,
    "pow": 8.0,
    "exp2": 2.0,
    "log2": 1.0,
    "log10": 2.0,
    "sinh": 3.0,
    "cosh": 2.0,
    "tan": 4.0,
    "asin": 4.0,
    "acos": 3.0,
    "atan": 2.0,
    "atan2": 3.0,
    "asinh": 3.0,
    "acosh": 4.0,
    "atanh": 3.0,
    "erfinv": 6.0,
    "ndtri": 8.0,
    "erfcx": 4.0,
    "lgamma": 6.0,
    "i0": 4.0,
    "i0e": 4.0,
    "i1": 13.0,
    "i1e": 13.0,
}
"""Errors in ulps, beside the rounding of the result.  From the CUDA C++ Programming Guide, "Mathematical Standard
Library Functions with Maximum ULP Error", which measures from the correctly rounded result: expf 2, expm1f 1, logf
1, log1pf 1, tanhf 2, sinf 2, cosf 2, erff 2, erfcf 4, powf 4 (8 in older editions), exp2f 2, log2f 1, log10f 2,
sinhf 3, coshf 2, tanf 4, asinf 4 (2 in newer ones), acosf 3, atanf 2, atan2f 3, asinhf 3, acoshf 4, atanhf 3, erfcxf
4, lgammaf 6; the float64 functions are no worse, but for erfc 5, erfinv 6 and normcdfinv 8 (whose functions for
float32 have 2 and 5).  SLEEF's u10 and u15 functions, which torch calls on the CPU, are at most 1.0 and 1.5 ulp from
the exact result, which is less.  torch's Bessel functions are those of Cephes (single/i0f.c, i1f.c; bessel/i0.c,
i1.c), whose comments give the peak of the relative error: of i0 and i0e 4.0e-7 in float32 and 5.8e-16 in float64, of
i1 and i1e 1.5e-6 and 2.0e-15; in units of the format's eps that is 3.4, 2.6, 12.6 and 9.  sqrt is rounded correctly
on most machines, but torch's for float32 on the CPU was seen 0.75 ulp off the exact result (torch 2.13, x86); 1 ulp
is granted."""

FLOAT64 = torch.finfo(torch.float64)

VISIBLE = 16
"""A term of average size is so many times the worst case of a sum which hides none of its terms: up to 1024 terms in
float32."""

INF = torch.tensor(math.inf, dtype=torch.float64)
EXACT = torch.tensor(0.0, dtype=torch.float64)
"""The error of what has not been rounded."""
NO_ERROR = torch.tensor(0.0, dtype=torch.float64)
"""Likewise, of numbers that are none of a page's text: where every operation errs at once, nothing is left to bound."""


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

    @cached_property
    def overflow(self) -> float:
        """Exact results below it are rounded to numbers: max and half a unit in its last place, max u / (2 − 2u), of
        which a little is left out; in float64, where that is no number, max itself.  A score less finfo.min, which
        stands for −∞ in many masks, is below it."""
        return min(self.max * (1 + self.u * (1 - 2 * self.u) / 2), FLOAT64.max)

    def gamma(self, n: int) -> float:
        """What n roundings can do to a term of a sum, relatively."""
        u = self.accumulate.u if self.accumulate else self.u
        if self.in_order and n * u * VISIBLE <= 1 / max(n, 1):
            return n * u / (1 - n * u)
        return gamma(n, u)


@lru_cache
def precision(
    dtype: torch.dtype, accumulate: torch.dtype | None = None, in_order: bool = False, underflows: bool = True
) -> Precision:
    """underflows: whether there is a smallest number; else eta is 0."""
    info = torch.finfo(dtype)
    u = info.eps / 2
    # float64's own is no float64 number; the next larger one stands for it.
    eta = max(u * info.tiny, math.ulp(0.0)) if underflows else 0.0
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
    exact; there it counts as exact if float32 holds it, or if it is the largest, which is computed by nobody."""
    checked = torch.float32 if dtype == torch.float64 else dtype
    exact = math.isinf(x) or abs(x) == FLOAT64.max or torch.tensor(x, dtype=checked).item() == x
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
    magnitude = value.abs() if propagated is NO_ERROR else value.abs() + propagated
    if magnitude.numel():
        least, largest = magnitude.aminmax()
        if least.item() >= 2 * p.tiny and largest.item() <= p.overflow:  # the ordinary case: nothing of what follows
            if propagated is NO_ERROR and roundings:
                return value, magnitude.mul_(roundings * p.u)
            return value, torch.add(propagated, magnitude, alpha=roundings * p.u) if roundings else propagated
    fresh = magnitude * (roundings * p.u)
    if underflows:
        small = magnitude > 0 if roundings else (magnitude > 0) & (magnitude < p.tiny)  # one u of tiny is eta
        if product:
            small |= (value == 0) & reduce(torch.logical_and, [x != 0 for x, _ in operands])
        fresh = torch.where(small, fresh.clamp(min=p.eta), fresh)
    error = propagated + fresh
    fits = magnitude <= p.overflow  # a NaN does not
    if fits.all():
        return value, error
    error = torch.where(fits, error, INF)
    infinite = value.isinf()
    if operands and infinite.any():
        exact = reduce(torch.logical_or, [x.isinf() & (e == 0) for x, e in operands])
        certain = reduce(torch.logical_and, [e.isfinite() for _, e in operands])
        error = torch.where(infinite & exact & certain, EXACT, error)
    return value, error


def ulps(name: str) -> float:
    return 2 * ULPS[name] + 1  # one ulp is at most 2 u |result|; and the rounding of the result


def gamma(n: int, u: float) -> float:
    """What n roundings can do to a term, relatively: the worst case or, if smaller, the probabilistic bound."""
    worst = n * u / (1 - n * u) if n * u < 1 else math.inf
    exponent = LAMBDA * math.sqrt(n) * u + n * u * u / (1 - u)
    return min(worst, math.expm1(exponent)) if exponent < 1 else worst  # from 1 on neither says anything
