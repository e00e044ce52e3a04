"""Targets for any loss."""

from __future__ import annotations

import torch
from torch import Tensor

from manual_bp.inputs import Index
from manual_bp.losses import Loss


def targets(loss: str, y: Tensor, generator: torch.Generator, ignored: int = 0) -> Tensor:
    """Right classes or numbers for the outputs y, (n, classes), as the page of the loss would have them drawn.

    ignored: so many examples, the first ones, are left out where the loss knows a number for that.
    """
    rule = Loss(loss).rule
    name = list(rule.inputs)[1]
    spec = rule.inputs[name]
    if not isinstance(spec, Index):
        return spec.draw(tuple(y.shape), generator).to(y.dtype)
    found = torch.randint(y.shape[1], y.shape[:1], generator=generator)
    if spec.unless:
        found[:ignored] = rule.defaults[spec.unless]
    return found
