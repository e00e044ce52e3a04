"""Logarithm of softmax: log-probabilities from numbers along an axis.

    y_i = log ( e^x_i / Σ_j e^x_j ) = x_i − log Σ_j e^x_j

The sums go along the axis `dim` of x, the last one unless it is said; all other axes are a batch.

Derivation.  Let p_i = e^y_i.  Since Σ_j e^x_j has the derivative e^x_i, that of its logarithm is p_i, and ∂y_j/∂x_i =
[i = j] − p_i:

    dx_i = Σ_j dy_j ∂y_j/∂x_i = dy_i − p_i Σ_j dy_j
                                direct  projection

Digits.  With the largest x_k = m,

    y_i = (x_i − m) − log(1 + s),   s = Σ_{j≠k} e^(x_j − m)

whose two parts have one sign.  Where p_k is near 1, s is far below 1: log1p keeps it, while 1 + s would round it away.
In backward dy_k − p_k dy_k cancels there.  It is −dy_k (e^y_k − 1), for which there is expm1:

    dx_i = dy_i − p_i Σ_j dy_j                       any i
    dx_k = −expm1(y_k) dy_k − p_k Σ_{j≠k} dy_j       the largest y_k

Only the largest p_k can be above 1/2; for all others the first formula, torch's for all, is as good.

At the edges: a row that holds NaN or +∞, or nothing but −∞, gives NaN; among finite numbers −∞ gives y = −∞, p = 0.

Source: Bridle, "Probabilistic Interpretation of Feedforward Classification Network Outputs" (1990); Blanchard, Higham &
Higham, "Accurately computing the log-sum-exp and softmax functions", IMA J. Numer. Anal. 41 (2021), section 3.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, Value, constant, normal, require
from manual_bp.rules.activation._largest import below_largest, half_masked, largest, rising_late


class Residuals(NamedTuple):
    y: Float[Tensor, "*batch last"]
    """y and not p: 1 − p_k cannot be had from a p_k that has rounded to 1."""
    dim: int


def forward(x: Float[Tensor, "*batch last"], *, dim: int = -1) -> tuple[Float[Tensor, "*batch last"], Residuals]:
    require(-x.ndim <= dim < x.ndim, f"log_softmax: dim must be one of x's {x.ndim} axes", dim, "The last one is -1.")
    distance, is_k = below_largest(x, dim)
    # An infinite largest number has the distance NaN, and so shall all have; any other adds its 0.
    s = torch.sum(torch.where(is_k, distance, torch.exp(distance)), dim, keepdim=True)
    y = distance - torch.log1p(s)
    return y, Residuals(y, dim)


def backward(residuals: Residuals, dy: Float[Tensor, "*batch last"]) -> tuple[Float[Tensor, "*batch last"]]:
    found = terms(residuals, dy)["dx"]
    return (found["direct"] + found["projection"],)


def terms(residuals: Residuals, dy: Tensor) -> dict[str, dict[str, Tensor]]:
    """The summands of the derivation; at the largest y those that keep their digits."""
    y, dim = residuals
    _, is_k = largest(y, dim)
    others = torch.sum(torch.where(is_k, 0, dy), dim, keepdim=True)
    of_all = torch.sum(dy, dim, keepdim=True)
    return {
        "dx": {
            "direct": torch.where(is_k, -torch.expm1(y), 1) * dy,
            "projection": -torch.exp(y) * torch.where(is_k, others, of_all),
        }
    }


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
    Edge("a sum that rounds to 1", {"x": [[0.0, -17.0], [-38.0, 0.0]]}),
    Edge("gradual underflow", {"x": [[0.0, -87.0, -95.0, -103.0, -110.0], [0.0, -708.0, -720.0, -744.0, -750.0]]}),
    Edge("large numbers", {"x": [[1e4, -1e4, 9999.0], [-1e4, -10001.0, -10002.0]]}),
    Edge("largest below -10000", {"x": [[-12000.0, -12001.0, -12003.0]]}),
    Edge("numbers whose exponential overflows", {"x": [[1000.0, 999.0, 998.0]]}),
    Edge("dy of sum 0", {"x": [[0.5, -1.0, 2.0]], "dy": [[1.0, -3.0, 2.0]]}),
    Edge("largest at the end of a long row", {"x": rising_late}, sizes={"batch": (2,), "last": 1040}),
    Edge("dy constant", {"dy": constant(0.75)}),
    Edge("one minus infinity", {"x": [[-_INF, 1.0, 2.0], [0.5, -_INF, -_INF]]}),
    Edge("first half minus infinity", {"x": half_masked}, sizes={"batch": (2,), "last": 70}),
    Edge("all minus infinity", {"x": [[-_INF, -_INF], [0.0, 1.0]]}),
    Edge("no such axis", {"dim": 2}, sizes={"batch": (3,)}, raises=ValueError),
    Edge("no such axis from the end", {"dim": -3}, sizes={"batch": (3,)}, raises=ValueError),
)


def _y(x: Tensor, dim: int) -> Tensor:
    return forward(x, dim=dim)[0]


def _p(x: Tensor, dim: int) -> Tensor:
    return torch.exp(_y(x, dim))


def _gradient(p: Tensor, dy: Tensor, dim: int | tuple[int, ...], projection: float = 1.0) -> Tensor:
    """The formula of the derivation, from which wrong ones are made."""
    return dy - projection * p * torch.sum(dy, dim, keepdim=True)


VALUES = (
    Value(
        "x - log Σ e^x",
        lambda x, dim: x - torch.logsumexp(x, dim, keepdim=True),
        forgets="that two numbers which are nearly equal leave no digits of a small y",
        shows="where one p is near 1",
        seen="https://github.com/twitter-archive/torch-autograd/issues/166",
    ),
)

MISTAKES = (
    Mistake(
        "dy - p Σ dy everywhere",
        lambda x, dy, dim: (_gradient(_p(x, dim), dy, dim),),
        forgets="that the difference cancels where one p is near 1",
        shows="at a p near 1; where 1 - p is below 1e-7 (float32) or 1e-16 (float64) no digit is left",
        seen="https://github.com/uxlfoundation/oneDNN/issues/616",
        loses_digits=True,
    ),
    Mistake(
        "p from log Σ e^x",
        lambda x, dy, dim: (_gradient(torch.exp(x - torch.logsumexp(x, dim, keepdim=True)), dy, dim),),
        forgets="that the logarithm is as large as x and rounded as coarsely, and that the difference cancels",
        shows="where numbers far from 0 lie close together, and at a p near 1",
        seen="https://github.com/paiml/trueno/issues/86",
        loses_digits=True,
    ),
    Mistake(
        "softmax's formula",
        lambda x, dy, dim: (_p(x, dim) * (dy - torch.sum(_p(x, dim) * dy, dim, keepdim=True)),),
        forgets="that the logarithm has been differentiated too",
        shows="everywhere",
        seen="https://github.com/FluxML/NNlib.jl/commit/958a6d4958eb",
    ),
    Mistake(
        "dy · y for the projection",
        lambda x, dy, dim: (dy - torch.sum(dy * _y(x, dim), dim, keepdim=True),),
        forgets="that the sum is of dy alone, times p of each element",
        shows="everywhere",
        seen="https://github.com/uxlfoundation/oneDNN/issues/616",
    ),
    Mistake(
        "p + dy",
        lambda x, dy, dim: (_p(x, dim) + dy,),
        forgets="the sum of dy, and its sign",
        shows="everywhere",
        seen="https://github.com/mlpack/mlpack/issues/2360",
    ),
    Mistake(
        "dy - p",
        lambda x, dy, dim: (dy - _p(x, dim),),
        forgets="that dy adds up to 1 only behind a cross-entropy whose cotangent is 1",
        shows="wherever dy does not add up to 1",
    ),
    Mistake(
        "projection term dropped",
        lambda x, dy, dim: (dy * torch.ones_like(x),),
        forgets="that the normaliser depends on x",
        shows="unless dy adds up to 0",
    ),
    Mistake(
        "projection term's sign",
        lambda x, dy, dim: (_gradient(_p(x, dim), dy, dim, projection=-1),),
        forgets="that the normaliser is subtracted",
        shows="unless dy adds up to 0",
    ),
    Mistake(
        "y for p",
        lambda x, dy, dim: (_gradient(_y(x, dim), dy, dim),),
        forgets="the exponential: y is log p",
        shows="everywhere",
    ),
    Mistake(
        "mean for the sum",
        lambda x, dy, dim: (dy - _p(x, dim) * torch.mean(dy, dim, keepdim=True),),
        forgets="that the projection is a sum: p already adds up to 1",
        shows="for two numbers and more",
    ),
    Mistake(
        "projection spread evenly",
        lambda x, dy, dim: (dy - torch.mean(dy, dim, keepdim=True),),
        forgets="that the normaliser moves with p, not with every number alike",
        shows="unless all are equal",
    ),
    Mistake(
        "always the last axis",
        lambda x, dy, dim: (_gradient(_p(x, dim), dy, -1),),
        forgets="dim",
        shows="where dim is not the last axis",
        seen="https://github.com/paiml/aprender/pull/2152",
    ),
    Mistake(
        "sum over everything",
        lambda x, dy, dim: (_gradient(_p(x, dim), dy, tuple(range(x.ndim))),),
        forgets="that every row has a sum of its own",
        shows="for two rows and more",
        seen="https://github.com/uTensor/uTensor/pull/171",
    ),
    Mistake(
        "exponential overflows",
        lambda x, dy, dim: (_gradient(torch.exp(x) / torch.sum(torch.exp(x), dim, keepdim=True), dy, dim),),
        forgets="to take the largest number off first",
        shows="from x = 89 (float32) or 710 (float64), where infinity over infinity is NaN, and far below -89",
        seen="https://github.com/apache/singa/pull/540",
    ),
    Mistake(
        "largest of the whole tensor",
        lambda x, dy, dim: (
            (_gradient(torch.exp(x - x.max()) / torch.exp(x - x.max()).sum(dim, keepdim=True), dy, dim),)
            if x.numel()
            else (dy,)
        ),
        forgets="that each row has a largest number of its own, without which all of it may underflow",
        shows="for rows that lie some 90 (float32) or 710 (float64) below others",
        seen="https://github.com/twitter-archive/torch-autograd/issues/166",
    ),
    Mistake(
        "cotangent dropped",
        lambda x, dy, dim: (1 - _p(x, dim) * torch.sum(torch.ones_like(dy), dim, keepdim=True),),
        forgets="dy",
        shows="wherever dy is not 1",
    ),
)
