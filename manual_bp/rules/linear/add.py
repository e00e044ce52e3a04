"""The sum of two tensors: what a residual connection ends in.

    y = x + other

Derivation.  Both reach y with factor 1, so each gets the whole of dy, neither a half nor a share:

    dx = dy      dother = dy

In y = x + f(x) the x of the network reaches the sum twice; what comes back through f is added to this dx by whoever
feeds x to both, and is no part of this page.  Nothing is broadcast: a tensor that is added to several rows would get
their sum.

No kinks.  An infinity beside one of the other sign gives NaN; the cotangents do not depend on x or other at all.

Source: He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016, eq. 5: the term 1 that no layer can shrink.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, normal


class Residuals(NamedTuple):
    """Nothing: y is linear in both, with factor 1."""


def forward(x: Float[Tensor, "*shape"], other: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Residuals]:
    return x + other, Residuals()


def backward(
    residuals: Residuals, dy: Float[Tensor, "*shape"]
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    return dy, dy


INPUTS = {"x": Input(normal()), "other": Input(normal())}

EDGES = (
    Edge("zeros of both signs", {"x": [0.0, -0.0, 0.0, -0.0], "other": [0.0, -0.0, -0.0, 0.0]}),
    Edge("opposite", {"x": [1.0, -3.5, 1e30], "other": [-1.0, 3.5, -1e30]}),
    Edge("one far smaller", {"x": [1.0, 1e8, -1e16], "other": [1e-9, 1.0, 1.0]}),
    Edge("subnormal numbers", {"x": [1e-40, 1e-310], "other": [1e-40, -1e-310]}),
    Edge("one infinite", {"x": [float("inf"), float("-inf"), 1.0], "other": [1.0, 2.0, float("inf")]}),
    Edge("infinite cotangent", {"x": [1.0, 2.0], "other": [3.0, 4.0], "dy": [float("inf"), float("-inf")]}),
)


MISTAKES = (
    Mistake(
        "skip without gradient",
        lambda x, other, dy: (torch.zeros_like(dy), dy),
        forgets="the way past the layer: what it brings back is lost, and deep gradients vanish again",
        shows="wherever dy is not 0",
    ),
    Mistake(
        "branch without gradient",
        lambda x, other, dy: (dy, torch.zeros_like(dy)),
        forgets="the way through the layer, which then learns nothing",
        shows="wherever dy is not 0",
    ),
    Mistake(
        "dy shared out",
        lambda x, other, dy: (dy / 2, dy / 2),
        forgets="that each of the two moves y by as much as it moves itself",
        shows="wherever dy is not 0",
    ),
    Mistake(
        "dy twice",
        lambda x, other, dy: (2 * dy, dy),
        forgets="that the way through f is added outside, or that the buffer already held dy",
        shows="wherever dy is not 0",
    ),
    Mistake(
        "factors of a product",
        lambda x, other, dy: (dy * other, dy * x),
        forgets="that this is a sum",
        shows="wherever the other one is not 1",
    ),
    Mistake(
        "sign of a difference",
        lambda x, other, dy: (dy, -dy),
        forgets="that other is added",
        shows="wherever dy is not 0",
    ),
    Mistake(
        "cotangent dropped",
        lambda x, other, dy: (torch.ones_like(dy), torch.ones_like(dy)),
        forgets="dy",
        shows="wherever dy is not 1",
    ),
)
