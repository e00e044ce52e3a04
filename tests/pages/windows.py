"""Sums of windows: an axis of y that is computed, and an input that has no cotangent.

y_j = Σ_k x[stride j + k] taps_k,   j = 0 … (length − size) // stride

dx[i] = Σ over stride j + k = i of dy_j taps_k
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, require


class Residuals(NamedTuple):
    taps: Float[Tensor, "size"]
    length: int
    stride: int


def forward(
    x: Float[Tensor, "*batch length"], taps: Float[Tensor, "size"], *, stride: int = 1
) -> tuple[Float[Tensor, "*batch steps"], Residuals]:
    length, size = x.shape[-1], taps.shape[0]
    require(1 <= size <= length, "a window must be as long as taps, and no longer than x", (size, length), "")
    require(stride >= 1, "stride must be at least 1", stride, "")
    steps = (length - size) // stride + 1
    parts = [x[..., k : k + stride * (steps - 1) + 1 : stride] * taps[k] for k in range(size)]
    return torch.sum(torch.stack(parts), dim=0), Residuals(taps, length, stride)


def backward(residuals: Residuals, dy: Float[Tensor, "*batch steps"]) -> tuple[Float[Tensor, "*batch length"], None]:
    taps, length, stride = residuals
    starts = stride * torch.arange(dy.shape[-1], device=dy.device)
    dx = torch.zeros(*dy.shape[:-1], length, dtype=dy.dtype, device=dy.device)
    for k in range(taps.shape[0]):
        dx = torch.index_add(dx, -1, starts + k, dy * taps[k])
    return dx, None


INPUTS = {"x": Input(), "taps": Input(cotangent=False)}
AXES = {"steps": lambda length, size, stride: (length - size) // stride + 1}
SIZES = {"length": 7, "size": 3}
EDGES = (Edge("stride 2", {"stride": 2}), Edge("a rest", {"stride": 3}, sizes={"length": 9, "size": 2}))
MISTAKES = (
    Mistake(
        "stride forgotten",
        lambda x, taps, dy, stride: backward(Residuals(taps, x.shape[-1], 1), dy),
        forgets="the stride",
        shows="for stride > 1",
    ),
    Mistake(
        "flipped",
        lambda x, taps, dy, stride: backward(Residuals(taps.flip(0), x.shape[-1], stride), dy),
        forgets="that taps are read from the first to the last",
        shows="for two taps or more",
    ),
)
