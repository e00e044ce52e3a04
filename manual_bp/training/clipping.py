"""Gradient clipping by the norm of all gradients together: the page clip_by_norm, of several tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from manual_bp.arguments import is_finite
from manual_bp.registry import RULES


def clip_by_norm(gradients: Mapping[str, Tensor], limit: float) -> tuple[dict[str, Tensor], Tensor]:
    """The gradients, all shortened by one factor if their common norm exceeds `limit`; and that norm before.

    The direction stays, so that a step into a steep wall goes less far and not elsewhere.  As
    torch.nn.utils.clip_grad_norm_, its 1e-6 included; a norm that is NaN makes every gradient NaN, as there.
    Raises ValueError for a limit that is no number above 0.
    """
    if not (is_finite(limit) and limit > 0):
        raise ValueError(f"clip_by_norm: limit must be a finite number above 0; came {limit!r}.")
    if not gradients:
        return {}, torch.zeros(())
    shortened, norm = RULES["clip_by_norm"].page.clipped([g.detach() for g in gradients.values()], limit)
    return dict(zip(gradients, shortened, strict=True)), norm
