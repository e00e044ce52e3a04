"""Inverses, determinants and triangular factors of matrices: bounded as whole functions.

Elimination in bounded numbers would multiply errors up with every row, which no program does.  A program that solves
with A by elimination, in whatever order, has the exact result of a matrix A + E [Higham, chapters 9, 10 and 14],

    |E| ≤ D = e + γ(3 n) |L| |U|

with the error e that A came with and the factors L U = A of partial pivoting.  What E does to the results is bounded
over all of it, with B = A⁻¹, G = |B| D and ρ = ‖G‖∞ < 1:

    inverse       |(A + E)⁻¹ − B| ≤ G |B| / (1 − ρ)
    determinant   |det(A + E) / det A − 1| ≤ exp(tr G + n ρ² / (1 − ρ)) − 1
    Cholesky      |L' − L| ≤ |L| Φ(|L⁻¹| D |L⁻ᵀ|) / (1 − ρ), Φ the lower triangle with half of the diagonal
    eigenvalues   |λ' − λ| ≤ ‖E‖F of a symmetric A, and of singular values [Weyl]
    eigenvectors  ‖v' − v‖ ≤ √2 ‖E‖F / (gap − ‖E‖F), gap the distance to the nearest other eigenvalue [Davis, Kahan]; u
                  and v of singular values make one of [[0, A], [Aᵀ, 0]], whose eigenvalues are ±σ, and 0
    exponential   |exp(A + E) − exp A| ≤ exp(|A| + D) − exp |A|, term by term of the series

where E of reflections is of norms and not of elements, ‖E‖F ≤ ‖e‖F + γ(3 n) ‖A‖F.  From ρ = 1 on, A + E may be singular
and nothing is known.  A right program may form the inverse, and multiply by it.

Solving is made of these: see torch_ref/taken_apart/matrices.py.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded_table.formats import EXACT, INF, Pair, Precision, rounded
from manual_bp.arithmetic.bounded_table.meanings import arithmetic, aten, solving
from manual_bp.arithmetic.bounded_table.products import matmul

ROUNDINGS = 3
"""Times n: elimination, and substitution forwards and backwards [Higham, theorem 9.4]."""


_DEFINED = torch.library.Library("manual_bp", "DEF")  # type: ignore[no-untyped-call]
_DEFINED.define("det(Tensor a) -> Tensor")  # type: ignore[no-untyped-call]
_DEFINED.define("slogdet(Tensor a) -> (Tensor sign, Tensor logabsdet)")  # type: ignore[no-untyped-call]
_DEFINED.impl("det", lambda a: torch.linalg.det(a), "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
_DEFINED.impl("slogdet", lambda a: tuple(torch.linalg.slogdet(a)), "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
"""Determinants without the factors that torch's own operations return beside them."""

OF_REGULAR = {
    *(aten.linalg_inv_ex.default, aten.linalg_cholesky_ex.default, aten.linalg_solve_triangular.default),
    *(aten._linalg_eigh.default, aten._linalg_svd.default),
    *(aten.linalg_pinv.atol_rtol_tensor, torch.ops.manual_bp.det.default, torch.ops.manual_bp.slogdet.default),
}
"""Of regular matrices alone: where nothing is known of a result, what a program has is decided by its roundings."""


def _spread(a: Pair) -> Pair:
    return a[0], a[1].expand_as(a[0])


def _norm(x: Tensor) -> Tensor:
    """‖x‖∞ of each matrix, (..., 1, 1)."""
    return x.sum(-1, keepdim=True).amax(-2, keepdim=True) if x.numel() else x.new_zeros((*x.shape[:-2], 1, 1))


def _known(error: Tensor, rho: Tensor) -> Tensor:
    """The error where A + E is regular; a NaN is not below 1."""
    return torch.where((rho < 1).expand_as(error), error.nan_to_num(nan=float("inf")), INF)


def _inverse(p: Precision, a: Pair, factors: Tensor) -> tuple[Pair, Tensor, Tensor]:
    """The inverse, G and ρ.  factors: |L| |U|."""
    x, e = _spread(a)
    inverse = torch.linalg.inv_ex(x).inverse
    d = e + p.gamma(ROUNDINGS * x.shape[-1]) * factors
    g = inverse.abs() @ d
    rho = _norm(g)
    moved = _known(g @ inverse.abs() / (1 - rho), rho)
    return rounded(p, inverse, moved, (inverse, moved)), g, rho


