"""The torch functions that pages may use: one table for both arithmetics.

Each has operands at which it is smooth, where values and derivatives are judged, and extreme ones, where values are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

INF = math.inf
Draw = Callable[[torch.Generator], Tensor]


def normal(*shape: int, scale: float = 0.7) -> Draw:
    return lambda generator: scale * torch.randn(shape, generator=generator, dtype=torch.float64)


def between(low: float, high: float, *shape: int) -> Draw:
    return lambda generator: low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)


def apart(*shape: int) -> Draw:
    """Numbers of which no two are near each other, nor one near 0: no kink is near."""
    count = math.prod(shape)
    return lambda generator: ((torch.randperm(count, generator=generator).double() - count // 2 + 0.3) / 4).reshape(
        shape
    )


@dataclass(frozen=True)
class Function:
    """call: of tensors, a tensor or several.
    draws: one per operand.
    extremes: tuples of operands, each a nested list.
    loose: how many times larger than what the ends of intervals can do the bound may be, and a reason beside it.
    decided: whether the rest follows a decision on the values, which numbers nearby may decide otherwise.
    """

    call: Callable[..., Any]
    draws: Sequence[Draw]
    extremes: Sequence[tuple[Any, ...]] = ()
    loose: float = 1.01
    decided: bool = False

    def operands(self, seed: int = 0) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return [draw(generator) for draw in self.draws]


SQUARE = normal(3, 3)
EIGENVALUES = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)  # about these, so that they are distinct
REGULAR: Draw = lambda generator: 2 * torch.eye(3, dtype=torch.float64) + SQUARE(generator)  # noqa: E731
DISTINCT: Draw = lambda generator: torch.diag(EIGENVALUES) + 0.2 * SQUARE(generator)  # noqa: E731
POSITIVE_ROW = between(0.6, 2.0, 4)
POSITIVE = between(0.6, 2.0, 3, 3)
NUMBERS = [0.0, -0.0, 1.0, -1.0, 1e-30, -1e-30, 1e-300, 3e-42, 1e30, -1e30, 40.0, -40.0, 100.0, -100.0]
SIZES = [1e-300, 1e-40, 1e-3, 1.0, 1e3, 1e30]
BELOW_NORMAL = [n * 2.0**-149 for n in (1, 2, 3, 533, 4001)] + [n * 2.0**-1074 for n in (1, 2, 3, 533, 4001)]
"""Numbers below the smallest normal one of float32, which are 0 there if they are below that of float64."""
LOGITS = [
    [[1e4, -1e4, 9999.0]],
    [[-1e4, -10001.0, -10002.5]],
    [[2.0, 2.0, 2.0]],
    [[90.3, 0.1, -0.71]],
    [[30.0, 0.0, -30.0]],
    [[0.0, -800.0, -90.0]],
    [[-INF, 1.0, 2.0]],
    [[0.0, -1e30, 1.0]],
    [[0.5, -INF, -INF]],
    [[3.0], [-7e3]],
]
INDEX = torch.tensor([2, 0, 2])
PLACES = torch.tensor([[0, 2, 1], [2, 2, 0]])
MASK = torch.tensor([[True, False, True], [False, False, True], [True, True, False]])


def one(call: Callable[[Tensor], Any], draw: Draw = SQUARE, extremes: Sequence[Any] = (), **more: Any) -> Function:
    return Function(call, (draw,), [(extreme,) for extreme in extremes], **more)


def two(call: Callable[[Tensor, Tensor], Any], first: Draw = SQUARE, second: Draw = POSITIVE, **more: Any) -> Function:
    return Function(call, (first, second), **more)


ELEMENTARY = {
    "add": two(lambda a, b: a + b),
    "add, alpha": two(lambda a, b: torch.add(a, b, alpha=3)),
    "subtract": two(lambda a, b: a - b),
    "sub, alpha": two(lambda a, b: torch.sub(a, b, alpha=0.3)),
    "from a number": one(lambda a: 1 - a),
    "rsub, alpha": two(lambda a, b: torch.rsub(a, b, alpha=2)),
    "multiply": two(lambda a, b: a * b),
    "scale": one(lambda a: 0.1 * a, extremes=[NUMBERS]),
    "divide": two(lambda a, b: a / b),
    "divide a number": one(lambda b: 3 / b, POSITIVE, [SIZES]),
    "addcmul": Function(lambda a, b, c: torch.addcmul(a, b, c, value=0.5), (SQUARE, SQUARE, POSITIVE)),
    "addcdiv": Function(lambda a, b, c: torch.addcdiv(a, b, c, value=0.5), (SQUARE, SQUARE, POSITIVE)),
    # a + w (b − a): a counts twice, with opposite signs
    "lerp": two(lambda a, b: torch.lerp(a, b, 0.3), loose=4),
    "lerp by a tensor": Function(torch.lerp, (SQUARE, POSITIVE, between(0.1, 0.9, 3, 3)), loose=20),
    "square": one(torch.square),
    "cube": one(lambda a: a**3),
    "inverse square": one(lambda b: b**-2, POSITIVE),
    "power 2.5": one(lambda b: b**2.5, POSITIVE),
    "a number to a power": one(lambda b: 0.7**b, POSITIVE),
    "a tensor to a power": two(torch.pow, POSITIVE, SQUARE),
    "sqrt": one(torch.sqrt, POSITIVE, [[0.0, *SIZES]]),
    "half power": one(lambda b: b**0.5, POSITIVE),
    "rsqrt": one(torch.rsqrt, POSITIVE, [SIZES]),
    "reciprocal": one(torch.reciprocal, POSITIVE),
    "exp": one(torch.exp, extremes=[NUMBERS, [-INF]]),
    "expm1": one(torch.expm1, extremes=[NUMBERS]),
    "log": one(torch.log, POSITIVE, [SIZES]),
    "log1p": one(torch.log1p, POSITIVE, [[0.0, -0.999999, 1e-30, 1e30], BELOW_NORMAL]),
    "tanh": one(torch.tanh, extremes=[NUMBERS]),
    "sigmoid": one(torch.sigmoid, extremes=[NUMBERS]),
    "sin": one(torch.sin, extremes=[[0.0, 1e-30, 3.0, 1e4, -1e4]]),
    "cos": one(torch.cos, extremes=[[0.0, 1e-30, 3.0, 1e4, -1e4]]),
    "erf": one(torch.erf, extremes=[NUMBERS]),
    "erfc": one(torch.special.erfc, extremes=[NUMBERS, [3.0, 9.0, 10.05, 26.0, 27.2]]),
    "ndtr": one(torch.special.ndtr, extremes=[[0.0, 1.0, -5.0, -13.0, -37.0, 40.0, -40.0]]),
    "xlogy": two(torch.xlogy, extremes=[([0.0, 0.0, 2.0, 1e30], [0.0, 3.0, 1e-30, 1e30])]),
    "xlogy of a number": one(lambda b: torch.xlogy(2.0, b), POSITIVE),
    "xlogy with a number": one(lambda a: torch.xlogy(a, 3.0)),
    "logaddexp": two(
        torch.logaddexp,
        extremes=[
            ([1e4, -1e4, 0.0, 0.0, -INF], [1e4, 9e3, 0.0, -90.0, 2.0]),
            ([-INF], [-INF]),
            (
                [0.0] * 64,
                [-96.0924072265625] * 64,
            ),  # as many as torch takes by its vectorised program, which is another
            ([0.0] * 4, [-88.0, -103.0, -709.0, -744.0]),
        ],
    ),
    "neg": one(lambda a: -a),
    "abs": one(torch.abs, apart(3, 3), [NUMBERS]),
    "sign": one(torch.sign, apart(3, 3), [NUMBERS], decided=True),
    "sgn": one(torch.sgn, apart(3, 3), decided=True),
    "round": one(lambda a: torch.round(4 * a), apart(3, 3), [[0.125, 0.375, -0.625, 1e-30, 1e30]], decided=True),
    "floor": one(lambda a: torch.floor(4 * a), apart(3, 3), [[0.25, -0.625, 1e-30, 1e30]], decided=True),
    "ceil": one(lambda a: torch.ceil(4 * a), apart(3, 3), [[0.25, -0.625, 1e-30, 1e30]], decided=True),
    "trunc": one(lambda a: torch.trunc(4 * a), apart(3, 3), [[0.25, -0.625, 1e-30, 1e30]], decided=True),
    "relu": one(torch.relu, apart(3, 3), [NUMBERS]),
    "clamp": one(lambda a: a.clamp(-0.33, 0.66), apart(3, 3), [NUMBERS]),
    "clamp from below": one(lambda a: a.clamp(min=0.1), apart(3, 3)),
    "clamp from above": one(lambda a: torch.clamp(a, max=0.1), apart(3, 3)),
    "clamp by tensors": Function(torch.clamp, (apart(3, 3), normal(3, 3, scale=0.01), between(0.4, 0.41, 3, 3))),
    "clamp_min": one(lambda a: a.clamp_min(0.1), apart(3, 3)),
    "clamp_max": one(lambda a: torch.clamp_max(a, 0.1), apart(3, 3)),
    "clamp_min by a tensor": two(torch.clamp_min, apart(3, 3), normal(3, 3, scale=0.01)),
    "clamp_max by a tensor": two(torch.clamp_max, apart(3, 3), normal(3, 3, scale=0.01)),
    "maximum": two(torch.maximum, extremes=[([-INF, INF, 0.0, 1e30], [-INF, 0.0, -0.0, -INF])]),
    "minimum": two(torch.minimum, extremes=[([-INF, INF, 0.0, 1e30], [-INF, 0.0, -0.0, -INF])]),
}

UNIT = between(0.1, 0.9, 3, 3)
INSIDE = between(-0.9, 0.9, 3, 3)

TRANSCENDENTAL = {
    "exp2": one(torch.exp2, extremes=[[0.0, 1e-30, 100.0, -100.0]]),
    "log2": one(torch.log2, POSITIVE, [SIZES]),
    "log10": one(torch.log10, POSITIVE, [SIZES]),
    "sinh": one(torch.sinh, extremes=[[0.0, 1e-30, 40.0, -40.0]]),
    "cosh": one(torch.cosh, extremes=[[0.0, 1e-30, 40.0, -40.0]]),
    "tan": one(torch.tan, INSIDE, [[0.0, 1e-30, 3.0, 1e4, -1e4, 1.5707]]),
    "asin": one(torch.asin, between(-0.35, 0.35, 3, 3), [[0.0, 1e-30, 0.9999, -1.0, 1.0]]),
    "acos": one(torch.acos, between(-0.35, 0.35, 3, 3), [[0.0, 1e-30, 0.9999, -1.0, 1.0]]),
    "atan": one(torch.atan, extremes=[NUMBERS]),
    "asinh": one(torch.asinh, extremes=[NUMBERS]),
    "acosh": one(torch.acosh, between(1.7, 3.0, 3, 3), [[1.0, 1.0001, 1e3, 1e15]]),
    "atanh": one(torch.atanh, between(-0.35, 0.35, 3, 3), [[0.0, 1e-30, 0.9999, -0.9999]]),
    "atan2": two(torch.atan2, extremes=[([0.0, 1.0, -1.0, 1e-20, 0.0], [1.0, 0.0, -2.0, 1e-20, -3.0])]),
    "erfinv": one(torch.erfinv, between(-0.35, 0.35, 3, 3), [[0.0, 1e-30, 0.999, -0.9999]]),
    "ndtri": one(torch.special.ndtri, UNIT, [[1e-30, 1e-3, 0.5, 0.999]]),
    "erfcx": one(torch.special.erfcx, extremes=[[0.0, 1e-30, -3.0, 30.0, 1e4]]),
    "lgamma": one(torch.lgamma, POSITIVE, [[1e-30, 1e-3, 0.999, 1.0, 1.001, 2.0, 2.001, 10.0, 1e3]]),
    "lgamma below 0": one(torch.lgamma, between(-0.8, -0.2, 3, 3), [[-1e-30, -0.5, -2.4570248, -3.1435809, -99.5]]),
    "i0": one(torch.special.i0, apart(3, 3), [[0.0, 1e-30, 8.0, -8.01, 30.0, -80.0]]),
    "i0e": one(torch.special.i0e, apart(3, 3), [[0.0, 1e-30, 8.0, -8.01, 30.0, 1e4, -1e15]]),
    "i1": one(torch.special.i1, apart(3, 3), [[0.0, 1e-30, 8.0, -8.01, 30.0, -80.0]]),
    "i1e": one(torch.special.i1e, apart(3, 3), [[0.0, 1e-30, 8.0, -8.01, 30.0, 1e4, -1e15]]),
    "digamma": one(torch.digamma, POSITIVE, [[1e-3, 1.0, 1.4616, 2.0, 10.0, 1e3]]),
    "tetragamma": one(lambda a: torch.polygamma(2, a), POSITIVE, [[1e-2, 1.0, 2.0, 10.0, 1e3]]),
    "polygamma": one(lambda a: a.polygamma(3), POSITIVE, [[1e-2, 1.0, 2.0, 10.0, 1e3]]),
}

SUMS = {
    "sum": one(lambda a: a.sum(0)),
    "sum over a tuple": one(lambda a: torch.sum(a, dim=(0, -1), keepdim=True)),
    "sum of all": one(torch.sum, extremes=[[1e30, -1e30, 1.0]]),
    "sum in another precision": one(lambda a: a.sum(-1, dtype=torch.float64)),
    "mean": one(lambda a: a.mean(1, keepdim=True)),
    "mean of all": one(torch.mean),
    "prod": one(lambda a: a.prod(-1), extremes=[[[1e-30, 1e-20, 1e20, 1e10]], [[0.0, 2.0, 3.0]], [[0.0, 0.0, 3.0]]]),
    "prod of all": one(torch.prod),
    "cumsum": one(lambda a: a.cumsum(0)),
    "cumprod": one(lambda a: torch.cumprod(a, dim=1), extremes=[[[0.5, 0.0, 3.0, 2.0]], [[1e-30, 1e-20, 1e30]]]),
    # Σ(x − mean)²: the mean's error counts for each deviation, and would cancel in their sum
    "var": one(lambda a: a.var(0), loose=4),
    "biased var": one(lambda a: torch.var(a, -1, unbiased=False, keepdim=True), loose=4),
    "var, correction": one(lambda a: a.var(dim=(0, 1), correction=0), loose=4),
    "std": one(lambda a: a.std(1), loose=4),
    # the error's own norm, where the error may be as the numbers themselves
    "norm": one(lambda a: torch.linalg.vector_norm(a, dim=-1), extremes=[[[3e-30, 4e-30]], [[0.0, 0.0]]], loose=1.8),
    "norm of all": one(lambda a: a.norm(), loose=1.8),
    "norm of order 1": one(lambda a: a.norm(p=1, dim=0), apart(3, 3)),
    "norm of order 3": one(lambda a: torch.linalg.vector_norm(a, ord=3, dim=1), POSITIVE),
    "largest norm": one(lambda a: torch.linalg.vector_norm(a, ord=INF, dim=1, keepdim=True), apart(3, 3)),
    "index_add": two(lambda a, b: a.index_add(0, INDEX, b)),
    "index_add to 0, alpha": one(lambda a: torch.zeros(4, 3, dtype=a.dtype).index_add(0, INDEX, a, alpha=0.3)),
    "scatter_add": two(lambda a, b: a.scatter_add(0, PLACES, b)),
    "index_put": two(lambda a, b: a.index_put((INDEX,), b, accumulate=True)),
    "index_put, replacing": two(lambda a, b: a.index_put((INDEX[:2],), b[:2])),
}

PRODUCTS = {
    "matrix product": two(lambda a, b: a.T @ b),
    "matrix times vector": two(lambda a, b: a @ b[0]),
    "dot": two(lambda a, b: torch.dot(a[0], b[0])),
    "batched product": two(lambda a, b: a[None].expand(2, -1, -1) @ b.T[None].expand(2, -1, -1)),
    "bmm": two(torch.bmm, normal(2, 2, 3), normal(2, 3, 2)),
    "mm": two(torch.mm, extremes=[([[1.5e-162] * 3], [[1.5e-162]] * 3)]),
    "mv": two(torch.mv, SQUARE, normal(3)),
    "inv": Function(torch.linalg.inv, (REGULAR,)),
    "inv_ex": Function(lambda a: torch.linalg.inv_ex(a)[0], (REGULAR,)),
    "det, alone": Function(lambda a: torch.ops.manual_bp.det(a), (REGULAR,)),
    "slogdet, alone": Function(lambda a: torch.ops.manual_bp.slogdet(a)[1], (REGULAR,)),
    "pinv": Function(torch.linalg.pinv, (REGULAR,), loose=30),  # by norms
    "solve_triangular": Function(
        lambda a, b: torch.linalg.solve_triangular(a, b, upper=True, unitriangular=True),
        (REGULAR, normal(3, 2)),
        loose=1.2,
    ),
    "cholesky": Function(lambda a: torch.linalg.cholesky(a @ a.mT), (REGULAR,), loose=3),  # of a product with itself
    "cholesky_ex": Function(
        lambda a: torch.linalg.cholesky_ex(a @ a.mT)[0], (REGULAR,), loose=3
    ),  # of a product with itself
    # By norms, of which an element of a vector may have little.
    "eigh": Function(lambda a: torch.linalg.eigh(a + a.mT), (DISTINCT,), loose=1000),
    "eigvalsh": Function(lambda a: torch.linalg.eigvalsh(a + a.mT), (DISTINCT,), loose=30),
    "svd": Function(lambda a: torch.linalg.svd(a, full_matrices=False), (DISTINCT,), loose=1000),
    "svdvals": Function(torch.linalg.svdvals, (DISTINCT,), loose=30),
    "matrix_exp": Function(torch.linalg.matrix_exp, (SQUARE,), loose=5),  # by the series of the absolute values
    "addmm": Function(lambda c, a, b: torch.addmm(c, a, b, beta=2, alpha=0.3), (normal(3), SQUARE, SQUARE)),
    "addmm, beta 0": Function(lambda c, a, b: torch.addmm(c, a, b, beta=0), (normal(3), SQUARE, SQUARE)),
    "addmv": Function(torch.addmv, (normal(3), SQUARE, normal(3))),
    "baddbmm": Function(torch.baddbmm, (normal(2, 2, 2), normal(2, 2, 3), normal(2, 3, 2))),
    "outer": two(torch.outer, normal(3), normal(2)),
    "inner": two(torch.inner),
    "einsum, a product": two(lambda a, b: torch.einsum("ij,kj->ik", a, b)),
    "einsum, a batch": two(lambda a, b: torch.einsum("bij,bj->bi", a, b), normal(2, 3, 2), normal(2, 2)),
    "einsum of one": one(lambda a: torch.einsum("ij->j", a)),
    "einsum, a diagonal sum": two(lambda a, b: torch.einsum("ij,ij", a, b)),
    "conv1d": Function(
        lambda x, w, b: torch.conv1d(x, w, b, stride=2, padding=1), (normal(2, 2, 6), normal(3, 2, 3), normal(3))
    ),
    "conv2d": two(
        lambda x, w: torch.conv2d(x, w, stride=(1, 2), padding=(0, 1), dilation=(2, 1), groups=2),
        normal(1, 4, 5, 4),
        normal(2, 2, 2, 3),
    ),
    "conv2d without a batch": two(torch.conv2d, normal(2, 3, 3), normal(1, 2, 2, 2)),
    "conv3d": two(torch.conv3d, normal(1, 1, 3, 3, 2), normal(2, 1, 2, 2, 2)),
    "convolution": two(
        lambda x, w: torch.convolution(x, w, None, [1], [2], [1], False, [0], 2), normal(1, 4, 3), normal(2, 2, 2)
    ),
    "conv_transpose1d": Function(
        lambda x, w, b: torch.conv_transpose1d(x, w, b, stride=2, padding=1, output_padding=1, dilation=2),
        (normal(2, 2, 4), normal(2, 3, 3), normal(3)),
    ),
    "conv_transpose2d": two(
        lambda x, w: torch.conv_transpose2d(x, w, stride=2, groups=2), normal(1, 4, 2, 3), normal(4, 1, 2, 2)
    ),
}

EXPONENTIALS = {
    "softmax": one(lambda a: torch.softmax(a, -1), extremes=LOGITS),
    "softmax over the first axis": one(lambda a: torch.softmax(a, dim=0)),
    "log_softmax": one(lambda a: a.log_softmax(-1), extremes=LOGITS),
    "logsumexp": one(lambda a: torch.logsumexp(a, -1), extremes=[*LOGITS, [[-INF, -INF]]]),
    "logsumexp over a tuple": one(lambda a: a.logsumexp((0, 1), keepdim=True)),
}

CHOICES = {
    "where": two(lambda a, b: torch.where(MASK, a, b)),
    "where, a number": one(lambda a: torch.where(MASK, a, 0.1)),
    "where, by a comparison": two(lambda a, b: torch.where(a > 0, b, a), apart(3, 3), decided=True),
    "masked_fill": one(lambda a: a.masked_fill(MASK, -0.1), extremes=[[[-INF, INF, 1.0]]]),
    "masked_fill by a tensor": two(lambda a, b: a.masked_fill(MASK, b[0, 0])),
    "scatter of a number": one(lambda a: a.scatter(1, PLACES[:, :1], 0.1)),
    "gather": one(lambda a: a.gather(1, PLACES[:, :2])),
    "take_along_dim": one(lambda a: torch.take_along_dim(a, PLACES[:1], dim=0)),
    "amax": one(lambda a: a.amax(1), apart(3, 3), [[[-INF, 1.0, -1e30]], [[-INF, -INF]], [[INF, 0.0]]]),
    "amax over a tuple": one(lambda a: torch.amax(a, dim=(0, 1), keepdim=True), apart(3, 3)),
    "amin": one(lambda a: a.amin(1), apart(3, 3), [[[INF, 1.0, 1e30]]]),
    "max": one(torch.max, apart(3, 3)),
    "min": one(torch.min, apart(3, 3)),
    "max along an axis": one(lambda a: a.max(1).values, apart(3, 3), [[[-INF, 1.0, 1.0]]]),
    "min along an axis": one(lambda a: torch.min(a, 0, keepdim=True)[0], apart(3, 3)),
    "gather at the largest": two(lambda a, b: b.gather(1, a.max(1, keepdim=True).indices), apart(3, 3), decided=True),
    "gather at argmin": two(lambda a, b: b.gather(1, a.argmin(1, keepdim=True)), apart(3, 3), decided=True),
    "topk": one(lambda a: torch.topk(a, 2).values, apart(3, 3), [[[-INF, 1.0, 1.0, INF]]]),
    "topk, the smallest": one(lambda a: a.topk(2, dim=0, largest=False)[0], apart(3, 3)),
    "sort": one(lambda a: a.sort(dim=0).values, apart(3, 3), [[[-INF], [1.0], [1.0], [INF]]]),
    "sort, descending": one(lambda a: torch.sort(a, dim=-1, descending=True, stable=True)[0], apart(3, 3)),
    "sorted by argsort": one(lambda a: a.gather(1, a.argsort(1)), apart(3, 3), decided=True),
}


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Of each query to the keys before it and its own; the first query may look at none."""
    allowed = torch.ones(3, 3, dtype=torch.bool).tril(-1)
    scores = torch.where(allowed, q @ k.mT / math.sqrt(q.shape[-1]), -INF)
    p = torch.softmax(scores, -1)
    return torch.where(allowed.any(-1, keepdim=True), p, 0) @ v


