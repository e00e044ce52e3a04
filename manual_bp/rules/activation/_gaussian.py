"""The normal distribution Φ and its density φ, with the digits of the lower tail: what GELU and its gated form share.

    Φ(x) = ∫ φ from −∞ to x = erfc(−x/√2) / 2,   φ(x) = Φ'(x) = e^(−x²/2) / √(2π)

Source: Abramowitz & Stegun, "Handbook of Mathematical Functions", 26.2.1, 26.2.2, 26.2.29.
"""

import math

import torch
from torch import Tensor

NOTHING_BEYOND = 40.0
"""φ(40) = e^−800 / √(2π) is below the smallest subnormal number of float64."""
GRID = 16.0
"""x is rounded to multiples of 1/16: up to 40 the squares of these are exact in float32."""


SQRT_HALF, REST = 0.7071067811865475, 6.268583589525109e-17
"""√½ to 32 digits, as the sum of two numbers of float64.  Φ magnifies a relative error of its argument x² times, in
float64 up to 1400 times; with the first number alone, certified truth would be that of another function."""


def distribution(x: Tensor) -> Tensor:
    """Φ(x).  Not as (1 + erf(x/√2)) / 2, which subtracts from 1 what is nearly 1 where x is negative."""
    return torch.erfc(-(x * SQRT_HALF + x * REST)) / 2


def x_density(x: Tensor) -> Tensor:
    """x φ(x).

    The rounding of x² would be magnified x²/2 times by the exponential.  So x² = c² + (x − c)(x + c), where c is x
    rounded so coarsely that c² and x − c are exact.  e^(−c²/2) is taken in two halves, of which x meets the first while
    it is a normal number.
    """
    x = torch.clamp(x, -NOTHING_BEYOND, NOTHING_BEYOND)
    c = torch.round(x * GRID) / GRID
    h = torch.exp(-(c * c) / 4)
    return x * h * torch.exp(-(x - c) * (x + c) / 2) / math.sqrt(2 * math.pi) * h
