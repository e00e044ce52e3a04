"""Sigmoid, the logistic function.

    y = σ(x) = 1 / (1 + e⁻ˣ)

Derivation.  With u = 1 + e⁻ˣ: dy/dx = −u⁻² du/dx = e⁻ˣ / (1 + e⁻ˣ)².  Multiplying numerator and denominator by e²ˣ
gives eˣ / (1 + eˣ)²: the derivative is even, so e⁻ˣ may be read as e^−|x|, which never overflows:

    σ'(x) = e / (1 + e)² = e / (1 + e (2 + e)),   e = e^−|x|
    dx    = dy σ'(x)

The last form is used: the rounding of 1 + e is not squared, and the error falls from 4.2 to 2.4 ulp over all float32.

The textbook form is y (1 − y).  It is the same function and a worse program: for large x, y rounds to 1 and 1 − y to
0, so that from x = 17 (float32) or 37 (float64) every digit is gone.  In e all of them are kept, down to gradual
underflow.

No kinks.  σ'(±∞) = 0.

Source: Rumelhart, Hinton & Williams, "Learning representations by back-propagating errors", Nature 323
(1986), eq. 2 and 5.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, normal


class Residuals(NamedTuple):
    x: Float[Tensor, "*shape"]
    """x and not y: once y has rounded to 1, x cannot be recovered from it."""


def forward(x: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Residuals]:
    return torch.sigmoid(x), Residuals(x)


def backward(residuals: Residuals, dy: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"]]:
    e = torch.exp(-torch.abs(residuals.x))
    return (dy * (e / (1 + e * (2 + e))),)


INPUTS = {"x": Input(normal(std=2.0))}

EDGES = (
    Edge("zeros", {"x": [0.0, -0.0]}),
    Edge("saturation", {"x": [9.0, -9.0, 17.0, -17.0, 37.0, -37.0, 80.0, -80.0]}),
    Edge("gradual underflow", {"x": [88.0, -88.0, 95.0, -95.0, 720.0, -720.0, 740.0, -740.0, 800.0, -800.0]}),
    Edge("infinite cotangent", {"x": [-1.0, 2.0], "dy": [float("inf"), float("-inf")]}),
    Edge("infinities", {"x": [float("inf"), float("-inf")]}),
    Edge("subnormal inputs", {"x": [1e-310, -1e-310, 1e-40, -1e-40, 1e-7, -1e-7]}),
)


_y = torch.sigmoid


MISTAKES = (
    Mistake(
        "y(1 - y)",
        lambda x, dy: (dy * _y(x) * (1 - _y(x)),),
        forgets="that 1 - y cancels once y is near 1",
        shows="for x > 0, growing with x; from 17 (float32) or 37 (float64) no digit is left",
        seen="https://github.com/pjreddie/darknet/blob/00d483697a6e395ef6776320cd1e52a04f4367be/src/activations.c",
        loses_digits=True,
    ),
    Mistake(
        "x(1 - x)",
        lambda x, dy: (dy * x * (1 - x),),
        forgets="that y(1 - y) wants the output, not the input",
        shows="everywhere",
        seen="https://github.com/BoltzmannEntropy/interviews.ai/issues/15",
    ),
    Mistake(
        "derivative at y",
        lambda x, dy: (dy * _y(_y(x)) * (1 - _y(_y(x))),),
        forgets="that what it was given has already been through the sigmoid",
        shows="everywhere",
        seen="https://github.com/davidrmiller/neural2d/blob/150798d550715464df7ea3029c50a364bd305b97/src/neural2d-core.cpp",
    ),
    Mistake(
        "y alone",
        lambda x, dy: (dy * _y(x),),
        forgets="the factor 1 - y",
        shows="everywhere but far on the left",
    ),
    Mistake(
        "tanh's formula",
        lambda x, dy: (dy * (1 - _y(x) ** 2),),
        forgets="that 1 - y² belongs to tanh",
        shows="everywhere",
        seen="https://github.com/Jeraldy/deeplearning",
    ),
    Mistake(
        "cotangent inside",
        lambda x, dy: (_y(x) * (1 - _y(dy)),),
        forgets="that dy multiplies the derivative and is not its argument",
        shows="everywhere",
        seen="https://github.com/yizt/numpy_neural_network/issues/3",
    ),
    Mistake(
        "output clipped",
        lambda x, dy: (dy * _y(x).clamp(0.01, 0.99) * (1 - _y(x).clamp(0.01, 0.99)),),
        forgets="that the gradient really vanishes in saturation (a deliberate change, to keep units alive)",
        shows="where y < 0.01 or y > 0.99",
        seen="https://github.com/libfann/fann/blob/012c67253cc6eced52d07d86c01aeef10e991ebe/src/fann_train.c",
    ),
    Mistake(
        "exponential overflows",
        lambda x, dy: (dy * torch.exp(-x) / (1 + torch.exp(-x)) ** 2,),
        forgets="that e^-x overflows on the left, where infinity over infinity is NaN",
        shows="from x = -45 (float32) or -355 (float64), where (1 + e^-x)² overflows",
        seen="https://github.com/jeshraghian/snntorch/pull/433",
    ),
    Mistake(
        "cotangent dropped",
        lambda x, dy: (_y(x) * (1 - _y(x)) * torch.ones_like(dy),),
        forgets="dy",
        shows="wherever dy is not 1",
    ),
)
