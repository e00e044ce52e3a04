"""ReLU, the rectified linear unit.

    y = x   x > 0
    y = 0   x ≤ 0

Derivation.  Each branch is linear, with slope 1 and 0:

    dx = dy   x > 0
    dx = 0    x ≤ 0

The kink at 0 has every slope in [0, 1] as a subgradient; this page takes 0, as torch does.  The closed branch is
chosen, not multiplied by 0: an infinite cotangent that arrives there is dropped, where 0 · ∞ would be NaN.

Source: Nair & Hinton, "Rectified Linear Units Improve Restricted Boltzmann Machines", ICML 2010.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, normal


class Residuals(NamedTuple):
    positive: Bool[Tensor, "*shape"]
    """Which branch was taken: all that backward asks, in a byte where x or y would take four."""


def forward(x: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Residuals]:
    return torch.where(x <= 0, 0, x), Residuals(x > 0)


def backward(residuals: Residuals, dy: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"]]:
    return (torch.where(residuals.positive, dy, 0),)


INPUTS = {"x": Input(normal())}

EDGES = (
    Edge("kink", {"x": [0.0, -0.0]}),
    Edge("beside the kink", {"x": [1e-310, -1e-310, 1e-40, -1e-40, 6e-8, -6e-8]}),
    Edge("infinities", {"x": [float("inf"), float("-inf")]}),
    Edge("infinite cotangent", {"x": [-1.0, 2.0], "dy": [float("inf"), float("-inf")]}),
    Edge("nothing passes", {"x": [-1.0, -2.0, -3.0]}),
)

MISTAKES = (
    Mistake(
        "ones",
        lambda x, dy: (dy,),
        forgets="the mask (testing y ≥ 0 in place of x > 0 comes to this, as y is never negative)",
        shows="wherever x < 0",
        seen="https://github.com/iamtrask/Grokking-Deep-Learning/blob/1a34a1b09e1ec99ef19ee0006c0eebd4dc924bd6/Chapter8%20-%20Intro%20to%20Regularization%20-%20Learning%20Signal%20and%20Ignoring%20Noise.ipynb",
    ),
    Mistake(
        "kink passes",
        lambda x, dy: (torch.where(x >= 0, dy, 0),),
        forgets="which subgradient the convention takes at 0: this one is valid, and not this page's nor torch's",
        shows="at x = 0",
        seen="https://github.com/oreilly-japan/deep-learning-from-scratch/blob/07b11618cdb5d5f78ad45464de0730efc07b0a4a/common/functions.py",
    ),
    Mistake(
        "y for 1",
        lambda x, dy: (dy * torch.where(x > 0, x, 0),),
        forgets="that the slope is 1, not y",
        shows="wherever x > 0",
        seen="https://github.com/denggaoshan/DeepLearningStudy/blob/7d3b3c733f68f428f047ef79581453d706628cad/Layers.py",
    ),
    Mistake(
        "mask of the cotangent",
        lambda x, dy: (torch.where(dy > 0, dy, 0),),
        forgets="that the sign of x opens the gate, not the sign of dy",
        shows="where the signs differ",
        seen="https://github.com/exacity/deeplearningbook-chinese/issues/127",
    ),
    Mistake(
        "guided",
        lambda x, dy: (torch.where((x > 0) & (dy > 0), dy, 0),),
        forgets="negative cotangents (this is guided back-propagation, a picture and not a gradient)",
        shows="where x > 0 and dy < 0",
    ),
    Mistake(
        "multiplied",
        lambda x, dy: (dy * (x > 0),),
        forgets="that 0 times infinity is NaN",
        shows="where x ≤ 0 and dy is infinite",
    ),
    Mistake(
        "nothing passes",
        lambda x, dy: (torch.zeros_like(dy),),
        forgets="to keep the mask of forward",
        shows="wherever x > 0",
    ),
    Mistake(
        "cotangent dropped",
        lambda x, dy: (torch.where(x > 0, torch.ones_like(dy), 0),),
        forgets="dy",
        shows="wherever dy is not 1",
        seen="https://github.com/haifengl/smile/blob/17c2c7b0a658209a0f13592f7e9f70f7b5c1ff8d/core/src/main/java/smile/base/mlp/ActivationFunction.java",
    ),
)