def recurrent(x: Tensor, weight_ih: Tensor, weight_hh: Tensor) -> tuple[Tensor, Tensor]:
    """An LSTM without biases: all hidden states, and the last cell."""
    h = c = torch.zeros(x.shape[1], weight_hh.shape[1], dtype=x.dtype)
    states = []
    for x_t in x:
        i, f, g, o = torch.chunk(x_t @ weight_ih.T + h @ weight_hh.T, 4, dim=-1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        states.append(h)
    return torch.stack(states), c


def pooled(x: Tensor) -> Tensor:
    """The largest of each window of 2 by 2, with a border of −∞."""
    windows = torch.constant_pad_nd(x, (0, 1, 0, 1), -INF).unfold(0, 2, 2).unfold(1, 2, 2)
    return windows.flatten(2).max(dim=-1).values


def cross_entropy(x: Tensor, weight: Tensor) -> Tensor:
    """Of rows against integer targets, one of them ignored, with class weights."""
    target, counted = torch.tensor([2, 0, 1]), torch.tensor([True, False, True])
    w = torch.where(counted, weight[target], 0)
    picked = torch.log_softmax(x, -1).gather(-1, target[:, None]).squeeze(-1)
    return -torch.sum(w * picked) / torch.sum(w)


WRITTEN = {
    # of several operations, whose errors are correlated and are added up
    "attention": Function(attention, (SQUARE, SQUARE, SQUARE), loose=6),
    "an LSTM": Function(recurrent, (normal(3, 2, 2), normal(8, 2), normal(8, 2)), loose=3),
    "pooling": one(pooled, apart(3, 3)),
    "cross-entropy": two(cross_entropy, SQUARE, between(0.5, 1.5, 3), loose=4),
    "rows normalised": Function(
        lambda x, weight: (
            (x - x.mean(-1, keepdim=True)) * torch.rsqrt(x.var(-1, correction=0, keepdim=True) + 1e-5) * weight
        ),
        (normal(2, 4), POSITIVE_ROW),
        loose=12,
    ),
    "a table's rows": one(lambda a: a[torch.tensor([[2, 0], [2, 2]])]),
    # above the zero of its derivative, where no factor would do
    "gelu": one(
        lambda x: x * torch.special.erfc(-x * math.sqrt(0.5)) / 2,
        between(-0.4, 2.0, 3, 3),
        [[-3.0, -12.0, 0.0, 40.0]],
        loose=3,
    ),
}
"""What pages write."""

FUNCTIONS = ELEMENTARY | TRANSCENDENTAL | SUMS | PRODUCTS | EXPONENTIALS | CHOICES | WRITTEN

SHAPES: dict[str, Callable[[Tensor], Any]] = {
    "T": lambda x: x.T,
    "mT": lambda x: x.mT,
    "t": lambda x: x.t(),
    "transposed": lambda x: x.transpose(0, 1).swapaxes(0, 1).swapdims(0, -1),
    "permuted": lambda x: x[None].permute(2, 0, 1).movedim(0, 1).moveaxis(1, 2),
    "flipped": lambda x: torch.flip(x, (0,)).fliplr().flipud().rot90(),
    "rolled": lambda x: x.roll(1, 0).roll((1, 2), dims=(0, 1)),
    "reshaped": lambda x: x.T.reshape(-1).view(3, 4).flatten().unflatten(0, (2, 6)).ravel(),
    "squeezed": lambda x: x[None, :, None].squeeze().unsqueeze(0).squeeze(0)[:, :, None, None].squeeze((2, 3)),
    "expanded": lambda x: torch.broadcast_to(x[:, :1].expand(3, 5), (2, 3, 5)).expand(-1, -1, 5).contiguous().clone(),
    "broadcast": lambda x: torch.broadcast_tensors(x, torch.zeros(2, 3, 4, dtype=torch.float64))[0],
    "expand_as": lambda x: x[:1].expand_as(x),
    "view_as": lambda x: x.view_as(torch.zeros(2, 6)).reshape_as(torch.zeros(4, 3)),
    "repeated": lambda x: x.repeat(2, 1).tile((1, 2)).repeat_interleave(2, 0),
    "unfolded": lambda x: x.unfold(1, 3, 1).unfold(0, 2, 1),
    "indexed": lambda x: x[1:, ::2][..., None, -1],
    "indexed by tensors": lambda x: x[torch.tensor([0, 2, 0])][:, torch.tensor([1, 1])],
    "indexed by a mask": lambda x: x[torch.arange(4).remainder(2).bool().expand(3, 4)],
    "selected": lambda x: x.select(0, 1).narrow(0, 1, 2).index_select(0, torch.tensor([1, 0, 1])),
    "taken": lambda x: torch.take(x, torch.tensor([3, 0, 3])),
    "masked_select": lambda x: x.masked_select(torch.tensor([True, False, True, True])),
    "embedding": lambda x: torch.embedding(x, torch.tensor([[2, 0], [0, 0]])),
    "diagonal": lambda x: x.diagonal(),
    "diagonals": lambda x: torch.cat([torch.diag(x[0]), torch.diag_embed(x[0], 0)]),
    "triangles": lambda x: torch.cat([x.tril(), torch.triu(x, 1)]),
    "concatenated": lambda x: torch.concat([torch.cat([x, x], dim=1), torch.concatenate([x, x], 1)]),
    "stacked": lambda x: torch.stack([torch.hstack([x, x]), torch.hstack([x, x]).flip(0)], -1),
    "vstack": lambda x: torch.vstack([x, x]),
    "split": lambda x: torch.cat([x.split(3, 1)[1], x.split([1, 3], 1)[0], x.split_with_sizes([1, 3], 1)[1]], 1),
    "chunked": lambda x: torch.cat([*x.chunk(2, 1)[::-1], *x.tensor_split(2, 1)], 1),
    "unbound": lambda x: torch.stack(x.unbind(1)[::-1]),
    "iterated": lambda x: torch.stack(list(x)[::-1]),
    "padded": lambda x: torch.constant_pad_nd(x, [1, 2, 0, 1]),
    "cropped": lambda x: torch.constant_pad_nd(x, [-1, 0, 0, 1]),
    "pixel_shuffle": lambda x: torch.pixel_unshuffle(torch.pixel_shuffle(x.reshape(4, 3, 1), 2), 2),
    "scattered": lambda x: torch.zeros(3, 4, dtype=x.dtype).scatter(1, torch.tensor([[3], [0], [1]]), x[:, :1]),
    "all of it": lambda x: x[..., : len(x) + 9],
    "replaced": lambda x: x.select_scatter(x[0], 0, 2).slice_scatter(x[:, :2], 1, 2),
    "adjoint": lambda x: x.adjoint().mH.H,
    "index_copy": lambda x: x.index_copy(0, torch.tensor([2, 0]), x[:2]),
    "diagonal_scatter": lambda x: x[:, :3].diagonal_scatter(x[0, :3]),
    "converted": lambda x: x.to("cpu").type_as(x) if x.is_floating_point() and not torch.is_complex(x) else 0 * x,
    "detached": lambda x: x.detach(),
    "number of rows": lambda x: x.reshape(x.size(1), x.size()[0])[: x.dim() + x.ndim + x.numel() - 14],
}
"""Functions that only move the elements of a (3, 4) tensor about, or fill up with zeros."""

LIKE: dict[str, Callable[[Tensor], Tensor]] = {
    "zeros_like": torch.zeros_like,
    "ones_like": torch.ones_like,
    "full_like": lambda x: torch.full_like(x, 0.1),
    "empty_like": lambda x: torch.empty_like(x) * 0,
    "new_zeros": lambda x: x.new_zeros(2, 3),
    "new_ones": lambda x: x.new_ones((2, 3)),
    "new_full": lambda x: x.new_full((2, 3), -0.1),
    "new_empty": lambda x: x.new_empty(x.shape) * 0,
    "a mask": lambda x: torch.ones_like(x, dtype=torch.bool),
}
"""Tensors of one number, in the shape of another tensor or made by it."""

COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")

COMPARED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    **{name: getattr(torch, name) for name in COMPARISONS},
    **{f"{name} a number": lambda a, _, name=name: getattr(torch, name)(a, 1.0) for name in COMPARISONS},
    **{name: lambda a, _, name=name: getattr(torch, name)(a) for name in ("isnan", "isinf", "isfinite", "isneginf")},
    "isposinf": lambda a, _: torch.isposinf(a),
    "signbit": lambda a, _: torch.signbit(a),
    "argmax": lambda a, _: torch.argmax(a),
    "argmax along an axis": lambda a, _: a[None].argmax(0, keepdim=True),
}
"""Decisions on two rows of numbers."""

MASKED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "not": lambda a, _: ~a,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
    "logical_not": lambda a, _: torch.logical_not(a),
    "any": lambda a, b: torch.stack([a, b]).any(0),
    "all": lambda a, b: torch.all(torch.stack([a, b]), dim=0, keepdim=True),
    "any of all": lambda a, _: a.any(),
}
"""Functions of two masks."""
