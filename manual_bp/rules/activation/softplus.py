"""Softplus, a smooth ReLU.

    y = log(1 + e^(beta x)) / beta

Derivation.  With t = beta x, dy/dx = (1/beta) (beta eᵗ / (1 + eᵗ)): the two beta cancel, and what is left is the
logistic function,

    dx = dy σ(beta x),   σ(t) = 1 / (1 + e⁻ᵗ)

`_logistic` keeps every digit of its lower tail.  Read off the output it is 1 − e^(−beta y), which has none left there.

eᵗ overflows for large t; there log(1 + eᵗ) = t + log(1 + e⁻ᵗ), so that

    y = x + log(1 + e^(−beta x)) / beta      for large beta x

Both hold everywhere, and there is no threshold from which y is x: that the second term is lost beside x is left to the
rounding.  log1p keeps it in the lower tail, where y tends to e^(beta x) / beta.

beta is any real number but 0, where the formula divides by 0: ValueError.  Large ones approach ReLU; for a negative
beta the same formulas give a smooth min(x, 0), and the slope σ(beta x) falls.  No kinks; the slope at 0 is ½.
y(∞) = ∞ and y(−∞) = 0, with slopes 1 and 0 (for beta > 0).

Source: Dugas et al., "Incorporating Second-Order Functional Knowledge for Better Option Pricing", NIPS 2000, section 3;
Glorot, Bordes & Bengio, "Deep Sparse Rectifier Neural Networks", AISTATS 2011, section 3.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, Promise, Value, normal, require
from manual_bp.rules.activation._logistic import logistic

LARGE = 10.3
"""Where forward goes over to its second form.  Both hold on either side; this is no number that somebody would choose
for an input, so that none lies on the border, where ball arithmetic cannot tell that the two have one slope."""


class Residuals(NamedTuple):
    x: Float[Tensor, "*shape"]
    """x and not y: in the lower tail 1 − e^(−beta y) has no digits, and beta x is what σ wants."""
    beta: float


def forward(x: Float[Tensor, "*shape"], *, beta: float = 1.0) -> tuple[Float[Tensor, "*shape"], Residuals]:
    require(math.isfinite(beta) and beta != 0, "softplus: beta must be a real number but 0", beta, "ReLU is its limit.")
    t = beta * x
    y = torch.where(t > LARGE, x + torch.log1p(torch.exp(-t)) / beta, torch.log1p(torch.exp(t)) / beta)
    return y, Residuals(x, beta)


def backward(residuals: Residuals, dy: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"]]:
    return (dy * logistic(residuals.beta * residuals.x),)


INPUTS = {"x": Input(normal(std=2.0))}
USUAL = {"beta": (0.5, 0.1, 3.0, 10.0, 100.0)}

EDGES = (
    Edge("zeros", {"x": [0.0, -0.0]}),
    Edge("upper saturation", {"x": [9.0, 17.0, 19.9, 20.0, 20.1, 30.0, 37.0, 80.0]}),
    Edge("lower tail", {"x": [-9.0, -17.0, -20.0, -37.0, -80.0]}),
    Edge("gradual underflow", {"x": [-87.0, -88.5, -90.0, -95.0, -103.0, -106.0, -710.0, -744.0, -752.0]}),
    Edge("where the exponential overflows", {"x": [89.0, 120.0, 710.0, 900.0, 1e30]}),
    Edge("beyond underflow", {"x": [-120.0, -900.0, -1e30]}),
    Edge("beside the change of form", {"x": [10.2, 10.29, 10.31, 10.4]}),
    Edge("infinite cotangent", {"x": [-1.0, 2.0], "dy": [float("inf"), float("-inf")]}),
    Edge("infinities", {"x": [float("inf"), float("-inf")]}),
    Edge("subnormal inputs", {"x": [1e-310, -1e-310, 1e-40, -1e-40, 1e-7, -1e-7]}),
    Edge("beta below 1", {"beta": 0.25}),
    Edge("beta above 1, an integer", {"beta": 2}),
    Edge("large beta", {"x": [0.3, -0.3, 1.1, -1.1, -8.7], "beta": 10.0}),
    Edge("small beta", {"x": [-1.0, 1.0, -3e4, 3e4, -8.9e4], "beta": 1e-3}),
    Edge("small beta, on both sides of a threshold", {"x": [-25.0, 5.0, 15.0, 19.9, 20.1, 25.0, 40.0], "beta": 0.1}),
    Edge("negative beta", {"beta": -1.0}),
    Edge("negative beta, both tails", {"x": [40.0, 50.0, 400.0, -40.0, -50.0, -400.0], "beta": -2.0}),
    Edge("beta 0", {"beta": 0.0}, raises=ValueError),
    Edge("infinite beta", {"beta": float("inf")}, raises=ValueError),
)


def _roundings_of_t(x: Tensor, beta: float) -> Tensor | float:
    """By how many ulp the roundings of beta and of beta x, unless beta is a power of 2, change eᵗ in the lower tail."""
    return 0.0 if abs(math.frexp(beta)[0]) == 0.5 else 2 * torch.clamp(-beta * x, min=0.0)


_MAGNIFIED = "beta x is rounded, and in the lower tail eᵗ magnifies a relative error of t by |t|"

PROMISES = {
    "y": Promise(
        f"{_MAGNIFIED}; where eᵗ is subnormal it has lost digits, which a small beta brings to light",
        more=_roundings_of_t,
        beside=lambda x, beta: torch.finfo(torch.float32).tiny / abs(beta),
    ),
    "dx": Promise(_MAGNIFIED, more=_roundings_of_t),
}


def _s(x: Tensor, beta: float) -> Tensor:
    return torch.sigmoid(beta * x)


def _y(x: Tensor, beta: float) -> Tensor:
    return forward(x, beta=beta)[0]


def _y_by_log(x: Tensor, beta: float) -> Tensor:
    t = beta * x
    return torch.where(t > 0, x, 0) + torch.log(1 + torch.exp(-torch.abs(t))) / beta


VALUES = (
    Value(
        "log(1 + e)",
        _y_by_log,
        forgets="that 1 + e rounds to 1 where e is small, and log1p takes e itself",
        shows="for beta x < 0, growing; from -17 (float32) or -37 (float64) no digit is left",
    ),
)

MISTAKES = (
    Mistake(
        "1 - e^(-beta y)",
        lambda x, dy, beta: (dy * (1 - torch.exp(-beta * _y(x, beta))),),
        forgets="that 1 - e^(-beta y) cancels once y is near 0",
        shows="for beta x < 0, growing; from -17 (float32) or -37 (float64) no digit is left",
        seen="https://github.com/pytorch/pytorch/issues/55587",
        loses_digits=True,
    ),
    Mistake(
        "threshold of 1",
        lambda x, dy, beta: (torch.where(beta * x > 1, dy, dy * _s(x, beta)),),
        forgets="that the slope is 1 nowhere: a threshold, here of 1, is another function",
        shows="where beta x is a little above the threshold",
        seen="https://github.com/pytorch/pytorch/issues/61568",
    ),
    Mistake(
        "threshold of 20 on x",
        lambda x, dy, beta: (torch.where(x > 20, dy, dy * _s(x, beta)),),
        forgets="that beta x, and not x, says where the slope has rounded to 1",
        shows="for a beta that is small or negative, above the threshold, here of 20",
    ),
    Mistake(
        "exponential overflows",
        lambda x, dy, beta: (dy * (torch.exp(beta * x) / (1 + torch.exp(beta * x))),),
        forgets="that e^(beta x) overflows, where infinity over infinity is NaN",
        shows="from beta x = 89 (float32) or 710 (float64)",
        seen="https://github.com/tracel-ai/burn/issues/5373",
    ),
    Mistake(
        "0 where the exponential overflows",
        lambda x, dy, beta: (torch.where(beta * x > 88.7, 0.0, dy * _s(x, beta)),),
        forgets="that e^(beta x) times its reciprocal, which has become 0, is 1",
        shows="from beta x = 88.7 on, where e^(beta x) overflows in float32",
        seen="https://github.com/tenstorrent/tt-metal/pull/56397",
    ),
    Mistake(
        "beta forgotten",
        lambda x, dy, beta: (dy * _s(x, 1.0),),
        forgets="beta in the argument of σ",
        shows="wherever beta is not 1",
    ),
    Mistake(
        "multiplied by beta",
        lambda x, dy, beta: (dy * (beta * _s(x, beta)),),
        forgets="that the 1/beta of the formula cancels the inner derivative",
        shows="wherever beta is not 1",
    ),
    Mistake(
        "divided by beta",
        lambda x, dy, beta: (dy * (_s(x, beta) / beta),),
        forgets="the inner derivative beta, which cancels the 1/beta of the formula",
        shows="wherever beta is not 1",
    ),
    Mistake(
        "σ(-beta x)",
        lambda x, dy, beta: (dy * _s(-x, beta),),
        forgets="the sign: 1 / (1 + e^(beta x)) is 1 - σ",
        shows="everywhere but at 0",
    ),
    Mistake(
        "σ of the output",
        lambda x, dy, beta: (dy * _s(_y(x, beta), beta),),
        forgets="that σ wants the input",
        shows="everywhere but far on the right",
    ),
    Mistake(
        "sigmoid's derivative",
        lambda x, dy, beta: (dy * (_s(x, beta) * _s(-x, beta)),),
        forgets="that σ is the derivative already, and not what is to be differentiated",
        shows="everywhere but far on the left",
    ),
    Mistake(
        "ReLU's derivative",
        lambda x, dy, beta: (torch.where(beta * x > 0, dy, 0.0),),
        forgets="that softplus has no kink",
        shows="near 0",
    ),
    Mistake(
        "cotangent dropped",
        lambda x, dy, beta: (_s(x, beta) * torch.ones_like(dy),),
        forgets="dy",
        shows="wherever dy is not 1",
    ),
)