def _factors(x: Tensor) -> Tensor:
    """|L| |U| of A = P L U, with the rows where they are in A."""
    p, lower, upper = torch.linalg.lu(x)
    found: Tensor = p @ (lower.abs() @ upper.abs())
    return found


@solving(aten.linalg_inv_ex.default)
def _inv(p: Precision, a: Pair, check_errors: bool = False) -> tuple[Any, ...]:
    return _inverse(p, a, _factors(a[0]))[0], torch.zeros(a[0].shape[:-2], dtype=torch.int32)


def _times(p: Precision, inverse: Pair, b: Pair, left: bool) -> Pair:
    """Of a right side that is a vector, or several, too."""
    value, error = _spread(b)
    if value.ndim == inverse[0].ndim - 1 and left and value.shape == inverse[0].shape[:-1]:
        x, e = matmul(p, inverse, (value[..., None], error[..., None]))
        return x[..., 0], e[..., 0]
    return matmul(p, inverse, (value, error)) if left else matmul(p, (value, error), inverse)


def _turned(a: Pair) -> Pair:
    value, error = _spread(a)
    return value.mT, error.mT


@arithmetic(torch.ops.manual_bp.det.default, operands=1)
def _det(p: Precision, a: Pair) -> Pair:
    value, off = torch.linalg.det(a[0]), _relative(p, a)
    moved = (value.abs() * off).nan_to_num(nan=float("inf"))
    return rounded(p, value, moved, (value, moved))


@solving(torch.ops.manual_bp.slogdet.default)
def _slogdet(p: Precision, a: Pair) -> tuple[Any, ...]:
    off = _relative(p, a)
    sign, value = torch.linalg.slogdet(a[0])
    moved = torch.where(off < 1, -torch.log1p(-off.clamp(max=0.5)) + torch.where(off > 0.5, INF, EXACT), INF)
    return (sign, torch.where(off < 1, EXACT, INF)), rounded(p, value, moved, (value, moved))


def _relative(p: Precision, a: Pair) -> Tensor:
    """How far off a determinant may be, as a part of it."""
    _, g, rho = _inverse(p, a, _factors(a[0]))
    rho = rho[..., 0, 0]
    trace = g.diagonal(dim1=-2, dim2=-1).sum(-1)
    return _known(torch.expm1(trace + a[0].shape[-1] * rho**2 / (1 - rho)), rho)


@arithmetic(aten.linalg_pinv.atol_rtol_tensor, operands=1)
def _pinv(p: Precision, a: Pair, **_: Any) -> Pair:
    """Of full rank.  Programs differ by norms, not by elements: ‖P' − P‖ ≤ √2 ‖E‖ / (σ (σ − ‖E‖)), with the least
    singular value σ of A [Stewart, "On the perturbation of pseudo-inverses" (1977)]."""
    x, e = _spread(a)
    least = torch.linalg.svdvals(x)[..., -1] if min(x.shape[-2:]) else torch.ones(x.shape[:-2], dtype=x.dtype)
    off = torch.linalg.matrix_norm(e) + p.gamma(ROUNDINGS * max(x.shape[-2:])) * torch.linalg.matrix_norm(x)
    moved = torch.where(off < least, 2**0.5 * off / (least * (least - off)), INF)[..., None, None]
    value = torch.linalg.pinv(x)
    moved = moved.expand_as(value)
    return rounded(p, value, moved, (value, moved))


