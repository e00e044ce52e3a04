"""Linear: an affine map of the last axis.

    y = x Wᵀ + b,   that is   y_o = Σ_i W_oi x_i + b_o   for every row of x

Derivation.  With J a function of y and dy = ∂J/∂y, the chain rule sums over every y that an argument reaches.  x_i
reaches all outputs of its own row; W_oi reaches output o of every row; b_o likewise, with factor 1:

    dx_i  = Σ_o dy_o W_oi          dx = dy W
    dW_oi = Σ_rows dy_o x_i        dW = dyᵀ x
    db_o  = Σ_rows dy_o            db = Σ_rows dy

"Rows" are all axes of x but the last.  The sums over rows are sums: if the cost is a mean, its 1/n is already in dy.
In the course notes' letters dy is δ(l+1), x is a(l), and dW is δ(l+1) a(l)ᵀ.

Source: Rumelhart, Hinton & Williams, Nature 323 (1986), eq. 1, 6 and 7; Giles, "Collected Matrix Derivative
Results" (2008), 2.2.2.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, normal


class Residuals(NamedTuple):
    x: Float[Tensor, "*batch in"]
    """For dW."""
    weight: Float[Tensor, "out in"]
    """For dx.  The bias is not kept: y is affine in it, so no derivative depends on it."""


def forward(
    x: Float[Tensor, "*batch in"], weight: Float[Tensor, "out in"], bias: Float[Tensor, "out"]
) -> tuple[Float[Tensor, "*batch out"], Residuals]:
    return x @ weight.T + bias, Residuals(x, weight)


def backward(
    residuals: Residuals, dy: Float[Tensor, "*batch out"]
) -> tuple[Float[Tensor, "*batch in"], Float[Tensor, "out in"], Float[Tensor, "out"]]:
    x, weight = residuals
    dx = dy @ weight
    dweight = _rows(dy).T @ _rows(x)
    dbias = _rows(dy).sum(0)
    return dx, dweight, dbias


def _rows(x: Tensor) -> Tensor:
    """All axes but the last as one; its length is written out, because -1 cannot be inferred beside an axis of 0."""
    return x.reshape(x.shape[:-1].numel(), x.shape[-1])


INPUTS = {"x": Input(normal()), "weight": Input(normal(std=0.5)), "bias": Input(normal(std=0.5))}

EDGES = (
    Edge("no batch axis", sizes={"batch": ()}),
    Edge("three batch axes", sizes={"batch": (2, 3, 2)}),
    Edge("no input feature", sizes={"in": 0}),
    Edge("no output feature", sizes={"out": 0}),
    Edge("one feature each", sizes={"in": 1, "out": 1}),
    Edge("square", sizes={"batch": 4, "in": 4, "out": 4}),
    Edge("long sum", sizes={"batch": 129, "in": 33, "out": 3}),
    Edge("zero weight", {"weight": [[0.0, 0.0, 0.0]]}, sizes={"in": 3}),
)

MISTAKES = (
    Mistake(
        "bias averaged",
        lambda x, weight, bias, dy: (dy @ weight, _rows(dy).T @ _rows(x), _rows(dy).mean(0)),
        forgets="that a bias adds to every row, so its cotangent is a sum",
        shows="for more than one row",
        seen="https://github.com/kvfrans/notes/blob/4cc7cc03a1efb53c60f61105d426df0d6646798f/2-training-neural-networks/backpropagation.ipynb",
    ),
    Mistake(
        "1/n twice",
        lambda x, weight, bias, dy: (dy @ weight, _rows(dy).T @ _rows(x) / len(_rows(x)), _rows(dy).mean(0)),
        forgets="that the 1/n of a mean cost is in dy already",
        shows="for more than one row",
        seen="https://github.com/KamenevIvan/NSUAI_lab3_submit/blob/64382db548f397a5a42135536037b5a5986ba31a/Lab4/layers/linear.py",
    ),
    Mistake(
        "bias not summed",
        lambda x, weight, bias, dy: (dy @ weight, _rows(dy).T @ _rows(x), dy),
        forgets="the sum over the rows",
        shows="for any batch",
        seen="https://github.com/ElliottStorey/ChillML/blob/3ae7aaf889372c696398691123eb10a102390921/chillml/layers/fully_connected.py",
    ),
    Mistake(
        "bias collapsed",
        lambda x, weight, bias, dy: (dy @ weight, _rows(dy).T @ _rows(x), dy.sum().expand(bias.shape)),
        forgets="that each output has a bias of its own",
        shows="for more than one output",
        seen="https://github.com/rasbt/stat453-deep-learning-ss21/blob/9160a732568dafac81f1c08aa30d86b9bdfcc6b0/L08/code/softmax-regression_scratch.ipynb",
    ),
    Mistake(
        "bias summed over axis 0 only",
        lambda x, weight, bias, dy: (dy @ weight, _rows(dy).T @ _rows(x), dy.sum(0)),
        forgets="the other axes of the batch",
        shows="unless x has rank 2",
        seen="https://github.com/ooples/AiDotNet.Tensors/issues/234",
    ),
    Mistake(
        "bias forgotten",
        lambda x, weight, bias, dy: (dy @ weight, _rows(dy).T @ _rows(x), torch.zeros_like(bias)),
        forgets="the bias",
        shows="everywhere",
    ),
    Mistake(
        "dW transposed",
        lambda x, weight, bias, dy: (dy @ weight, _rows(x).T @ _rows(dy), _rows(dy).sum(0)),
        forgets="that W is stored as (out, in)",
        shows="always: in the shape, or in the values when in = out",
        seen="https://github.com/iamtrask/Grokking-Deep-Learning/pull/22",
    ),
    Mistake(
        "W read as if transposed",
        lambda x, weight, bias, dy: (
            dy @ weight.reshape(-1).reshape(weight.T.shape).T,
            _rows(dy).T @ _rows(x),
            _rows(dy).sum(0),
        ),
        forgets="that a transposed matrix is more than another shape for the same buffer",
        shows="for more than one input and output",
        seen="https://github.com/pulp-platform/pulp-trainlib/issues/3",
    ),
    Mistake(
        "updated weights",
        lambda x, weight, bias, dy: (
            dy @ (weight - 0.1 * _rows(dy).T @ _rows(x)),
            _rows(dy).T @ _rows(x),
            _rows(dy).sum(0),
        ),
        forgets="that dx is taken at the weights that forward used, before the update (here a step of 0.1)",
        shows="everywhere",
        seen="https://github.com/joelgrus/data-science-from-scratch/blob/07b0aa1fa42016f747e058532c754bebfdf898a1/code-python3/neural_networks.py",
    ),
    Mistake(
        "dx twice",
        lambda x, weight, bias, dy: (2 * dy @ weight, _rows(dy).T @ _rows(x), _rows(dy).sum(0)),
        forgets="to clear what an earlier call had accumulated",
        shows="everywhere",
        seen="https://github.com/itskonrad/miniMNIST-c/issues/7",
    ),
)
