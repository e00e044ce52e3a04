"""Inverses, determinants and triangular factors of matrices.

With B = A⁻¹: dB = −B dA B, dX = B (db − dA X) of X = B b, d log|det A| = tr(B dA).
torch takes a matrix with a Cholesky factor for symmetric: its lower triangle is read, and each of two elements that
mirror each other gets half of the derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from manual_bp.arithmetic.balls import Jets, NeedMoreBits, UnknownHere, lift, means, numbering
from manual_bp.arithmetic.balls_table.products import matmul
from manual_bp.arithmetic.jets import ONE, ZERO, Cell, arb, made_of

from flint import arb_mat  # isort: skip  (after jets, whose message says how to install it)

Matrix = list[list[Cell]]
HALF = arb("0.5")
MOST_ROWS = 8
"""Of an exponential: each of its n² derivatives is an exponential of 2 n rows."""


def _matrices(x: Jets) -> list[Matrix]:
    """Rows of elements, of each matrix of a batch."""
    rows, columns = x.shape[-2:]
    flat = [x.cells[i : i + columns] for i in range(0, len(x.cells), columns)] if columns else [[]] * rows
    return [flat[i : i + rows] for i in range(0, len(flat), rows)] if rows else []


def _whole(shape: Sequence[int], matrices: list[Matrix]) -> Jets:
    return Jets(shape, [cell for matrix in matrices for row in matrix for cell in row])


def _values(a: Matrix) -> arb_mat:
    return arb_mat([[cell.value for cell in row] for row in a])


def _inverse(a: Matrix) -> list[list[arb]]:
    """Raises NeedMoreBits where a matrix may be singular."""
    try:
        found: list[list[arb]] = _values(a).inv().tolist()
    except ZeroDivisionError:
        raise NeedMoreBits from None
    return found


def _each(a: Jets, function: Callable[[Matrix], Matrix]) -> Jets:
    return _whole(a.shape, list(map(function, _matrices(a))))


@means("inverse", "linalg_inv")
def _inv(input: Any) -> Jets:
    def inverse(matrix: Matrix) -> Matrix:
        b, n = _inverse(matrix), range(len(matrix))
        return [[made_of(b[i][j], [(matrix[k][m], -b[i][k] * b[m][j]) for k in n for m in n]) for j in n] for i in n]

    return _each(lift(input), inverse)


@means("linalg_inv_ex")
def _inv_ex(input: Any, check_errors: bool = False) -> tuple[Jets, Tensor]:
    return _inv(input), torch.zeros(lift(input).shape[:-2], dtype=torch.int32)


def _solve(A: Any, B: Any, *, left: bool = True) -> Jets:
    a, b = lift(A), lift(B)
    is_vector = left and b.ndim == a.ndim - 1 and b.shape == a.shape[:-1]
    right = b.unsqueeze(-1) if is_vector else b if left else b.mT
    a = a if left else a.mT
    shapes = [torch.empty(x.shape[:-2]) for x in (a, right)]
    batch = torch.broadcast_tensors(*shapes)[0].shape  # type: ignore[no-untyped-call]
    a, right = a.expand((*batch, *a.shape[-2:])), right.expand((*batch, *right.shape[-2:]))
    x = _whole(right.shape, [_solved(m, r) for m, r in zip(_matrices(a), _matrices(right), strict=True)])
    found: Jets = x.squeeze(-1) if is_vector else x if left else x.mT
    return found


def _solved(a: Matrix, right: Matrix) -> Matrix:
    b, n, columns = _inverse(a), range(len(a)), range(len(right[0]) if right else 0)
    x = [[sum((b[i][k] * right[k][j].value for k in n), ZERO) for j in columns] for i in n]

    def element(i: int, j: int) -> Cell:
        by_right = [(right[k][j], b[i][k]) for k in n]
        return made_of(x[i][j], [*by_right, *((a[k][m], -b[i][k] * x[m][j]) for k in n for m in n)])

    return [[element(i, j) for j in columns] for i in n]


@means("det", "linalg_det")
def _det(A: Any) -> Jets:
    def determinant(a: Matrix) -> Cell:
        value, b = _values(a).det(), _inverse(a)
        return made_of(value, [(cell, value * b[m][k]) for k, row in enumerate(a) for m, cell in enumerate(row)])

    a = lift(A)
    return Jets(a.shape[:-2], list(map(determinant, _matrices(a))))


@means("slogdet", "linalg_slogdet")
def _slogdet(A: Any) -> tuple[Jets, Jets]:
    a = lift(A)
    signs, logs = [], []
    for matrix in _matrices(a):
        value, b = _values(matrix).det(), _inverse(matrix)
        if not (value > 0 or value < 0):
            raise NeedMoreBits
        signs.append(Cell(ONE if value > 0 else -ONE))
        moves = [(cell, b[m][k]) for k, row in enumerate(matrix) for m, cell in enumerate(row)]
        logs.append(made_of(abs(value).log(), moves))
    return Jets(a.shape[:-2], signs), Jets(a.shape[:-2], logs)


@means("linalg_pinv", "pinverse")
def _pinv(input: Any, **_: Any) -> Jets:
    """Of full rank."""
    a = lift(input)
    if a.shape[-2] >= a.shape[-1]:
        return matmul(_inv(matmul(a.mT, a)), a.mT)
    return matmul(a.mT, _inv(matmul(a, a.mT)))


@means("linalg_solve_triangular")
def _solve_triangular(input: Any, B: Any, *, upper: bool, left: bool = True, unitriangular: bool = False) -> Jets:
    a = lift(input)
    n = a.shape[-1] ** 2
    places, square = numbering(a.shape[-2:]), torch.ones(a.shape[-2:], dtype=torch.bool)
    ones, kept = set(places.diagonal().tolist()), set(places[square.triu() if upper else square.tril()].tolist())
    zero, one = Cell(ZERO), Cell(ONE)
    cells = [
        one if unitriangular and i % n in ones else cell if i % n in kept else zero for i, cell in enumerate(a.cells)
    ]
    return _solve(Jets(a.shape, cells), B, left=left)


@means("linalg_cholesky")
def _lower(input: Any, *, upper: bool = False) -> Jets:
    a = lift(input).mT if upper else lift(input)
    found = _each(a, _cholesky)
    return found.mT if upper else found


@means("linalg_cholesky_ex")
def _cholesky_ex(input: Any, *, upper: bool = False, check_errors: bool = False) -> tuple[Jets, Tensor]:
    return _lower(input, upper=upper), torch.zeros(lift(input).shape[:-2], dtype=torch.int32)


def _cholesky(a: Matrix) -> Matrix:
    n = len(a)
    lower = [[Cell(ZERO) for _ in range(n)] for _ in range(n)]
    for j in range(n):
        for i in range(j, n):
            pairs = [(lower[i][k], lower[j][k]) for k in range(j)]
            rest = a[i][j].value - sum((x.value * y.value for x, y in pairs), ZERO)
            if i == j:
                if not rest > 0:  # not definite; or not known to be
                    raise NeedMoreBits
                root = rest.sqrt()
                moves = [(a[j][j], HALF / root), *((x, -x.value / root) for x, _ in pairs)]
                lower[j][j] = made_of(root, moves)
                continue
            root = lower[j][j].value
            both = [(a[i][j], HALF / root), (a[j][i], HALF / root)]
            moves = [move for x, y in pairs for move in ((x, -y.value / root), (y, -x.value / root))]
            lower[i][j] = made_of(rest / root, [*both, *moves, (lower[j][j], -rest / root**2)])
    return lower


@means("linalg_matrix_exp", "matrix_exp")
def _matrix_exp(self: Any) -> Jets:
    a = lift(self)
    if a.shape[-1] > MOST_ROWS:
        raise UnknownHere(f"matrix_exp of more than {MOST_ROWS} rows")
    return _each(a, _exponential)


def _exponential(a: Matrix) -> Matrix:
    """exp of [[A, E], [0, A]] has the derivative along E in its corner."""
    n, x = range(len(a)), [[cell.value for cell in row] for row in a]
    value = _values(a).exp().tolist()
    moves: list[list[list[tuple[Cell, arb]]]] = [[[] for _ in n] for _ in n]
    for k in n:
        for m in n:
            unit = [[ONE if (i, j) == (k, m) else ZERO for j in n] for i in n]
            block = [[*x[i], *unit[i]] for i in n] + [[*(ZERO for _ in n), *x[i]] for i in n]
            slopes = arb_mat(block).exp().tolist()
            for i in n:
                for j in n:
                    moves[i][j].append((a[k][m], slopes[i][len(n) + j]))
    return [[made_of(value[i][j], moves[i][j]) for j in n] for i in n]
