"""Rows of a table, by index.

y_i = table[index_i],   dtable[k] = Σ over i with index_i = k of dy_i
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from manual_bp.inputs import Edge, Index, Input, Mistake


class Residuals(NamedTuple):
    index: Int[Tensor, "*batch"]
    entries: int


def forward(
    index: Int[Tensor, "*batch"], table: Float[Tensor, "entries features"]
) -> tuple[Float[Tensor, "*batch features"], Residuals]:
    y = torch.index_select(table, 0, index.reshape(-1)).reshape(*index.shape, table.shape[1])
    return y, Residuals(index, table.shape[0])


def backward(
    residuals: Residuals, dy: Float[Tensor, "*batch features"]
) -> tuple[None, Float[Tensor, "entries features"]]:
    index, entries = residuals
    rows = dy.reshape(index.numel(), dy.shape[-1])
    return None, torch.zeros(entries, dy.shape[-1], dtype=dy.dtype, device=dy.device).index_add(
        0, index.reshape(-1), rows
    )


def _last_wins(index: Tensor, table: Tensor, dy: Tensor) -> tuple[None, Tensor]:
    dtable = torch.zeros_like(table)
    for i, row in zip(index.reshape(-1).tolist(), dy.reshape(index.numel(), table.shape[1]), strict=True):
        dtable[i] = row
    return None, dtable


INPUTS = {"index": Index("entries"), "table": Input()}
EDGES = (Edge("repeats", {"index": [1, 1, 0, 1]}),)
MISTAKES = (
    Mistake("the last one wins", _last_wins, forgets="that repeats add up", shows="where an index stands twice"),
)
