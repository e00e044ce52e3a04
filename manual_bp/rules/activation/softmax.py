"""Softmax: numbers along an axis, made positive and of sum 1.

    y_i = e^x_i / Σ_j e^x_j

The sums go along the axis `dim` of x, the last one unless it is said; all other axes are a batch.

Derivation.  By the quotient rule ∂y_j/∂x_i = y_j [i = j] − y_j y_i, so that x_i reaches the cost through its own y_i,
and through the denominator, which all y_j share:

    dx_i = Σ_j dy_j ∂y_j/∂x_i = y_i dy_i − y_i Σ_j y_j dy_j
                                direct    projection

Digits.  If y_k is near 1, y_k dy_k and the projection are nearly equal, and what is left of dx_k is rounding errors of
|dy_k|.  But Σ_j y_j = 1, so dy_k can be brought into the sum, where it meets itself at j = k and nothing of it is left:

    dx_i = y_i (dy_i − Σ_j y_j dy_j)          any i
    dx_k = y_k Σ_{j≠k} y_j (dy_k − dy_j)      the largest y_k

Only the largest can be above 1/2.  For y_i ≤ 1/2 the first formula, torch's for all, is as good as any: dy_i enters
with the factor y_i (1 − y_i), at least half of the y_i with which it is rounded.

Forward takes e^(x_i − m) with the largest x_k = m, which does not overflow, and whose largest summand is exactly 1.

At the edges: a row that holds NaN or +∞, or nothing but −∞, gives NaN; among finite numbers −∞ gives y = 0, dx = 0.

Source: Bridle, "Probabilistic Interpretation of Feedforward Classification Network Outputs" (1990); Goodfellow, Bengio
& Courville, "Deep Learning" (2016), section 6.2.2.3.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, Value, constant, normal, require
from manual_bp.rules.activation._largest import below_largest, half_masked, largest, rising_late


class Residuals(NamedTuple):
    y: Float[Tensor, "*batch last"]
    """y and not x: a small y has all its digits, and no exponential need be taken again."""
    dim: int


def forward(x: Float[Tensor, "*batch last"], *, dim: int = -1) -> tuple[Float[Tensor, "*batch last"], Residuals]:
    require(-x.ndim <= dim < x.ndim, f"softmax: dim must be one of x's {x.ndim} axes", dim, "The last one is -1.")
    distance, _ = below_largest(x, dim)
    e = torch.exp(distance)
    y = e / torch.sum(e, dim, keepdim=True)
    return y, Residuals(y, dim)


def backward(residuals: Residuals, dy: Float[Tensor, "*batch last"]) -> tuple[Float[Tensor, "*batch last"]]:
    y, dim = residuals
    k, is_k = largest(y, dim)
    along = torch.sum(y * dy, dim, keepdim=True)
    above_others = torch.where(is_k, 0, y * (torch.gather(dy, dim, k) - dy))
    return (y * torch.where(is_k, torch.sum(above_others, dim, keepdim=True), dy - along),)


def terms(residuals: Residuals, dy: Tensor) -> dict[str, dict[str, Tensor]]:
    """The summands of the derivation; at the largest y those that are left when what is equal in them is taken out."""
    y, dim = residuals
    _, is_k = largest(y, dim)
    others = torch.where(is_k, 0, y)
    direct = torch.where(is_k, torch.sum(others, dim, keepdim=True), 1) * (y * dy)
    along = torch.where(is_k, torch.sum(others * dy, dim, keepdim=True), torch.sum(y * dy, dim, keepdim=True))
    return {"dx": {"direct": direct, "projection": -y * along}}


INPUTS = {"x": Input(normal(std=2.0))}
USUAL = {"dim": (0, 1)}

_INF = float("inf")

EDGES = (
    Edge("first axis", {"dim": 0}, sizes={"batch": (4,)}),
    Edge("axis in the middle", {"dim": 1}, sizes={"batch": (2, 4)}),
    Edge("axis in the middle, from the end", {"dim": -2}, sizes={"batch": (2, 4)}),
    Edge("one row", sizes={"batch": ()}),
    Edge("no row", sizes={"batch": (0,)}),
    Edge("a single number", sizes={"last": 1}),
    Edge("no number", sizes={"last": 0}),
    Edge("two numbers", sizes={"last": 2}),
    Edge("all equal", {"x": constant(1.5)}),
    Edge("ties at the largest", {"x": [[1.0, 3.0, 3.0, 0.0], [3.0, 3.0, 3.0, 3.0 - 1e-7]]}),
    Edge("signed zeros", {"x": [[0.0, -0.0, 0.0], [-0.0, 0.0, -1.0]]}),
    Edge("subnormal numbers", {"x": [[1e-310, -1e-310, 1e-40, -1e-40]]}),
    Edge("nearly certain", {"x": [[20.0, 0.0, 1.0], [-3.0, 37.0, -2.0], [0.0, 1.0, 80.0]]}),
    Edge(
        "nearly certain, dy at the largest alone",
        {"x": [[20.0, 0.0, 1.0], [-3.0, 37.0, -2.0]], "dy": [[1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]},
    ),
    Edge("nearly certain, dy alike", {"x": [[20.0, 0.0, 1.0]], "dy": [[1.0, 1.0, 1.0 + 2**-7]]}),
    Edge("gradual underflow", {"x": [[0.0, -87.0, -95.0, -103.0, -110.0], [0.0, -708.0, -720.0, -744.0, -750.0]]}),
    Edge("large numbers", {"x": [[1e4, -1e4, 9999.0], [-1e4, -10001.0, -10002.0]]}),
    Edge("largest below -10000", {"x": [[-12000.0, -12001.0, -12003.0]]}),
    Edge("numbers whose exponential overflows", {"x": [[1000.0, 999.0, 998.0]]}),
    Edge("largest at the end of a long row", {"x": rising_late}, sizes={"batch": (2,), "last": 1040}),
    Edge("dy constant", {"dy": constant(0.75)}),
    Edge("dy heavy at a small number", {"x": [[9.0, 1.0, 0.0]], "dy": [[0.0, 1e3, 1.0]]}),
    Edge("one minus infinity", {"x": [[-_INF, 1.0, 2.0], [0.5, -_INF, -_INF]]}),
    Edge("first half minus infinity", {"x": half_masked}, sizes={"batch": (2,), "last": 70}),
    Edge("all minus infinity", {"x": [[-_INF, -_INF], [0.0, 1.0]]}),
    Edge("no such axis", {"dim": 2}, sizes={"batch": (3,)}, raises=ValueError),
    Edge("no such axis from the end", {"dim": -3}, sizes={"batch": (3,)}, raises=ValueError),
)


def _y(x: Tensor, dim: int) -> Tensor:
    return forward(x, dim=dim)[0]


def _from_logsumexp(x: Tensor, dim: int) -> Tensor:
    return torch.exp(x - torch.logsumexp(x, dim, keepdim=True))


VALUES = (
    Value(
        "exp(x - log Σ e^x)",
        _from_logsumexp,
        forgets="that the logarithm is as large as x and rounded as coarsely, which the differences between x are not",
        shows="where numbers far from 0 lie close together, growing with |x|",
        seen="https://github.com/paiml/trueno/issues/86",
    ),
)


def _gradient(
    y: Tensor, dy: Tensor, dim: int | tuple[int, ...], direct: float = 1.0, projection: float = 1.0
) -> Tensor:
    """The formula of the derivation, from which wrong ones are made."""
    return y * (direct * dy - projection * torch.sum(y * dy, dim, keepdim=True))


def _with_the_first_row(y: Tensor, dy: Tensor, dim: int) -> Tensor:
    rows, cotangents = y.movedim(dim, -1), dy.movedim(dim, -1)
    first = rows.reshape(-1, rows.shape[-1])[:1]
    along = torch.sum(first * cotangents, -1, keepdim=True) if rows.numel() else cotangents[..., :1]
    return (rows * (cotangents - along)).movedim(-1, dim)


MISTAKES = (
    Mistake(
        "y(dy - Σ y dy) everywhere",
        lambda x, dy, dim: (_gradient(_y(x, dim), dy, dim),),
        forgets="that the difference cancels where one y is near 1",
        shows="at a y near 1; where 1 - y is below 1e-7 (float32) or 1e-16 (float64) no digit is left",
        seen="https://github.com/huggingface/candle/pull/3724",
        loses_digits=True,
    ),
    Mistake(
        "y from log Σ e^x",
        lambda x, dy, dim: (_gradient(_from_logsumexp(x, dim), dy, dim),),
        forgets="that the logarithm is as large as x and rounded as coarsely, and that the difference cancels",
        shows="where numbers far from 0 lie close together, and at a y near 1",
        seen="https://github.com/paiml/trueno/issues/86",
        loses_digits=True,
    ),
    Mistake(
        "diagonal only",
        lambda x, dy, dim: (dy * _y(x, dim) * (1 - _y(x, dim)),),
        forgets="that each x reaches every y through the denominator: y(1 - y) is the sigmoid's derivative",
        shows="for two numbers and more",
        seen="https://github.com/deeplearning4j/libnd4j/issues/440",
    ),
    Mistake(
        "projection term dropped",
        lambda x, dy, dim: (_gradient(_y(x, dim), dy, dim, projection=0),),
        forgets="that the denominator depends on x",
        shows="unless Σ y dy = 0",
        seen="https://github.com/HomericIntelligence/Odyssey/issues/2134",
    ),
    Mistake(
        "projection term's sign",
        lambda x, dy, dim: (_gradient(_y(x, dim), dy, dim, projection=-1),),
        forgets="that the denominator divides",
        shows="unless Σ y dy = 0",
    ),
    Mistake(
        "direct term dropped",
        lambda x, dy, dim: (_gradient(_y(x, dim), dy, dim, direct=0),),
        forgets="the numerator",
        shows="everywhere",
    ),
    Mistake(
        "identity",
        lambda x, dy, dim: (dy,),
        forgets="to differentiate",
        shows="everywhere",
        seen="https://github.com/pjreddie/darknet/pull/96",
    ),
    Mistake(
        "factor 2",
        lambda x, dy, dim: (2 * _gradient(_y(x, dim), dy, dim),),
        forgets="that each term counts once",
        shows="everywhere",
        seen="https://github.com/markroxor/fromscratchtoml/issues/65",
    ),
    Mistake(
        "log_softmax's projection",
        lambda x, dy, dim: (_y(x, dim) * (dy - torch.sum(dy, dim, keepdim=True)),),
        forgets="that dy is weighted with y in the sum",
        shows="for two numbers and more",
    ),
    Mistake(
        "log_softmax's formula",
        lambda x, dy, dim: (dy - _y(x, dim) * torch.sum(dy, dim, keepdim=True),),
        forgets="that this is the derivative of log y",
        shows="everywhere",
    ),
    Mistake(
        "outer y forgotten",
        lambda x, dy, dim: (dy - torch.sum(_y(x, dim) * dy, dim, keepdim=True),),
        forgets="the factor y of both terms",
        shows="everywhere",
    ),
    Mistake(
        "mean for the sum",
        lambda x, dy, dim: (_y(x, dim) * (dy - torch.mean(_y(x, dim) * dy, dim, keepdim=True)),),
        forgets="that the projection is a sum: y already adds up to 1",
        shows="for two numbers and more",
    ),
    Mistake(
        "always the last axis",
        lambda x, dy, dim: (_gradient(_y(x, dim), dy, -1),),
        forgets="dim",
        shows="where dim is not the last axis",
        seen="https://github.com/paiml/aprender/pull/2152",
    ),
    Mistake(
        "sum over everything",
        lambda x, dy, dim: (_gradient(_y(x, dim), dy, tuple(range(x.ndim))),),
        forgets="that every row has a sum of its own",
        shows="for two rows and more",
        seen="https://github.com/nntrainer/nntrainer/pull/430",
    ),
    Mistake(
        "y of the first row",
        lambda x, dy, dim: (_with_the_first_row(_y(x, dim), dy, dim),),
        forgets="to move on in y when it goes to the next row",
        shows="for two rows and more",
        seen="https://github.com/davisking/dlib/commit/0a832e42d00d",
    ),
    Mistake(
        "derivative at y",
        lambda x, dy, dim: (_gradient(_y(_y(x, dim), dim), dy, dim),),
        forgets="that what it was given has already been through softmax",
        shows="everywhere",
        seen="https://github.com/vahidk/EffectiveTensorflow/issues/9",
    ),
    Mistake(
        "exponential overflows",
        lambda x, dy, dim: (_gradient(torch.exp(x) / torch.sum(torch.exp(x), dim, keepdim=True), dy, dim),),
        forgets="to take the largest number off first",
        shows="from x = 89 (float32) or 710 (float64), where infinity over infinity is NaN, and far below -89",
        seen="https://github.com/apache/singa/pull/540",
    ),
    Mistake(
        "small y cut off",
        lambda x, dy, dim: (_gradient(_y(x, dim).clamp(min=1e-7), dy, dim),),
        forgets="that the gradient of what is improbable is small, and not the same for all of it",
        shows="where y < 1e-7",
    ),
    Mistake(
        "cotangent dropped",
        lambda x, dy, dim: (_y(x, dim) * (1 - _y(x, dim)) * torch.ones_like(dy),),
        forgets="dy",
        shows="wherever dy is not 1",
    ),
)
