"""SiLU, the sigmoid linear unit (Swish with beta = 1).

    y = x σ(x),   σ(x) = 1 / (1 + e⁻ˣ)

Derivation.  By the product rule, with σ' = σ(x) σ(−x), since 1 − σ(x) = σ(−x):

    dx = dy (σ(x) + x σ(x) σ(−x))
             direct   gate
       = dy σ(x) (1 + x σ(−x))

With e = e^−|x|, σ(|x|) = 1 / (1 + e) and σ(−|x|) = e / (1 + e), so that

    dx = dy e (1 + e + x) / (1 + e)²      x < 0
    dx = dy (1 + e + x e) / (1 + e)²      x ≥ 0

Here e never overflows, and 1 − σ(x), which cancels once σ(x) is near 1, is not formed.  Where e has sunk below the
smallest normal number x e may be above it; `_swish` says how the digits are kept there, of y as well.

No kinks.  y has its least value, −0.278, at x = −1.278, where the derivative crosses 0.  y is −0 at −0 and has the
slope ½ at both zeros.  At ±∞ the product of ∞ and 0 is NaN: the derivative at both, and y at −∞, as in torch.

Source: Elfwing, Uchibe & Doya, "Sigmoid-Weighted Linear Units for Neural Network Function Approximation in
Reinforcement Learning", Neural Networks 107 (2018), eq. 7 and 9; Hendrycks & Gimpel, "Gaussian Error Linear Units"
(2016), section 2.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, Promise, Value, normal
from manual_bp.rules.activation._swish import swish, swish_slope


class Residuals(NamedTuple):
    x: Float[Tensor, "*shape"]
    """x and not y: two x have the same y on either side of its least value, and y/x is NaN at 0."""


def forward(x: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Residuals]:
    return swish(x, x), Residuals(x)


def backward(residuals: Residuals, dy: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"]]:
    x = residuals.x
    return (dy * swish_slope(x, x, 1.0),)


def terms(residuals: Residuals, dy: Float[Tensor, "*shape"]) -> dict[str, dict[str, Tensor]]:
    x = residuals.x
    return {"dx": {"direct": dy * torch.sigmoid(x), "gate": dy * (x * torch.sigmoid(x) * torch.sigmoid(-x))}}


INPUTS = {"x": Input(normal(std=2.0))}

EDGES = (
    Edge("zeros", {"x": [0.0, -0.0]}),
    Edge("where the derivative crosses 0", {"x": [-1.2784645, -1.2784646, -1.278, -1.279, -1.2]}),
    Edge("upper saturation", {"x": [9.0, 17.0, 25.0, 37.0, 80.0, 800.0, 1e30]}),
    Edge("lower tail", {"x": [-9.0, -17.0, -37.0, -60.0, -80.0]}),
    Edge(
        "gradual underflow", {"x": [-87.0, -88.5, -90.0, -91.5, -95.0, -103.0, -106.0, -710.0, -715.0, -744.0, -752.0]}
    ),
    Edge("beyond underflow", {"x": [-120.0, -900.0, -1e30]}),
    Edge("infinite cotangent", {"x": [-1.0, 2.0], "dy": [float("inf"), float("-inf")]}),
    Edge("subnormal inputs", {"x": [1e-310, -1e-310, 1e-40, -1e-40, 1e-7, -1e-7]}),
)


_s = torch.sigmoid

PROMISES = {
    "dx": Promise("near -1.28 the terms σ(x) and x σ(x) σ(-x) cancel", beside=lambda x: _s(x)),
}


def _y(x: Tensor) -> Tensor:
    return x * _s(x)


VALUES = (
    Value(
        "x σ(x)",
        lambda x: x * _s(x),
        forgets="that σ(x) has sunk to 0, or below the smallest normal number, where x σ(x) is still above it",
        shows="from x = -88 (float32) or -709 (float64) on",
        seen="https://github.com/pytorch/pytorch/blob/v2.9.0/aten/src/ATen/native/cpu/Activation.cpp",
    ),
)

MISTAKES = (
    Mistake(
        "s(1 + x(1 - s))",
        lambda x, dy: (dy * _s(x) * (1 + x * (1 - _s(x))),),
        forgets="that s has sunk to 0 on the left where x s is still a normal number, and 1 - s cancels on the right",
        shows="from x = -89 (float32) or -710 (float64) on; a few digits for x > 0",
        seen="https://github.com/tensorflow/tensorflow/issues/124835",
        loses_digits=True,
    ),
    Mistake(
        "sigmoid recovered as y/x",
        lambda x, dy: (dy * (_y(x) / x) * (1 + x * (1 - _y(x) / x)),),
        forgets="that y/x is 0/0 at 0",
        shows="at x = 0",
        seen="https://github.com/huggingface/candle/commit/1690ab45d2f6",
    ),
    Mistake(
        "gate as a constant",
        lambda x, dy: (dy * _s(x),),
        forgets="that the gate σ(x) depends on x too: half of the product rule",
        shows="everywhere but at 0",
    ),
    Mistake(
        "gate's slope alone",
        lambda x, dy: (dy * (x * _s(x) * _s(-x)),),
        forgets="the direct path, whose factor is σ(x): half of the product rule",
        shows="everywhere",
    ),
    Mistake(
        "sigmoid's derivative",
        lambda x, dy: (dy * (_s(x) * _s(-x)),),
        forgets="to multiply σ' by x and to add σ",
        shows="everywhere",
    ),
    Mistake(
        "1 + x forgotten",
        lambda x, dy: (dy * (_s(x) * (1 + _s(-x))),),
        forgets="the factor x of the gate's slope",
        shows="everywhere but at 1",
    ),
    Mistake(
        "s(1 + x s)",
        lambda x, dy: (dy * (_s(x) * (1 + x * _s(x))),),
        forgets="that σ' holds 1 - σ, and not σ twice",
        shows="everywhere but at 0",
    ),
    Mistake(
        "s(1 - x(1 - s))",
        lambda x, dy: (dy * (_s(x) * (1 - x * _s(-x))),),
        forgets="the sign of the gate's slope",
        shows="everywhere but at 0",
    ),
    Mistake(
        "y + s(1 - s)",
        lambda x, dy: (dy * (_y(x) + _s(x) * _s(-x)),),
        forgets="that the form with y is y + s(1 - y)",
        shows="everywhere",
    ),
    Mistake(
        "y(1 - y)",
        lambda x, dy: (dy * (_y(x) * (1 - _y(x))),),
        forgets="that sigmoid's shortcut holds for sigmoid's y",
        shows="everywhere",
    ),
    Mistake(
        "derivative at y",
        lambda x, dy: (dy * (_s(_y(x)) * (1 + _y(x) * _s(-_y(x)))),),
        forgets="that what it was given has already been through the activation",
        shows="everywhere but at 0 and far on the right",
    ),
    Mistake(
        "beta of 1.702",
        lambda x, dy: (dy * (_s(1.702 * x) * (1 + 1.702 * x * _s(-1.702 * x))),),
        forgets="that 1.702 belongs to the sigmoid that stands for GELU",
        shows="everywhere but at 0",
    ),
    Mistake(
        "exponential overflows",
        lambda x, dy: (dy * ((1 + torch.exp(-x) * (1 + x)) / (1 + torch.exp(-x)) ** 2),),
        forgets="that e^-x overflows on the left, where infinity over infinity is NaN",
        shows="from x = -45 (float32) or -355 (float64), where (1 + e^-x)² overflows",
    ),
    Mistake(
        "cotangent dropped",
        lambda x, dy: (_s(x) * (1 + x * _s(-x)) * torch.ones_like(dy),),
        forgets="dy",
        shows="wherever dy is not 1",
    ),
)
