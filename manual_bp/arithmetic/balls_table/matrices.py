"""Inverses, determinants and triangular factors of matrices.

With B = A⁻¹: dB = −B dA B, dX = B (db − dA X) of X = B b, d log|det A| = tr(B dA).
Of a symmetric A with eigenvalues λ and vectors v: dλ_i = v_iᵀ dA v_i, dv_i = Σ_j v_j (v_jᵀ dA v_i) / (λ_i − λ_j).
Singular values are roots of the eigenvalues of Aᵀ A.  Signs of vectors are those of torch.
torch takes a matrix with a Cholesky factor, or of eigh, for symmetric: its lower triangle is read, and each of two
elements that mirror each other gets half of the derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from manual_bp.arithmetic.balls import Jets, NeedMoreBits, UnknownHere, lift, means, numbering
from manual_bp.arithmetic.balls_table.products import matmul
from manual_bp.arithmetic.jets import ONE, ZERO, Cell, arb, made_of

from flint import acb_mat, arb_mat  # isort: skip  (after jets, whose message says how to install it)

Matrix = list[list[Cell]]
HALF = arb("0.5")
MOST_ROWS = 8
"""Of an exponential: each of its n² derivatives is an exponential of 2 n rows.  Of eigenvectors: n⁴ slopes."""


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


@means("_linalg_eigh", "linalg_eigh")
def _eigh(A: Any, UPLO: str = "L", compute_v: bool = True) -> tuple[Jets, Jets]:
    a = lift(A) if UPLO == "L" else lift(A).mT
    found = list(map(_symmetric, _matrices(a)))
    values = Jets(a.shape[:-1], [cell for values, _ in found for cell in values])
    return values, _whole(a.shape, [vectors for _, vectors in found])


@means("linalg_eigvalsh")
def _eigvalsh(A: Any, UPLO: str = "L") -> Jets:
    return _eigh(A, UPLO)[0]


def _symmetric(a: Matrix) -> tuple[list[Cell], Matrix]:
    """Eigenvalues in rising order, and vectors in columns.  Raises NeedMoreBits where two may be equal."""
    if len(a) > MOST_ROWS:
        raise UnknownHere(f"eigenvectors of more than {MOST_ROWS} rows")
    n = range(len(a))
    lower = [[a[max(i, j)][min(i, j)].value for j in n] for i in n]
    try:
        values, columns = acb_mat(arb_mat(lower)).eig(right=True) if a else ([], None)
    except ValueError:
        raise NeedMoreBits from None
    order = sorted(n, key=lambda i: float(values[i].real.mid()))
    like = torch.linalg.eigh(torch.tensor([[float(x.mid()) for x in row] for row in lower], dtype=torch.float64))[1]
    v = [_unit([columns[k, i] for k in n], like[:, place].tolist()) for place, i in enumerate(order)]
    eigenvalues = [values[i].real for i in order]

    def slope(i: int, r: int, k: int, m: int) -> arb:
        others = [j for j in n if j != i]
        sizes = [v[j][r] * (v[j][k] * v[i][m] + v[j][m] * v[i][k]) for j in others]
        return HALF * sum((x / (eigenvalues[i] - eigenvalues[j]) for x, j in zip(sizes, others, strict=True)), ZERO)

    found = [made_of(eigenvalues[i], [(a[k][m], v[i][k] * v[i][m]) for k in n for m in n]) for i in n]
    return found, [[made_of(v[i][r], [(a[k][m], slope(i, r, k, m)) for k in n for m in n]) for i in n] for r in n]


def _unit(column: list[Any], like: list[float]) -> list[arb]:
    """A real eigenvector of length 1, from any multiple of it, in the direction of another one."""
    largest = max(range(len(column)), key=lambda k: abs(like[k]))
    real = [(x / column[largest]).real for x in column]
    length = sum((x * x for x in real), ZERO).sqrt() * (1 if like[largest] > 0 else -1)
    return [x / length for x in real]


@means("_linalg_svd", "linalg_svd")
def _svd(
    A: Any, full_matrices: bool = False, compute_uv: bool = True, *, driver: str | None = None
) -> tuple[Jets, ...]:
    a = lift(A)
    m, n = a.shape[-2:]
    if m < n:
        u, s, vh = _svd(a.mT)
        return vh.mT, s, u.mT
    if full_matrices and m != n:
        raise UnknownHere("singular vectors that fill up a basis")
    squares, v = _eigh(matmul(a.mT, a))
    squares, v = (x.flip(-1) for x in (squares, v))
    s = Jets(squares.shape, [_root(cell) for cell in squares.cells])
    u = matmul(a, v) / s.unsqueeze(-2)
    mids = torch.tensor([float(cell.value.mid()) for cell in (*a.cells, *u.cells)], dtype=torch.float64)
    like = torch.linalg.svd(mids[: len(a.cells)].reshape(a.shape), full_matrices=False)[0]
    signs = (like * mids[len(a.cells) :].reshape(u.shape)).sum(-2, keepdim=True).sign()
    return u * signs, s, (v * signs).mT


def _root(cell: Cell) -> Cell:
    if not cell.value > 0:
        raise NeedMoreBits
    root = cell.value.sqrt()
    return made_of(root, [(cell, HALF / root)])


@means("linalg_svdvals")
def _svdvals(A: Any, *, driver: str | None = None) -> Jets:
    return _svd(A)[1]
