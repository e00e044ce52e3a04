"""The logistic function σ(t) = 1 / (1 + e⁻ᵗ), with every digit of its lower tail."""

import torch
from torch import Tensor


def logistic(t: Tensor) -> Tensor:
    """σ(t), in e = e^−|t|, which never overflows: 1 / (1 + e) for t ≥ 0, and e / (1 + e) for t < 0.

    Not torch.sigmoid, which has 1 / (1 + e⁻ᵗ) for every t: 0 from where e⁻ᵗ overflows, though σ(t) is still above 0.
    """
    e = torch.exp(-torch.abs(t))
    return torch.where(t < 0, e, 1.0) / (1 + e)
