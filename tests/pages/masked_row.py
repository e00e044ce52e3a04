"""What a mask lets through, less the mean of it in each row.

y = m (x − Σ_k m_k x_k / n),   n = Σ m, at least 1;   m is 1 where there is no mask

dx = m (dy − Σ_k m_k dy_k / n)
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, coin


class Residuals(NamedTuple):
    m: Float[Tensor, "rows columns"]
    n: Float[Tensor, "rows 1"]


def forward(
    x: Float[Tensor, "rows columns"], mask: Bool[Tensor, "rows columns"] | None = None
) -> tuple[Float[Tensor, "rows columns"], Residuals]:
    m = torch.ones_like(x) if mask is None else mask.to(x.dtype)
    n = torch.clamp(torch.sum(m, dim=-1, keepdim=True), min=1)
    return m * (x - torch.sum(m * x, dim=-1, keepdim=True) / n), Residuals(m, n)


def backward(residuals: Residuals, dy: Float[Tensor, "rows columns"]) -> tuple[Float[Tensor, "rows columns"], None]:
    m, n = residuals
    return m * (dy - torch.sum(m * dy, dim=-1, keepdim=True) / n), None


def terms(residuals: Residuals, dy: Float[Tensor, "rows columns"]) -> dict[str, dict[str, Tensor]]:
    m, n = residuals
    return {"dx": {"direct": m * dy, "mean": -m * torch.sum(m * dy, dim=-1, keepdim=True) / n}}


INPUTS = {"x": Input(), "mask": Input(coin(0.7), cotangent=False)}
EDGES = (Edge("nothing kept", {"mask": [[False, False, False]]}),)
MISTAKES = (
    Mistake(
        "mean of the whole row",
        lambda x, dy, mask: (
            (1 if mask is None else mask.to(x.dtype)) * (dy - torch.mean(dy, dim=-1, keepdim=True)),
            None,
        ),
        forgets="that the mean is of what is kept",
        shows="where something is dropped",
    ),
    Mistake(
        "the mask alone",
        lambda x, dy, mask: (dy if mask is None else dy * mask, None),
        forgets="the mean",
        shows="everywhere",
    ),
)
