"""Hyperbolic tangent.

    y = tanh(x) = sinh(x) / cosh(x)

Derivation.  By the quotient rule dy/dx = (cosh² x − sinh² x) / cosh² x = 1 / cosh² x.  With e = e^−2|x|,
cosh² x = (e^|x| + e^−|x|)² / 4 = e^2|x| (1 + e)² / 4, hence

    tanh'(x) = 4 e / (1 + e)² = 4 e / (1 + e (2 + e)),   e = e^−2|x|
    dx       = dy tanh'(x)

The last form is used: the rounding of 1 + e is not squared, and the error falls from 4.2 to 2.4 ulp over all float32.

The textbook form is 1 − y².  It is the same function and a worse program: y² rounds to 1, and the difference of two
equal numbers has no digits; every one is gone from x = 9.1 (float32) or 19.1 (float64).

No kinks.  tanh'(±∞) = 0.

Source: Abramowitz & Stegun, "Handbook of Mathematical Functions", 4.5.73; LeCun et al., "Efficient BackProp" (1998),
4.4.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, normal


class Residuals(NamedTuple):
    x: Float[Tensor, "*shape"]
    """x and not y: once |y| has rounded to 1, x cannot be recovered from it."""


def forward(x: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Residuals]:
    return torch.tanh(x), Residuals(x)


def backward(residuals: Residuals, dy: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"]]:
    e = torch.exp(-2 * torch.abs(residuals.x))
    return (dy * (4 * e / (1 + e * (2 + e))),)


INPUTS = {"x": Input(normal())}

EDGES = (
    Edge("zeros", {"x": [0.0, -0.0]}),
    Edge("saturation", {"x": [5.0, -5.0, 9.0, -9.0, 19.0, -19.0, 40.0, -40.0]}),
    Edge("gradual underflow", {"x": [44.0, -44.0, 48.0, -48.0, 360.0, -360.0, 370.0, -370.0, 400.0, -400.0]}),
    Edge("infinite cotangent", {"x": [-1.0, 2.0], "dy": [float("inf"), float("-inf")]}),
    Edge("infinities", {"x": [float("inf"), float("-inf")]}),
    Edge("subnormal inputs", {"x": [1e-310, -1e-310, 1e-40, -1e-40, 1e-7, -1e-7]}),
)


_y = torch.tanh


MISTAKES = (
    Mistake(
        "1 - y²",
        lambda x, dy: (dy * (1 - _y(x) ** 2),),
        forgets="that 1 - y² cancels once |y| is near 1",
        shows="growing with |x|; from 9.1 (float32) or 19.1 (float64) no digit is left",
        seen="https://github.com/pjreddie/darknet/blob/00d483697a6e395ef6776320cd1e52a04f4367be/src/activations.c",
        loses_digits=True,
    ),
    Mistake(
        "1 - x²",
        lambda x, dy: (dy * (1 - x**2),),
        forgets="that 1 - y² wants the output, not the input",
        shows="away from 0",
    ),
    Mistake(
        "derivative at y",
        lambda x, dy: (dy * (1 - _y(_y(x)) ** 2),),
        forgets="that what it was given has already been through tanh",
        shows="away from 0",
        seen="https://github.com/davidrmiller/neural2d/blob/150798d550715464df7ea3029c50a364bd305b97/src/neural2d-core.cpp",
    ),
    Mistake(
        "1 - y",
        lambda x, dy: (dy * (1 - _y(x)),),
        forgets="the square",
        shows="everywhere but at 0 and far on the right",
    ),
    Mistake(
        "(1 - y)²",
        lambda x, dy: (dy * (1 - _y(x)) ** 2,),
        forgets="what is squared",
        shows="everywhere but at 0",
        seen="https://github.com/haifengl/smile/blob/17c2c7b0a658209a0f13592f7e9f70f7b5c1ff8d/core/src/main/java/smile/base/mlp/ActivationFunction.java",
    ),
    Mistake(
        "1 + y²",
        lambda x, dy: (dy * (1 + _y(x) ** 2),),
        forgets="the sign (this is the derivative of tan)",
        shows="away from 0",
        seen="https://github.com/nicodjimenez/lstm/issues/41",
    ),
    Mistake(
        "y alone",
        lambda x, dy: (dy * _y(x),),
        forgets="to differentiate",
        shows="everywhere",
        seen="https://github.com/andersbll/nnet/blob/dbfb49bc950adb9e5c150e6daad946e54826c28f/nnet/helpers.py",
    ),
    Mistake(
        "-y²",
        lambda x, dy: (-dy * _y(x) ** 2,),
        forgets="the 1",
        shows="everywhere",
        seen="https://github.com/scutan90/DeepLearning-500-questions/issues/544",
    ),
    Mistake(
        "output clipped",
        lambda x, dy: (dy * (1 - _y(x).clamp(-0.98, 0.98) ** 2),),
        forgets="that the gradient really vanishes in saturation (a deliberate change, to keep units alive)",
        shows="where |y| > 0.98",
        seen="https://github.com/libfann/fann/blob/012c67253cc6eced52d07d86c01aeef10e991ebe/src/fann_train.c",
    ),
    Mistake(
        "cotangent dropped",
        lambda x, dy: ((1 - _y(x) ** 2) * torch.ones_like(dy),),
        forgets="dy",
        shows="wherever dy is not 1",
    ),
)
