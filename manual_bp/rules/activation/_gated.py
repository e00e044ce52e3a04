"""Where two cotangents are written that were halves of one tensor: what wrong formulas of gated units share."""

import torch
from torch import Tensor


def to_row_0(grad: Tensor) -> Tensor:
    """The last row in place of the first, and nothing in the others."""
    if grad.ndim < 2 or not grad.numel():
        return grad
    rows = grad.reshape(-1, grad.shape[-1])
    return torch.cat([rows[-1:], torch.zeros_like(rows[1:])]).reshape(grad.shape)


def interleaved(dgate: Tensor, dup: Tensor) -> tuple[Tensor, Tensor]:
    """Both in one buffer, written element by element in turn and read as two halves."""
    both = torch.stack([dgate.reshape(-1), dup.reshape(-1)], dim=-1).reshape(2, dgate.numel())
    return both[0].reshape(dgate.shape), both[1].reshape(dup.shape)
