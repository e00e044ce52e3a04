"""GELU in both of its forms, its slope, and what they are made of: what the page shares with the unit that it gates.

Where approximate is "tanh", σ(t) with t = √(8/π) (x + 0.044715 x³) takes the place of Φ(x).
"""

import math

import torch
from torch import Tensor

from manual_bp.rules.activation._gaussian import NOTHING_BEYOND, distribution, x_density
from manual_bp.rules.activation._swish import swish, swish_slope

SLOPE, CUBIC = math.sqrt(8 / math.pi), 0.044715


def gelu(x: Tensor, approximate: str) -> Tensor:
    """x Φ(x) or x σ(t)."""
    return swish(x, t(x)) if approximate == "tanh" else x * distribution(x)


def gelu_slope(x: Tensor, approximate: str) -> Tensor:
    """Φ(x) + x φ(x) or σ(t) + x t' σ(t) σ(−t)."""
    if approximate == "tanh":
        x = torch.clamp(x, -NOTHING_BEYOND, NOTHING_BEYOND)  # where σ(−|t|) is 0, before x² overflows
        return swish_slope(x, t(x), dt(x))
    return distribution(x) + x_density(x)


def t(x: Tensor) -> Tensor:
    """√(8/π) (x + 0.044715 x³)."""
    return SLOPE * (x * (1 + CUBIC * (x * x)))


def dt(x: Tensor) -> Tensor:
    """t'."""
    return SLOPE * (1 + 3 * CUBIC * (x * x))


def magnified(x: Tensor, approximate: str) -> Tensor:
    """By how many ulp the roundings of the argument may change the gate in the lower tail: x/√2, whose square is the
    exponent, is rounded twice by half an ulp, t seven times."""
    return 7 * torch.clamp(-t(x), min=0.0) if approximate == "tanh" else 2 * torch.clamp(x, max=0.0) ** 2


def cdf(x: Tensor, approximate: str) -> Tensor:
    """Φ, or σ(t) in its place."""
    return torch.sigmoid(t(x)) if approximate == "tanh" else distribution(x)


def density(x: Tensor, approximate: str) -> Tensor:
    """Its derivative: φ, or t' σ(t) σ(−t)."""
    if approximate == "tanh":
        return dt(x) * torch.sigmoid(t(x)) * torch.sigmoid(-t(x))
    return torch.exp(-(x * x) / 2) / math.sqrt(2 * math.pi)


def cdf_from_1(x: Tensor, approximate: str) -> Tensor:
    """½ (1 + erf(x/√2)) or ½ (1 + tanh(t/2)), which lose the digits of the lower tail."""
    return (1 + (torch.tanh(t(x) / 2) if approximate == "tanh" else torch.erf(x * math.sqrt(0.5)))) / 2


def gelu_from_1(x: Tensor, approximate: str) -> Tensor:
    """x/2 (1 + erf(x/√2)) or x/2 (1 + tanh(t/2)), in the order in which it may overflow, as torch's does."""
    return x * (2 * cdf_from_1(x, approximate)) / 2
