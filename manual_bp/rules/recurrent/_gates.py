"""Derivatives of σ and tanh at the pre-activation, with their digits in saturation.

A gate that is open or shut has rounded to 1 or 0, and so has s (1 − s) to 0: a gradient that goes through many steps is
a product of many such numbers, and one that is 0 by rounding alone cuts it off.  1 − σ(a) is σ(−a), which does not
cancel, and tanh(a) = 2 σ(2a) − 1.
"""

import torch
from torch import Tensor


def sigmoid_slope(a: Tensor) -> Tensor:
    """σ'(a) = σ(a) σ(−a)."""
    return torch.sigmoid(a) * torch.sigmoid(-a)


def tanh_slope(a: Tensor) -> Tensor:
    """tanh'(a) = 1 / cosh² a = 4 σ(2a) σ(−2a)."""
    return 4 * sigmoid_slope(2 * a)
