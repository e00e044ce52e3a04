"""Bags of embeddings."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def embedding_bag(
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int = -1,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The sum (mode 0), the mean (1) or the largest (2) of the rows of each bag; which bag each index is in, how many
    are in each, and the row of the largest."""
    starts = offsets[:-1] if include_last_offset else offsets
    bag = (torch.arange(len(indices))[:, None] >= starts).sum(1) - 1
    counted = indices != padding_idx
    size = torch.zeros(len(starts), dtype=torch.int64).index_add(0, bag, counted.long())
    rows = weight.index_select(0, indices)
    if mode == 2:
        belongs = (bag == torch.arange(len(starts))[:, None]) & counted
        values, which = rows.masked_fill(~belongs[:, :, None], -math.inf).max(1)
        is_empty = (size == 0)[:, None]
        return values.masked_fill(is_empty, 0.0), bag, size, indices[which].masked_fill(is_empty, -1)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights[:, None]
    rows = rows.masked_fill(~counted[:, None], 0.0)
    total = torch.zeros(len(starts), weight.shape[1], dtype=weight.dtype).index_add(0, bag, rows)
    if mode == 1:
        total = total / size.clamp(min=1)[:, None].to(weight.dtype)
    return total, bag, size, torch.zeros(0, dtype=torch.int64)


def embedding_bag_backward(
    dy: Tensor,
    indices: Tensor,
    offsets: Tensor,
    offset2bag: Tensor,
    bag_size: Tensor,
    maximum_indices: Tensor,
    num_weights: int,
    scale_grad_by_freq: bool,
    mode: int,
    sparse: bool,
    per_sample_weights: Tensor | None,
    padding_idx: int = -1,
) -> Tensor:
    """To each row what its bags got."""
    zero = torch.zeros(num_weights, dy.shape[1], dtype=dy.dtype)
    if mode == 2:
        due = dy.masked_fill(maximum_indices < 0, 0.0)
        return zero.scatter_add(0, maximum_indices.clamp(min=0), due)
    if mode == 1:
        dy = dy / bag_size.clamp(min=1)[:, None].to(dy.dtype)
    rows = dy.index_select(0, offset2bag)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights[:, None]
    return zero.index_add(0, indices, rows.masked_fill((indices == padding_idx)[:, None], 0.0))
