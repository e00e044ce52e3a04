"""x less its mean along one axis: a page that says `*shape`, as an element-wise one does, and is none.

Derivation. Linear and symmetric: dx = dy less its mean.  Source: none.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Input


class Residuals(NamedTuple):
    """The axis alone."""

    dim: int


def forward(x: Float[Tensor, "*shape"], *, dim: int = 0) -> tuple[Float[Tensor, "*shape"], Residuals]:
    return x - torch.mean(x, dim, keepdim=True), Residuals(dim)


def backward(residuals: Residuals, dy: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"]]:
    return (dy - torch.mean(dy, residuals.dim, keepdim=True),)


INPUTS = {"x": Input()}
EDGES = ()
MISTAKES = ()
