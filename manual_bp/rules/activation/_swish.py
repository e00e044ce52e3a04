"""x σ(t) and its slope, with the digits of both tails: what SiLU (t = x) shares with whatever gates by a sigmoid.

σ is the logistic function.  Where t is far below 0, σ(t) is as small as eᵗ and x is not: what has sunk below the
smallest normal number there has lost digits, which x would bring to light.  So eᵗ is taken in two halves, h = e^(t/2),
and x meets the first while it is normal.
"""

import torch
from torch import Tensor

TAIL = -10.3
"""Where forward goes over to halves.  Both of its formulas hold on both sides; this is no number that somebody would
choose for an input, so that none lies on the border, where ball arithmetic cannot tell that the two have one slope."""


def swish(x: Tensor, t: Tensor) -> Tensor:
    """x σ(t)."""
    h = torch.exp(t / 2)
    return torch.where(t < TAIL, x * h / (1 + h * h) * h, x * torch.sigmoid(t))


def swish_slope(x: Tensor, t: Tensor, dt: Tensor | float) -> Tensor:
    """d/dx x σ(t) = σ(t) + x t' σ(t) σ(−t) = σ(t) (1 + x t' σ(−t)), where dt is t'.

    With e = e^−|t|, σ(|t|) = 1 / (1 + e) and σ(−|t|) = e / (1 + e):

        e (1 + e + x t') / (1 + e)²     t < 0
        (1 + e + x t' e) / (1 + e)²     t ≥ 0
    """
    h = torch.exp(-torch.abs(t) / 2)
    e = h * h
    below = h * ((1 + e + x * dt) / (1 + e * (2 + e))) * h
    above = (1 + e * (1 + x * dt)) / (1 + e * (2 + e))
    return torch.where(t < 0, below, above)