@arithmetic(aten.linalg_solve_triangular.default, operands=2)
def _solve_triangular(
    p: Precision, a: Pair, b: Pair, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> Pair:
    x, e = (part.triu() if upper else part.tril() for part in _spread(a))
    if unitriangular:
        x, e = (_with_diagonal(part, number) for part, number in ((x, 1.0), (e, 0.0)))
    inverse, _, _ = _inverse(p, (x, e), x.abs())
    return _times(p, inverse, b, left)


def _with_diagonal(x: Tensor, number: float) -> Tensor:
    return x - torch.diag_embed(x.diagonal(dim1=-2, dim2=-1) - number)


@solving(aten.linalg_cholesky_ex.default)
def _cholesky(p: Precision, a: Pair, *, upper: bool = False, check_errors: bool = False) -> tuple[Any, ...]:
    x, e = _turned(a) if upper else _spread(a)
    factor, info = torch.linalg.cholesky_ex(x)
    inverse = torch.linalg.inv_ex(factor).inverse.abs()
    size = factor.abs()
    both = torch.maximum(e, e.mT)
    g = inverse @ (both + p.gamma(x.shape[-1] + 1) * (size @ size.mT)) @ inverse.mT
    rho = _norm(g)
    half = g.tril() - torch.diag_embed(g.diagonal(dim1=-2, dim2=-1) / 2)
    moved = _known((size @ half / (1 - rho)).tril(), rho)
    value, error = rounded(p, factor, moved, (factor, moved))
    found = (value.mT, error.mT) if upper else (value, error)
    return found, info


@arithmetic(aten.linalg_matrix_exp.default, operands=1)
def _matrix_exp(p: Precision, a: Pair) -> Pair:
    """The difference of two exponentials is the corner of one of a block matrix."""
    x, e = _spread(a)
    size, n = x.abs(), x.shape[-1]
    d = e + p.gamma(ROUNDINGS * n) * (size + _norm(size) / max(n, 1))  # programs scale by the norm
    block = torch.cat((torch.cat((size, d), -1), torch.cat((torch.zeros_like(size), size + d), -1)), -2)
    moved = torch.linalg.matrix_exp(block)[..., :n, n:].nan_to_num(nan=float("inf"))
    return rounded(p, torch.linalg.matrix_exp(x), moved, (x, e))


def _off(p: Precision, x: Tensor, e: Tensor) -> Tensor:
    """‖E‖F of each matrix, (...,)."""
    found: Tensor = torch.linalg.matrix_norm(e) + p.gamma(ROUNDINGS * max(x.shape[-2:])) * torch.linalg.matrix_norm(x)
    return found


def _turned_by(off: Tensor, gap: Tensor) -> Tensor:
    """How far off each vector may be, (..., 1, vectors)."""
    off = off[..., None]
    return torch.where(off < gap, 2**0.5 * off / (gap - off), INF)[..., None, :]


def _gaps(values: Tensor) -> Tensor:
    """From each number to the nearest other."""
    apart = (values[..., :, None] - values[..., None, :]).abs()
    alone = torch.diag_embed(torch.full_like(values, float("inf")))
    return (apart + alone).amin(-1) if values.shape[-1] else values


@solving(aten._linalg_eigh.default)
def _eigh(p: Precision, a: Pair, UPLO: str = "L", compute_v: bool = True) -> tuple[Any, ...]:
    x, e = _spread(a)
    values, vectors = torch.linalg.eigh(x, UPLO)
    off = _off(p, x, torch.maximum(e, e.mT))
    moved = off[..., None].expand_as(values)
    turned = _turned_by(off, _gaps(values)).expand_as(vectors)
    return rounded(p, values, moved, (values, moved)), rounded(p, vectors, turned, (vectors, turned))


@solving(aten._linalg_svd.default)
def _svd(
    p: Precision, a: Pair, full_matrices: bool = False, compute_uv: bool = True, *, driver: str | None = None
) -> tuple[Any, ...]:
    x, e = _spread(a)
    u, s, vh = torch.linalg.svd(x, full_matrices)
    off = _off(p, x, e)
    gap = torch.minimum(_gaps(s), 2 * s)
    if x.shape[-2] != x.shape[-1]:
        gap = torch.minimum(gap, s)
    turned, moved = 2**0.5 * _turned_by(off, gap), off[..., None].expand_as(s)

    def vectors(columns: Tensor) -> Pair:
        """Those beyond the singular values are any that fill up a basis."""
        more = turned.new_full((*turned.shape[:-1], columns.shape[-1] - s.shape[-1]), float("inf"))
        off = torch.cat((turned, more), -1).expand_as(columns)
        return rounded(p, columns, off, (columns, off))

    right, its_error = vectors(vh.mT)
    return vectors(u), rounded(p, s, moved, (s, moved)), (right.mT, its_error.mT)
