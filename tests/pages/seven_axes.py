"""A sum over one axis of seven.

y_abdefg = Σ_c x_abcdefg weight_cg

dx_abcdefg = dy_abdefg weight_cg,   dweight_cg = Σ_abdef dy_abdefg x_abcdefg
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Input, Mistake


class Residuals(NamedTuple):
    x: Float[Tensor, "a b c d e f g"]
    weight: Float[Tensor, "c g"]


def forward(
    x: Float[Tensor, "a b c d e f g"], weight: Float[Tensor, "c g"]
) -> tuple[Float[Tensor, "a b d e f g"], Residuals]:
    y = torch.sum(x * weight[:, None, None, None, :], dim=2)
    return y, Residuals(x, weight)


def backward(
    residuals: Residuals, dy: Float[Tensor, "a b d e f g"]
) -> tuple[Float[Tensor, "a b c d e f g"], Float[Tensor, "c g"]]:
    x, weight = residuals
    dx = dy[:, :, None] * weight[:, None, None, None, :]
    dweight = torch.sum(dy[:, :, None] * x, dim=(0, 1, 3, 4, 5))
    return dx, dweight


INPUTS = {"x": Input(), "weight": Input()}
SIZES = {"a": 2, "b": 3, "c": 2, "d": 2, "e": 3, "f": 2, "g": 2}
EDGES = ()
MISTAKES = (
    Mistake(
        "the first batch alone",
        lambda x, weight, dy: (
            dy[:, :, None] * weight[:, None, None, None, :],
            torch.sum(dy[:1, :, None] * x[:1], dim=(0, 1, 3, 4, 5)),
        ),
        forgets="that every a adds to dweight",
        shows="for more than one a",
    ),
)
