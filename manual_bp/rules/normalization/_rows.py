"""Axes (*batch, features): a row is what lies along the last axis, and every row is normalised by itself."""

import torch
from torch import Tensor


def row_mean(x: Tensor) -> Tensor:
    """The mean of each row, shaped to meet x."""
    return torch.mean(x, -1, keepdim=True)


def over_rows(x: Tensor) -> Tensor:
    """Σ over all rows; shape (features,).  Their number is written out: -1 cannot be inferred beside an axis of 0."""
    return torch.sum(x.reshape(x.shape[:-1].numel(), x.shape[-1]), 0)
