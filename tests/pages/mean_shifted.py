"""The square less the mean of each matrix.

    y_i = x_i² / scale − 1/n Σ_j x_j

Derivation.  x_k enters y_k by its square and every y_i by the mean:

    dx_k = 2 x_k dy_k / scale − 1/n Σ_i dy_i

Source: none; it has two summands, a division, a reduction over two axes and a product that is added to something.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake


class Residuals(NamedTuple):
    """dx holds x itself; scale is the divisor of its square."""

    x: Float[Tensor, "*batch rows columns"]
    scale: float


def forward(
    x: Float[Tensor, "*batch rows columns"], *, scale: float = 3.0
) -> tuple[Float[Tensor, "*batch rows columns"], Residuals]:
    return x * x / scale - x.mean((-2, -1))[..., None, None], Residuals(x, scale)


def backward(
    residuals: Residuals, dy: Float[Tensor, "*batch rows columns"]
) -> tuple[Float[Tensor, "*batch rows columns"]]:
    return (residuals.x * (2 * dy / residuals.scale) - dy.mean((-2, -1))[..., None, None],)


def terms(residuals: Residuals, dy: Tensor) -> dict[str, dict[str, Tensor]]:
    square = residuals.x * (2 * dy / residuals.scale)
    return {"dx": {"square": square, "mean": -dy.mean((-2, -1))[..., None, None].expand_as(square)}}


INPUTS = {"x": Input()}

EDGES = (
    Edge("every x alike", {"x": torch.ones(2, 2).tolist()}),
    Edge("negative scale", {"scale": -2.0}),
)

MISTAKES = (
    Mistake(
        "mean forgotten",
        backward=lambda x, dy, scale: (2 * x * dy / scale,),
        forgets="that every x moves the mean",
        shows="where the cotangents of a matrix do not add up to 0",
    ),
)
