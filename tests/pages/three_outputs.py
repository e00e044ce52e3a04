"""A row scaled, its mean, and the sum of everything.

y = scale · x,   mean = Σ_k x_k / n,   total = Σ y

dx = scale (dy + dtotal) + dmean / n
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Input, Mistake


class Residuals(NamedTuple):
    n: int
    scale: float


class Outputs(NamedTuple):
    y: Float[Tensor, "*batch features"]
    mean: Float[Tensor, "*batch"]
    total: Float[Tensor, ""]


def forward(x: Float[Tensor, "*batch features"], *, scale: float = 3.0) -> tuple[Outputs, Residuals]:
    y = scale * x
    return Outputs(y, torch.mean(x, dim=-1), torch.sum(y)), Residuals(x.shape[-1], scale)


def backward(residuals: Residuals, dy: Outputs) -> tuple[Float[Tensor, "*batch features"]]:
    n, scale = residuals
    return (scale * (dy.y + dy.total) + dy.mean[..., None] / n,)


INPUTS = {"x": Input()}
EDGES = ()
MISTAKES = (
    Mistake(
        "mean for sum",
        lambda x, dy, scale: (scale * (dy.y + dy.total) + dy.mean[..., None],),
        forgets="that a mean divides by n",
        shows="for more than one feature",
    ),
)
