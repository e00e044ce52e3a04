"""CELU, the continuously differentiable exponential linear unit.

    y = x                           x > 0
    y = alpha (e^(x/alpha) − 1)     x ≤ 0

Derivation.  The right branch has slope 1.  On the left the alpha in front cancels the inner derivative 1/alpha:

    dx = dy                     x > 0
    dx = dy e^(x/alpha)         x ≤ 0

At 0 both slopes are 1 for every alpha, and there is no kink: that is what CELU is for.  It is ELU (the page `elu`) for
alpha = 1 alone; elsewhere ELU has the slope alpha there.

y falls to −alpha on the left, and alpha → 0 gives ReLU.  alpha is positive (ValueError): at 0 the formula divides by 0,
and for a negative one y would fall without bound on the left, faster than any line.

On the left e^(x/alpha) = y/alpha + 1, which saves an exponential and loses digits: y tends to −alpha, and the sum
cancels.  Forward needs expm1 for the same reason at the other end: near 0, e^(x/alpha) − 1 would cancel.

y(∞) = ∞ with slope 1; y(−∞) = −alpha with slope 0.

Source: Barron, "Continuously Differentiable Exponential Linear Units" (2017), eq. 1 and 3.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, Promise, normal, require


class Residuals(NamedTuple):
    x: Float[Tensor, "*shape"]
    """x and not y: y/alpha + 1 has lost the digits of e^(x/alpha)."""
    alpha: float


def forward(x: Float[Tensor, "*shape"], *, alpha: float = 1.0) -> tuple[Float[Tensor, "*shape"], Residuals]:
    require(alpha > 0, "celu: alpha must be positive", alpha, "ReLU is its limit at 0.")
    return torch.where(x <= 0, alpha * torch.expm1(x / alpha), x), Residuals(x, alpha)


def backward(residuals: Residuals, dy: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"]]:
    x, alpha = residuals
    return (torch.where(x > 0, dy, dy * torch.exp(x / alpha)),)


INPUTS = {"x": Input(normal())}
USUAL = {"alpha": (0.1, 0.5, 0.075, 2.0)}

EDGES = (
    Edge("zeros", {"x": [0.0, -0.0], "alpha": 2.0}),
    Edge("beside zero", {"x": [1e-310, -1e-310, 1e-40, -1e-40, 6e-8, -6e-8]}),
    Edge("saturation", {"x": [-9.0, -17.0, -37.0, -80.0]}),
    Edge("gradual underflow", {"x": [-88.0, -95.0, -103.0, -720.0, -740.0, -800.0]}),
    Edge("infinite cotangent", {"x": [-1.0, 2.0], "dy": [float("inf"), float("-inf")]}),
    Edge("infinities", {"x": [float("inf"), float("-inf")]}),
    Edge("overflowing exponential in the other branch", {"x": [100.0, 800.0]}),
    Edge("alpha above 1, an integer", {"alpha": 2}),
    Edge("alpha below 1", {"alpha": 0.25}),
    Edge("small alpha", {"x": [0.3, -0.3, 1.1, -1.1, -8.7], "alpha": 0.1}),
    Edge("large alpha", {"x": [-5.0, -700.0, -9e4, -9.2e4, 40.0], "alpha": 1e3}),
    Edge("a single number", {"x": -0.5}),
    Edge("no number", sizes={"shape": (0, 3)}),
    Edge("alpha 0", {"alpha": 0.0}, raises=ValueError),
    Edge("negative alpha", {"alpha": -0.5}, raises=ValueError),
    Edge("infinite alpha", {"alpha": float("inf")}, raises=ValueError),
)


def _roundings_of_the_quotient(x: Tensor, alpha: float) -> Tensor | float:
    """By how many ulp the roundings of alpha and of x/alpha, unless alpha is a power of 2, change e^(x/alpha) on the
    left."""
    return 0.0 if math.frexp(alpha)[0] == 0.5 else 2 * torch.abs(torch.clamp(x, max=0.0) / alpha)


PROMISES = {
    "y": Promise(
        "where x/alpha is subnormal it has lost digits, which a large alpha brings to light",
        beside=lambda x, alpha: torch.finfo(torch.float32).tiny * alpha,
    ),
    "dx": Promise(
        "x/alpha is rounded, and the exponential magnifies a relative error of it |x/alpha| times",
        more=_roundings_of_the_quotient,
    ),
}


def _y(x: Tensor, alpha: float) -> Tensor:
    return forward(x, alpha=alpha)[0]


MISTAKES = (
    Mistake(
        "y/alpha + 1",
        lambda x, dy, alpha: (torch.where(x > 0, dy, dy * (_y(x, alpha) / alpha + 1)),),
        forgets="that y/alpha + 1 cancels once y is near -alpha",
        shows="growing with -x/alpha",
        seen="https://github.com/jax-ml/jax/commit/893b483e3f13",
        loses_digits=True,
    ),
    Mistake(
        "ELU's derivative",
        lambda x, dy, alpha: (torch.where(x > 0, dy, dy * (alpha * torch.exp(x))),),
        forgets="that alpha divides x in the exponent",
        shows="where x ≤ 0 and alpha is not 1",
    ),
    Mistake(
        "y + alpha",
        lambda x, dy, alpha: (torch.where(x > 0, dy, dy * (_y(x, alpha) + alpha)),),
        forgets="that this is alpha e^(x/alpha): the shortcut of ELU",
        shows="where x ≤ 0 and alpha is not 1",
    ),
    Mistake(
        "y + 1",
        lambda x, dy, alpha: (torch.where(x > 0, dy, dy * (_y(x, alpha) + 1)),),
        forgets="to divide y by alpha",
        shows="where x < 0 and alpha is not 1",
    ),
    Mistake(
        "inner derivative forgotten",
        lambda x, dy, alpha: (torch.where(x > 0, dy, dy * (alpha * torch.exp(x / alpha))),),
        forgets="the 1/alpha that cancels the alpha in front",
        shows="where x ≤ 0 and alpha is not 1",
    ),
    Mistake(
        "divided by alpha",
        lambda x, dy, alpha: (torch.where(x > 0, dy, dy * (torch.exp(x / alpha) / alpha)),),
        forgets="the alpha in front, which cancels the inner derivative",
        shows="where x ≤ 0 and alpha is not 1",
    ),
    Mistake(
        "alpha x in the exponent",
        lambda x, dy, alpha: (torch.where(x > 0, dy, dy * torch.exp(alpha * x)),),
        forgets="that x is divided by alpha",
        shows="where x < 0 and alpha is not 1",
    ),
    Mistake(
        "alpha forgotten",
        lambda x, dy, alpha: (torch.where(x > 0, dy, dy * torch.exp(x)),),
        forgets="alpha",
        shows="where x < 0 and alpha is not 1",
    ),
    Mistake(
        "slope alpha at 0",
        lambda x, dy, alpha: (torch.where(x > 0, dy, torch.where(x == 0, alpha * dy, dy * torch.exp(x / alpha))),),
        forgets="that the slope at 0 is 1 from both sides: this is ELU's",
        shows="at x = 0 if alpha is not 1",
    ),
    Mistake(
        "mask of the cotangent",
        lambda x, dy, alpha: (torch.where(dy > 0, dy, dy * torch.exp(torch.clamp(x, max=0) / alpha)),),
        forgets="that the sign of x chooses the branch, not the sign of dy",
        shows="where the signs differ",
        seen="https://github.com/Oneflow-Inc/oneflow/commit/6946b483560b",
    ),
    Mistake(
        "masked by multiplication",
        lambda x, dy, alpha: (dy * ((x > 0) + (x <= 0) * torch.exp(x / alpha)),),
        forgets="that 0 times an overflowed exponential is NaN",
        shows="where x/alpha ≥ 89 (float32) or 710 (float64)",
    ),
    Mistake(
        "cotangent dropped",
        lambda x, dy, alpha: (torch.where(x > 0, torch.ones_like(dy), torch.exp(x / alpha)),),
        forgets="dy",
        shows="wherever dy is not 1",
    ),
)
