"""A bell, element by element: a curve whose slope is odd, and a hyperparameter of either sign.

y = alpha exp(−x²),   dx = −2 dy x y
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake


class Residuals(NamedTuple):
    x: Float[Tensor, "*shape"]
    y: Float[Tensor, "*shape"]


def forward(x: Float[Tensor, "*shape"], *, alpha: float = 1.0) -> tuple[Float[Tensor, "*shape"], Residuals]:
    y = alpha * torch.exp(-x * x)
    return y, Residuals(x, y)


def backward(residuals: Residuals, dy: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"]]:
    x, y = residuals
    return (-2 * dy * x * y,)


INPUTS = {"x": Input()}
EDGES = (
    Edge("the top", {"x": [0.0, -0.0, 1.0]}),
    Edge("alpha 0.3", {"alpha": 0.3}),
    Edge("alpha 2.5", {"alpha": 2.5}),
    Edge("upside down", {"alpha": -1.75}),
)
MISTAKES = (
    Mistake(
        "x divided out",
        lambda x, dy, alpha: (2 * dy * (alpha * torch.exp(-x * x)) * torch.log(torch.exp(-x * x)) / x,),
        forgets="that 0/0 is NaN at the top",
        shows="at x = 0",
    ),
)
