"""Distances, margins, and functions of each element."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def cdist(x1: Tensor, x2: Tensor, p: float, compute_mode: int | None = None) -> Tensor:
    distances: Tensor = torch.linalg.vector_norm(x1[..., :, None, :] - x2[..., None, :, :], p, -1)
    return distances


def pdist(self: Tensor, p: float = 2.0) -> Tensor:
    rows, columns = torch.triu_indices(len(self), len(self), 1)
    distances: Tensor = torch.linalg.vector_norm(self[rows] - self[columns], p, -1)
    return distances


def multilabel_margin_loss(x: Tensor, target: Tensor, reduction: int) -> tuple[Tensor, Tensor]:
    """Σ max(0, 1 - x_t + x_j) / classes, over the targets t before the first -1 and all j that are none of them."""
    counted = (target >= 0).long().cumprod(-1).bool()
    places = target.clamp(min=0)
    is_target = torch.zeros(target.shape, dtype=torch.int64).scatter_add(-1, places, counted.long()) > 0
    gaps = 1 - x.gather(-1, places)[..., :, None] + x[..., None, :]
    terms = gaps.clamp(min=0.0).masked_fill(~counted[..., :, None] | is_target[..., None, :], 0.0)
    each = terms.sum((-2, -1)) / x.shape[-1]
    return (each, each.mean(), each.sum())[reduction], is_target.to(x.dtype)


def fmax(x: Tensor, other: Tensor) -> Tensor:
    return torch.where(x.isnan(), other, torch.where(other.isnan(), x, torch.maximum(x, other)))


def fmin(x: Tensor, other: Tensor) -> Tensor:
    return torch.where(x.isnan(), other, torch.where(other.isnan(), x, torch.minimum(x, other)))


def fmod(x: Tensor, other: Any) -> Tensor:
    rest: Tensor = x - other * (x / other).trunc()
    return rest


def remainder(x: Tensor, other: Any) -> Tensor:
    rest: Tensor = x - other * (x / other).floor()
    return rest


def copysign(x: Tensor, other: Tensor) -> Tensor:
    return torch.where(torch.signbit(other), -x.abs(), x.abs())


def hypot(x: Tensor, other: Tensor) -> Tensor:
    return torch.sqrt(x * x + other * other)


def glu(x: Tensor, dim: int = -1) -> Tensor:
    value, gate = x.chunk(2, dim)
    return value * torch.sigmoid(gate)


def var_mean(
    x: Tensor, dim: list[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    by = 1 if correction is None else correction
    return torch.var(x, dim, correction=by, keepdim=keepdim), torch.mean(x, dim, keepdim=keepdim)


def var_mean_along(x: Tensor, dim: list[int] | None, unbiased: bool = True, keepdim: bool = False) -> Any:
    return var_mean(x, dim, correction=float(unbiased), keepdim=keepdim)


def addbmm(x: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return beta * x + alpha * torch.bmm(batch1, batch2).sum(0)


def trilinear(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    expand1: Sequence[int],
    expand2: Sequence[int],
    expand3: Sequence[int],
    sumdim: Sequence[int],
    unroll_dim: int = 1,
) -> Tensor:
    """Σ a b c over some axes, each with new axes of length 1 first."""
    for axis in sorted(expand1):
        a = a.unsqueeze(axis)
    for axis in sorted(expand2):
        b = b.unsqueeze(axis)
    for axis in sorted(expand3):
        c = c.unsqueeze(axis)
    return (a * b * c).sum(list(sumdim)) if sumdim else a * b * c
