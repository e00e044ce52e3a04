"""Hyperparameters of every kind that is no number.

y = Σ over `over` of f(x), times scale if there is one;   f(x) = x² if squared, else x;   a mean if reduction says so

dx = dy scale f'(x), divided by the number that was summed if it is a mean
"""

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake


class Residuals(NamedTuple):
    x: Float[Tensor, "rows columns depth"]
    over: tuple[int, ...]
    factor: float


def forward(
    x: Float[Tensor, "rows columns depth"],
    *,
    squared: bool = False,
    reduction: Literal["sum", "mean"] = "sum",
    over: tuple[int, ...] = (1,),
    scale: float | None = None,
) -> tuple[Float[Tensor, "*rest"], Residuals]:
    count = math.prod(x.shape[axis] for axis in over)
    factor = (1.0 if scale is None else scale) / (count if reduction == "mean" else 1)
    y = factor * torch.sum(x**2 if squared else x, dim=over)
    return y, Residuals(x if squared else x * 0 + 0.5, over, factor)


def backward(residuals: Residuals, dy: Float[Tensor, "*rest"]) -> tuple[Float[Tensor, "rows columns depth"]]:
    x, over, factor = residuals
    for axis in sorted(axis % 3 for axis in over):
        dy = dy.unsqueeze(axis)
    return (2 * factor * dy * x,)


INPUTS = {"x": Input()}
EDGES = (
    Edge("squared", {"squared": True}),
    Edge("mean", {"reduction": "mean"}),
    Edge("two axes", {"over": (0, -1), "squared": True}),
    Edge("scaled", {"scale": 0.5}),
    Edge("the mean of scaled squares", {"scale": 3.0, "squared": True, "reduction": "mean"}),
)
MISTAKES = (
    Mistake(
        "mean forgotten",
        lambda x, dy, squared, reduction, over, scale: backward(
            forward(x, squared=squared, over=over, scale=scale)[1], dy
        ),
        forgets="1/n of the mean",
        shows="for reduction='mean'",
    ),
    Mistake(
        "square forgotten",
        lambda x, dy, squared, reduction, over, scale: backward(
            forward(x, reduction=reduction, over=over, scale=scale)[1], dy
        ),
        forgets="the derivative of the square",
        shows="for squared=True",
    ),
)
