"""Gradient clipping by the norm of all gradients together."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from manual_bp.training.arguments import is_finite

# What torch.nn.utils.clip_grad_norm_ adds to the norm, so that clipping gradients that are 0 divides by no 0.
EPS = 1e-6


def clip_by_norm(gradients: Mapping[str, Tensor], limit: float) -> tuple[dict[str, Tensor], Tensor]:
    """The gradients, all shortened by one factor if their common norm exceeds `limit`; and that norm before.

        norm = √(Σ g²) over all elements of all gradients
        g ← g min(1, limit / (norm + 1e-6))

    The direction stays, so that a step into a steep wall goes less far and not elsewhere.  As
    torch.nn.utils.clip_grad_norm_, its 1e-6 included; a norm that is NaN makes every gradient NaN, as there.
    Source: Pascanu, Mikolov & Bengio, "On the difficulty of training recurrent neural networks", ICML 2013,
    algorithm 1.
    Raises ValueError for a limit that is no number above 0.
    """
    if not (is_finite(limit) and limit > 0):
        raise ValueError(f"clip_by_norm: limit must be a finite number above 0; came {limit!r}.")
    if not gradients:
        return {}, torch.zeros(())
    norm = torch.sqrt(torch.stack([torch.sum(g.detach() ** 2) for g in gradients.values()]).sum())
    factor = torch.clamp(limit / (norm + EPS), max=1.0)
    return {name: factor * g.detach() for name, g in gradients.items()}, norm
