"""The mean of all squares: no hyperparameters, and a number for y.

y = Σ x² / n,   dx = 2 dy x / n
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Input, Mistake


class Residuals(NamedTuple):
    x: Float[Tensor, "*shape"]


def forward(x: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, ""], Residuals]:
    return torch.sum(x**2) / x.numel(), Residuals(x)


def backward(residuals: Residuals, dy: Float[Tensor, ""]) -> tuple[Float[Tensor, "*shape"]]:
    (x,) = residuals
    return (2 * dy * x / x.numel(),)


INPUTS = {"x": Input()}
EDGES = ()
MISTAKES = (
    Mistake("factor 2", lambda x, dy: (dy * x / x.numel(),), forgets="the 2 of the square", shows="everywhere"),
    Mistake("sum for the mean", lambda x, dy: (2 * dy * x,), forgets="1/n", shows="for more than one number"),
)
