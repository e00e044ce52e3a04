"""Leaky ReLU.

    y = x                    x > 0
    y = negative_slope x     x ≤ 0

Derivation.  Each branch is linear:

    dx = dy                  x > 0
    dx = negative_slope dy   x ≤ 0

At the kink this page takes negative_slope, as torch does.  Any real slope is allowed.  For a negative slope y > 0 on
both sides: the branch must be remembered from x.

Source: Maas, Hannun & Ng, "Rectifier Nonlinearities Improve Neural Network Acoustic Models", ICML 2013 workshop.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, normal


class Residuals(NamedTuple):
    positive: Bool[Tensor, "*shape"]
    """Which branch was taken: all that backward asks of x, in a byte."""
    negative_slope: float


def forward(x: Float[Tensor, "*shape"], *, negative_slope: float = 0.01) -> tuple[Float[Tensor, "*shape"], Residuals]:
    y = torch.where(x <= 0, negative_slope * x, x)
    return y, Residuals(x > 0, negative_slope)


def backward(residuals: Residuals, dy: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"]]:
    return (torch.where(residuals.positive, dy, residuals.negative_slope * dy),)


INPUTS = {"x": Input(normal())}
USUAL = {"negative_slope": (0.1, 0.2, 1e-3)}

EDGES = (
    Edge("kink", {"x": [0.0, -0.0]}),
    Edge("beside the kink", {"x": [1e-310, -1e-310, 1e-40, -1e-40, 6e-8, -6e-8]}),
    Edge("infinite cotangent", {"x": [-1.0, 2.0], "dy": [float("inf"), float("-inf")]}),
    Edge("infinities", {"x": [float("inf"), float("-inf")]}),
    Edge("negative slope", {"negative_slope": -0.5}),
    Edge("slope 0", {"negative_slope": 0.0}),
    Edge("slope 1", {"negative_slope": 1}),
    Edge("slope above 1", {"negative_slope": 3.0}),
)


def _y(x: Tensor, negative_slope: float) -> Tensor:
    return forward(x, negative_slope=negative_slope)[0]


MISTAKES = (
    Mistake(
        "plain ReLU",
        lambda x, dy, negative_slope: (torch.where(x > 0, dy, 0),),
        forgets="the slope on the left",
        shows="wherever x < 0",
    ),
    Mistake(
        "slope 0.01 always",
        lambda x, dy, negative_slope: (torch.where(x > 0, dy, 0.01 * dy),),
        forgets="that the slope is a hyperparameter",
        shows="wherever x < 0 and the slope is not 0.01",
        seen="https://github.com/deeplearning4j/deeplearning4j/issues/8178",
    ),
    Mistake(
        "sign of the cotangent",
        lambda x, dy, negative_slope: (torch.where(dy > 0, dy, negative_slope * dy),),
        forgets="that the sign of x chooses the branch, not the sign of dy",
        shows="where the signs differ",
        seen="https://github.com/Sarvesh810/NeuralNetworksDIY/blob/ea8f0637c49b3acad7648f47876bbfa37edb7a9f/src/activation_functions/LeakyReLU.py",
    ),
    Mistake(
        "branch read off y",
        lambda x, dy, negative_slope: (torch.where(_y(x, negative_slope) > 0, dy, negative_slope * dy),),
        forgets="that y > 0 on both sides when the slope is negative",
        shows="where x < 0 and the slope is negative",
        seen="https://github.com/pytorch/pytorch/issues/31938",
    ),
    Mistake(
        "branch read off y ≥ 0",
        lambda x, dy, negative_slope: (torch.where(_y(x, negative_slope) >= 0, dy, negative_slope * dy),),
        forgets="that y = 0 on the whole left when the slope is 0",
        shows="at x = 0, and where x < 0 if the slope is 0 or negative",
        seen="https://github.com/chainer/chainer/pull/5898",
    ),
    Mistake(
        "kink passes",
        lambda x, dy, negative_slope: (torch.where(x >= 0, dy, negative_slope * dy),),
        forgets="which slope the convention takes at 0: this one is valid, and not this page's nor torch's",
        shows="at x = 0 if the slope is not 1",
        seen="https://github.com/PaddlePaddle/Paddle/blob/0805691050fdb951a3180bd90049701a89b96dad/paddle/operators/activation_op.h",
    ),
    Mistake(
        "slope everywhere",
        lambda x, dy, negative_slope: (negative_slope * dy,),
        forgets="that the slope belongs to the left branch only",
        shows="wherever x > 0",
    ),
    Mistake(
        "slope unscaled",
        lambda x, dy, negative_slope: (torch.where(x > 0, dy, negative_slope),),
        forgets="dy on the left",
        shows="wherever x < 0 and dy is not 1",
    ),
    Mistake(
        "cotangent dropped",
        lambda x, dy, negative_slope: (torch.where(x > 0, torch.ones_like(dy), negative_slope),),
        forgets="dy",
        shows="wherever dy is not 1",
    ),
)
