"""GELU of a compiled program in float32 on the CPU: one exponential serves Φ and its density.

The page takes erfc for Φ and two exponentials for the density, and erfc is by far the dearest function of vectors: GELU
of 2048 x 512 took 1.8 times as long as torch's.  Here

    φ(x) = e^(−x²/2) / √(2π)        Φ(−a) = e^(−a²/2) M(a),  Φ(a) = 1 − Φ(−a)        a = |x|

with the one factor, and M, half the scaled complementary error function of a/√2, as a polynomial in 1/(a + 2.5).

Digits.  As on the page, x² = c² + (x − c)(x + c) with c² exact: e^(−c²/4) twice, the rest as a series.  Φ of the lower
tail is a product, whose relative error is 4 roundings of M and 5 of the rest.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from manual_bp.rules.activation import gelu as page

BEYOND = 15.0
"""e^(−15²/2) is below the smallest subnormal number of float32."""
GRID = 16.0
SHIFT = 2.5
FIRST, LAST = 1 / (BEYOND + SHIFT), 1 / SHIFT
"""1/(a + 2.5) at 15 and at 0."""
MILLS = (
    0.7712726593017578,
    0.4034144878387451,
    0.09263308346271515,
    -0.011421335861086845,
    -0.007853028364479542,
    0.0015866527101024985,
    0.0006749466992914677,
    -0.00031502475030720234,
    -3.209597707609646e-05,
    3.970788748119958e-05,
)
"""(a + 2.5) M(a) by powers of u, which goes from −1 to 1 as 1/(a + 2.5) goes from FIRST to LAST: interpolated at the
zeros of a Chebyshev polynomial.  It is off by 0.3 roundings, and 4 in float32 with those of its evaluation."""
TERMS = 9
"""Of the series of e^z, |z| ≤ 15/32: the first one left out is below 3e-9 of the sum."""


def forward(x: Tensor, *, approximate: Literal["none", "tanh"] = "none") -> tuple[Tensor, page.Residuals]:
    if approximate != "none" or not _is_taken(x):
        return page.forward(x, approximate=approximate)
    return x * _distribution(x, _exponential(x)), page.Residuals(x, approximate)


def backward(residuals: page.Residuals, dy: Tensor) -> tuple[Tensor]:
    x, approximate = residuals
    if approximate != "none" or not _is_taken(x):
        return page.backward(residuals, dy)
    e, within = _exponential(x), torch.clamp(x, -BEYOND, BEYOND)
    return (dy * (_distribution(x, e) + within * e[0] / math.sqrt(2 * math.pi) * e[1]),)


def lower() -> None:
    """Inductor knows these operations."""


def _is_taken(x: Tensor) -> bool:
    return x.dtype is torch.float32 and x.device.type == "cpu"


def _exponential(x: Tensor) -> tuple[Tensor, Tensor]:
    """Two factors of e^(−x²/2), each of which is a normal number."""
    x = torch.clamp(x, -BEYOND, BEYOND)
    c = torch.round(x * GRID) / GRID
    half = torch.exp(-(c * c) / 4)
    z = -(x - c) * (x + c) / 2
    series = torch.full_like(z, 1 / math.factorial(TERMS - 1))
    for n in range(TERMS - 2, -1, -1):
        series = series * z + 1 / math.factorial(n)
    return half * series, half


def _distribution(x: Tensor, e: tuple[Tensor, Tensor]) -> Tensor:
    """Φ(x)."""
    inverse = 1 / (torch.clamp(x.abs(), max=BEYOND) + SHIFT)
    u = inverse * (2 / (LAST - FIRST)) - (LAST + FIRST) / (LAST - FIRST)
    mills = torch.full_like(u, MILLS[-1])
    for coefficient in MILLS[-2::-1]:
        mills = mills * u + coefficient
    tail = e[0] * (mills * inverse) * e[1]
    return torch.where(x < 0, tail, 1 - tail)
