"""The logarithm of the sigmoid.

    y = log σ(x) = −log(1 + e⁻ˣ),   σ(x) = 1 / (1 + e⁻ˣ)

Derivation.  With u = 1 + e⁻ˣ: dy/dx = −u⁻¹ du/dx = e⁻ˣ / (1 + e⁻ˣ) = σ(−x):

    dx = dy σ(−x)

which is 1 − σ(x), but not formed so: for large x, σ(x) rounds to 1 and nothing is left.  Read off the output it is
1 − eʸ, or −expm1(y), which keeps the digits on the right; on the left it must be near 1 anyway.  The sigmoid of −x is
as good on both sides (`_logistic`) and costs the same exponential.

y is softplus, mirrored in both axes.  Its own tails: for large x it tends to −e⁻ˣ, which log(1 + e⁻ˣ) loses to the
rounding of the sum and log1p keeps; for large −x, e⁻ˣ overflows, and y is x − log(1 + eˣ).  torch.logaddexp(−x, 0) does
both.  log(sigmoid(x)) is −∞ there.

No kinks; y(0) = −log 2 and the slope there is ½.  y(∞) = −0 and y(−∞) = −∞, with slopes 0 and 1.

Source: Bishop, "Pattern Recognition and Machine Learning" (2006), eq. 4.59 and 4.88; Mächler, "Accurately Computing
log(1 − exp(−|a|))" (2012), section 2.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, Value, normal
from manual_bp.rules.activation._logistic import logistic


class Residuals(NamedTuple):
    x: Float[Tensor, "*shape"]
    """x and not y: it is alive anyway, and σ wants it; y would need expm1, and a tensor of its own to be kept."""


def forward(x: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Residuals]:
    return -torch.logaddexp(-x, torch.zeros((), dtype=x.dtype, device=x.device)), Residuals(x)


def backward(residuals: Residuals, dy: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"]]:
    return (dy * logistic(-residuals.x),)


INPUTS = {"x": Input(normal(std=2.0))}

EDGES = (
    Edge("zeros", {"x": [0.0, -0.0]}),
    Edge("upper saturation", {"x": [9.0, 17.0, 20.0, 37.0, 80.0]}),
    Edge("lower tail", {"x": [-9.0, -17.0, -20.0, -37.0, -80.0]}),
    Edge("gradual underflow", {"x": [87.0, 88.5, 90.0, 95.0, 103.0, 106.0, 709.0, 720.0, 744.0, 752.0]}),
    Edge("where the exponential overflows", {"x": [-89.0, -120.0, -710.0, -900.0, -1e30]}),
    Edge("beyond underflow", {"x": [120.0, 900.0, 1e30]}),
    Edge("infinite cotangent", {"x": [-1.0, 2.0], "dy": [float("inf"), float("-inf")]}),
    Edge("infinities", {"x": [float("inf"), float("-inf")]}),
    Edge("subnormal inputs", {"x": [1e-310, -1e-310, 1e-40, -1e-40, 1e-7, -1e-7]}),
    Edge("a single number", {"x": 0.5}),
    Edge("no number", sizes={"shape": (0, 3)}),
)


_s = torch.sigmoid


def _y(x: Tensor) -> Tensor:
    return forward(x)[0]


VALUES = (
    Value(
        "log(1 + e)",
        lambda x: torch.clamp(x, max=0) - torch.log(1 + torch.exp(-torch.abs(x))),
        forgets="that 1 + e rounds to 1 where e is small, and log1p takes e itself",
        shows="for x > 0, growing; from 17 (float32) or 37 (float64) no digit is left",
    ),
)

MISTAKES = (
    Mistake(
        "1 - σ(x)",
        lambda x, dy: (dy * (1 - _s(x)),),
        forgets="that 1 - σ(x) cancels once σ(x) is near 1; it is σ(-x)",
        shows="for x > 0, growing; from 17 (float32) or 37 (float64) no digit is left",
        seen="https://github.com/jax-ml/jax/commit/893b483e3f13",
        loses_digits=True,
    ),
    Mistake(
        "1 - e^y",
        lambda x, dy: (dy * (1 - torch.exp(_y(x))),),
        forgets="that 1 - e^y cancels once y is near 0",
        shows="for x > 0, growing; from 17 (float32) or 37 (float64) no digit is left",
        loses_digits=True,
    ),
    Mistake(
        "exponential overflows",
        lambda x, dy: (dy * (torch.exp(-x) / (1 + torch.exp(-x))),),
        forgets="that e^-x overflows on the left, where infinity over infinity is NaN",
        shows="from x = -89 (float32) or -710 (float64)",
        seen="https://github.com/huggingface/candle/commit/3bbb88fcb463",
    ),
    Mistake(
        "sigmoid's derivative over a sigmoid that is 0",
        lambda x, dy: (dy * (_s(x) * _s(-x) / _s(x)),),
        forgets="that σ(x) sinks to 0 on the left, where the chain rule through the logarithm has 0/0",
        shows="from x = -89 (float32) or -710 (float64)",
    ),
    Mistake(
        "σ(x)",
        lambda x, dy: (dy * _s(x),),
        forgets="the sign in the exponent: that is softplus's slope",
        shows="everywhere but at 0",
    ),
    Mistake(
        "σ(x) - 1",
        lambda x, dy: (dy * -_s(-x),),
        forgets="the sign: y rises with x; this is the derivative of the cost -log σ(x)",
        shows="everywhere",
    ),
    Mistake(
        "sigmoid's derivative",
        lambda x, dy: (dy * (_s(x) * _s(-x)),),
        forgets="the logarithm, which divides by σ(x)",
        shows="everywhere but far on the right",
    ),
    Mistake(
        "1/σ(x)",
        lambda x, dy: (dy / _s(x),),
        forgets="the inner derivative σ(x) σ(-x)",
        shows="everywhere",
    ),
    Mistake(
        "1 - y",
        lambda x, dy: (dy * (1 - _y(x)),),
        forgets="that y is the logarithm of σ, and σ is e^y",
        shows="everywhere",
    ),
    Mistake(
        "e^y",
        lambda x, dy: (dy * torch.exp(_y(x)),),
        forgets="to take e^y from 1",
        shows="everywhere but at 0",
    ),
    Mistake(
        "derivative at y",
        lambda x, dy: (dy * _s(-_y(x)),),
        forgets="that σ wants the input, and not what has been through the activation",
        shows="everywhere but far on the left",
    ),
    Mistake(
        "identity on the left",
        lambda x, dy: (dy * torch.where(x < -2, 1.0, _s(-x)),),
        forgets="that the slope is 1 nowhere: a threshold, here of -2, is another function",
        shows="where x is a little below the threshold",
    ),
    Mistake(
        "cotangent dropped",
        lambda x, dy: (_s(-x) * torch.ones_like(dy),),
        forgets="dy",
        shows="wherever dy is not 1",
    ),
)
