"""A matrix product and a shift.

y = x Wᵀ + b;   dx = dy W,   dweight = dyᵀ x,   dbias = Σ dy
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Input, Mistake


class Residuals(NamedTuple):
    x: Float[Tensor, "batch in"]
    weight: Float[Tensor, "out in"]


def forward(
    x: Float[Tensor, "batch in"], weight: Float[Tensor, "out in"], bias: Float[Tensor, "out"]
) -> tuple[Float[Tensor, "batch out"], Residuals]:
    return torch.mm(x, weight.T) + bias, Residuals(x, weight)


def backward(
    residuals: Residuals, dy: Float[Tensor, "batch out"]
) -> tuple[Float[Tensor, "batch in"], Float[Tensor, "out in"], Float[Tensor, "out"]]:
    x, weight = residuals
    return torch.mm(dy, weight), torch.mm(dy.T, x), torch.sum(dy, dim=0)


INPUTS = {name: Input() for name in ("x", "weight", "bias")}
EDGES = ()
MISTAKES = (
    Mistake(
        "mean for sum",
        lambda x, weight, bias, dy: (torch.mm(dy, weight), torch.mm(dy.T, x), torch.mean(dy, dim=0)),
        forgets="that every row adds to dbias",
        shows="for more than one row",
    ),
)
