"""Twice what a mask keeps, element by element.

y = 2x where mask, else 0;   dx = 2dy where mask, else 0
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, coin


class Residuals(NamedTuple):
    mask: Bool[Tensor, "*shape"]


def forward(x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Residuals]:
    return torch.where(mask, 2 * x, 0), Residuals(mask)


def backward(residuals: Residuals, dy: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], None]:
    return torch.where(residuals.mask, 2 * dy, 0), None


INPUTS = {"x": Input(), "mask": Input(coin(0.6), cotangent=False)}
EDGES = (
    Edge("zeros that are kept", {"x": [0.0, 1.0, 0.0, -2.0], "mask": [True, True, False, True]}),
    Edge("infinite cotangents", {"x": [1.0, 2.0, 3.0], "mask": [True, False, True], "dy": [1.0, math.inf, -math.inf]}),
)
MISTAKES = (Mistake("not doubled", lambda x, mask, dy: (torch.where(mask, dy, 0), None), "the 2", "everywhere"),)
