"""The mean of one number of each row, but for rows that are ignored: a number for y, an index, a None for an option.

y = Σ_i x[i, index_i] weight[index_i] / n   over the n rows with index_i ≠ ignore

dx[i, index_i] = dy weight[index_i] / n,   dweight[k] = dy Σ over i with index_i = k of x[i, k] / n
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from manual_bp.inputs import Edge, Index, Input, Mistake


class Residuals(NamedTuple):
    x: Float[Tensor, "batch classes"]
    weight: Float[Tensor, "classes"] | None
    chosen: Float[Tensor, "batch classes"]
    """1 / n at the number that was picked, 0 elsewhere."""


def forward(
    x: Float[Tensor, "batch classes"],
    index: Int[Tensor, "batch"],
    weight: Float[Tensor, "classes"] | None = None,
    *,
    ignore: int = -1,
) -> tuple[Float[Tensor, ""], Residuals]:
    counts = index != ignore
    classes = torch.arange(x.shape[1], device=x.device)
    chosen = ((index[:, None] == classes) & counts[:, None]).to(x.dtype)
    chosen = chosen / torch.clamp(torch.sum(counts), min=1).to(x.dtype)
    weighted = chosen * x if weight is None else chosen * x * weight
    return torch.sum(weighted), Residuals(x, weight, chosen)


def backward(
    residuals: Residuals, dy: Float[Tensor, ""]
) -> tuple[Float[Tensor, "batch classes"], None, Float[Tensor, "classes"] | None]:
    x, weight, chosen = residuals
    dx = dy * chosen if weight is None else dy * chosen * weight
    return dx, None, None if weight is None else torch.sum(dy * chosen * x, dim=0)


INPUTS = {"x": Input(), "index": Index("classes", unless="ignore"), "weight": Input()}
EDGES = (
    Edge("one ignored", {"index": [0, -1, 2, 1]}),
    Edge("another number ignored", {"index": [0, 2, 2, 1], "ignore": 2}),
)
MISTAKES = (
    Mistake(
        "sum for the mean",
        lambda x, index, weight, dy, ignore: (
            *backward(forward(x, index, weight, ignore=ignore)[1], dy * max(int((index != ignore).sum()), 1))[:2],
            None if weight is None else backward(forward(x, index, weight, ignore=ignore)[1], dy)[2],
        ),
        forgets="1/n in dx",
        shows="for more than one row",
    ),
    Mistake(
        "ignored rows counted",
        lambda x, index, weight, dy, ignore: backward(forward(x, index, weight, ignore=-100)[1], dy),
        forgets="which rows are ignored",
        shows="where one is",
    ),
)
