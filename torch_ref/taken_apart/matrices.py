"""Factors and inverses of matrices that are made of others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


def cholesky_solve(x: Tensor, factor: Tensor, upper: bool = False) -> Tensor:
    lower = factor.mT if upper else factor
    first = torch.linalg.solve_triangular(lower, x, upper=False)
    found: Tensor = torch.linalg.solve_triangular(lower.mT, first, upper=True)
    return found


def cholesky_inverse(factor: Tensor, upper: bool = False) -> Tensor:
    inverse = torch.linalg.inv(factor.triu().mT if upper else factor.tril())  # the other triangle is not read
    found: Tensor = inverse.mT @ inverse
    return found


def solve_ex(a: Tensor, b: Tensor, *, left: bool = True, check_errors: bool = False) -> tuple[Tensor, ...]:
    """The solution; in place of factors, which only the derivative reads, what `lu_solve` below multiplies by."""
    inverse = torch.linalg.inv_ex(a).inverse
    factors, pivots = _carried(a, inverse, lambda x: aten._linalg_solve_ex(x, x)[1])
    return _times(inverse, b, left), factors, pivots, torch.zeros(a.shape[:-2], dtype=torch.int32)


def det(a: Tensor) -> tuple[Tensor, ...]:
    inverse = torch.linalg.inv_ex(a).inverse
    return torch.ops.manual_bp.det(a), *_carried(a, inverse, lambda x: aten._linalg_det(x)[1])


def slogdet(a: Tensor) -> tuple[Tensor, ...]:
    inverse = torch.linalg.inv_ex(a).inverse
    return *torch.ops.manual_bp.slogdet(a), *_carried(a, inverse, lambda x: aten._linalg_slogdet(x)[2])


def lu_solve(factors: Tensor, pivots: Tensor, b: Tensor, *, left: bool = True, adjoint: bool = False) -> Tensor:
    if bool((pivots == CARRIED).all()):
        return _times(factors.mT if adjoint else factors, b, left)
    p, lower, upper = torch.lu_unpack(factors, pivots)
    inverse = torch.linalg.inv(upper) @ torch.linalg.inv(lower) @ p.mT
    return _times(inverse.mT if adjoint else inverse, b, left)


CARRIED = 0
"""In place of pivots, which count from 1: an inverse comes in place of factors."""


def _carried(a: Tensor, inverse: Tensor, factored: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """An inverse, or its transpose where torch factors the transpose of a matrix that lies in memory as `a` does."""
    pivots = torch.full(a.shape[:-1], CARRIED, dtype=torch.int32)
    with torch._C._DisableTorchDispatch():
        upper = torch.empty_strided(a.shape, a.stride(), dtype=a.dtype).fill_(1.0).triu_()
        is_turned = bool((factored(upper).triu(1) == 0).all())  # that of the transpose is lower
    return (inverse.mT if is_turned else inverse), pivots


def _times(inverse: Tensor, b: Tensor, left: bool) -> Tensor:
    if left and b.ndim == inverse.ndim - 1 and b.shape == inverse.shape[:-1]:
        return (inverse @ b[..., None])[..., 0]
    return inverse @ b if left else b @ inverse


def lstsq(x: Tensor, right: Tensor, rcond: float | None = None, *, driver: str | None = None) -> tuple[Any, ...]:
    """The solution, and what has no derivative: residuals, rank and singular values."""
    none = torch.zeros(0, dtype=x.dtype)
    columns = right if right.ndim == x.ndim else right[..., None]
    solution = torch.linalg.pinv(x) @ columns
    rank = torch.full(x.shape[:-2], min(x.shape[-2:]))
    return (solution if right.ndim == x.ndim else solution[..., 0]), none, rank, none


def qr(x: Tensor, mode: str = "reduced") -> tuple[Tensor, Tensor]:
    """By reflections, whose signs are those of LAPACK: the diagonal of R has the opposite sign of what it was."""
    m, n = x.shape[-2:]
    size = min(m, n)
    q, r = torch.eye(m, dtype=x.dtype).expand(*x.shape[:-2], m, m), x
    for k in range(min(m - 1, n)):
        column = r[..., k:, k]
        sign = torch.where(column[..., :1] < 0, -1.0, 1.0).to(x.dtype)
        length = torch.linalg.vector_norm(column, dim=-1, keepdim=True)
        is_done = (column[..., 1:] == 0).sum(-1, keepdim=True) == m - k - 1  # there is nothing to turn
        v = torch.cat((torch.zeros_like(r[..., :k, k]), column[..., :1] + sign * length, column[..., 1:]), -1)
        v = v.masked_fill(is_done, 0.0)
        twice = (2 / (v * v).sum(-1, keepdim=True).masked_fill(is_done, 1.0))[..., None]
        r = r - twice * v[..., :, None] @ (v[..., None, :] @ r)
        q = q - twice * (q @ v[..., :, None]) @ v[..., None, :]
    if mode == "complete":
        return q, r.triu()
    return q[..., :size], r[..., :size, :].triu()
