"""Mish, x gated by the tanh of its softplus.

    y = x T(x),   T(x) = tanh(log(1 + eˣ))

Derivation.  With u = 1 + eˣ, tanh(log u) = (u − 1/u) / (u + 1/u) = (u² − 1) / (u² + 1), so that no logarithm is left.
Let z = (u² − 1)/2 = eˣ (1 + eˣ/2), with z' = eˣ (1 + eˣ); then u² + 1 = 2 (1 + z) and

    T = z / (1 + z)        T' = z' / (1 + z)²

    dx = dy (T + x T')
             direct gate

u² − 1 would cancel where eˣ is small, and 1 − T², which the chain rule through tanh asks for, where it is large:
neither is formed.  Let e be eˣ on the left and e⁻ˣ on the right, which never overflows.  With the left one's numerator
z (1 + z) + x z' in powers of e, of which those with x alone can cancel,

    T + x T' = e ( (x + 1) + e (x + 3/2) + e² + e³/4 ) / (1 + z)²             x < 0
    T + x T' = ( (1 + 2e) D + 4x e² (1 + e) ) / D²,   D = 1 + 2e (1 + e)      x ≥ 0

Where e has sunk below the smallest normal number x e may be above it: there e is taken in two halves, h = e^(x/2), of
which x meets the first while it is normal; so it is in y.

No kinks.  y has its least value, −0.309, at x = −1.192, where the derivative crosses 0.  y is −0 at −0, and the slope
at both zeros is 3/5.  At ±∞ the product of ∞ and 0 is NaN: the derivative at both, and y at −∞, as in torch.

Source: Misra, "Mish: A Self Regularized Non-Monotonic Activation Function", BMVC 2020, eq. 1 and section 3.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, Promise, Value, normal

LARGE = 10.3
"""Where forward goes over from eˣ to e⁻ˣ.  Both of its formulas hold on both sides; this is no number that somebody
would choose for an input, so that none lies on the border, where ball arithmetic cannot tell that the two have one
slope."""


class Residuals(NamedTuple):
    x: Float[Tensor, "*shape"]
    """x and not y: two x have the same y on either side of its least value, and y/x is NaN at 0."""


def forward(x: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Residuals]:
    h, e = torch.exp(x / 2), torch.exp(x)
    left = x * h * ((1 + e / 2) / (1 + e * (1 + e / 2))) * h
    e = torch.exp(-x)
    right = x * ((1 + 2 * e) / (1 + 2 * e * (1 + e)))
    return torch.where(x < LARGE, left, right), Residuals(x)


def backward(residuals: Residuals, dy: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"]]:
    x = residuals.x
    h = torch.exp(-torch.abs(x) / 2)
    e = h * h
    z = e * (1 + e / 2)
    left = h * ((x + 1 + e * (x + 1.5 + e * (1 + e / 4))) / (1 + z * (2 + z))) * h
    d = 1 + 2 * e * (1 + e)
    right = ((1 + 2 * e) * d + x * e * (4 * e * (1 + e))) / (d * d)
    return (dy * torch.where(x < 0, left, right),)


def terms(residuals: Residuals, dy: Float[Tensor, "*shape"]) -> dict[str, dict[str, Tensor]]:
    x = residuals.x
    return {"dx": {"direct": dy * _gate(x), "gate": dy * (x * _gate_slope(x))}}


def _gate(x: Tensor) -> Tensor:
    """T."""
    e = torch.exp(-torch.abs(x))
    z = e * (1 + e / 2)
    return torch.where(x < 0, z / (1 + z), (1 + 2 * e) / (1 + 2 * e * (1 + e)))


def _gate_slope(x: Tensor) -> Tensor:
    """T'."""
    e = torch.exp(-torch.abs(x))
    left = e * (1 + e) / (1 + e * (1 + e / 2)) ** 2
    return torch.where(x < 0, left, 4 * e * e * (1 + e) / (1 + 2 * e * (1 + e)) ** 2)


INPUTS = {"x": Input(normal(std=2.0))}

EDGES = (
    Edge("zeros", {"x": [0.0, -0.0]}),
    Edge("where the derivative crosses 0", {"x": [-1.1924312, -1.1924311, -1.192, -1.193, -1.15]}),
    Edge("upper saturation", {"x": [3.0, 9.0, 12.0, 17.0, 25.0, 37.0, 80.0, 800.0, 1e30]}),
    Edge("lower tail", {"x": [-9.0, -17.0, -37.0, -60.0, -80.0]}),
    Edge(
        "gradual underflow", {"x": [-87.0, -88.5, -90.0, -91.5, -95.0, -103.0, -106.0, -710.0, -715.0, -744.0, -752.0]}
    ),
    Edge("beyond underflow", {"x": [-120.0, -900.0, -1e30]}),
    Edge("where e²ˣ and eˣ overflow", {"x": [22.5, 44.5, 89.0, 178.0, 355.0, 710.0]}),
    Edge("beside the change of form", {"x": [10.2, 10.29, 10.31, 10.4]}),
    Edge("infinite cotangent", {"x": [-2.0, 2.0], "dy": [float("inf"), float("-inf")]}),
    Edge("subnormal inputs", {"x": [1e-310, -1e-310, 1e-40, -1e-40, 1e-7, -1e-7]}),
    Edge("a single number", {"x": 0.5}),
    Edge("no number", sizes={"shape": (0, 3)}),
)

PROMISES = {"dx": Promise("near -1.19 the terms T and x T' cancel", beside=lambda x: _gate(x))}


_s = torch.sigmoid


def _from_u(x: Tensor) -> Tensor:
    """T, as (u² − 1) / (u² + 1); above 20 it is 1 to the last digit of float64."""
    u2 = (1 + torch.exp(torch.clamp(x, max=20.0))) ** 2
    return (u2 - 1) / (u2 + 1)


def _y(x: Tensor) -> Tensor:
    return x * _gate(x)


VALUES = (
    Value(
        "x (u² - 1) / (u² + 1)",
        lambda x: x * _from_u(x),
        forgets="that u² is near 1 on the left, and the difference cancels; it is e^x (e^x + 2)",
        shows="for x < 0, growing; from -17 (float32) or -37 (float64) no digit is left",
    ),
)

MISTAKES = (
    Mistake(
        "T of u² - 1",
        lambda x, dy: (dy * (_from_u(x) + x * (1 - _from_u(x) ** 2) * _s(x)),),
        forgets="that u² is near 1 on the left, and the difference cancels; it is e^x (e^x + 2)",
        shows="for x < 0, growing; what is left of T + x T' is off by 1/x",
        loses_digits=True,
    ),
    Mistake(
        "gate recovered as y/x",
        lambda x, dy: (dy * (_y(x) / x + x * _gate_slope(x)),),
        forgets="that y/x is 0/0 at 0",
        shows="at x = 0",
        seen="https://github.com/huggingface/candle/commit/1690ab45d2f6",
    ),
    Mistake(
        "eˣ ω / δ² overflows",
        lambda x, dy: (
            dy
            * torch.exp(x)
            * (4 * (x + 1) + 4 * torch.exp(2 * x) + torch.exp(3 * x) + torch.exp(x) * (4 * x + 6))
            / (2 * torch.exp(x) + torch.exp(2 * x) + 2) ** 2,
        ),
        forgets="that e^3x overflows on the right, where infinity over infinity is NaN",
        shows="from x = 22 (float32) or 178 (float64), where (e^2x)² overflows",
    ),
    Mistake(
        "softplus by log(1 + eˣ) overflows",
        lambda x, dy: (
            dy
            * (
                torch.tanh(torch.log(1 + torch.exp(x)))
                + x / torch.cosh(torch.log(1 + torch.exp(x))) ** 2 * (torch.exp(x) / (1 + torch.exp(x)))
            ),
        ),
        forgets="that e^x overflows on the right, where infinity over infinity is NaN",
        shows="from x = 89 (float32) or 710 (float64)",
        seen="https://github.com/huggingface/candle/commit/3bbb88fcb463",
    ),
    Mistake(
        "gate as a constant",
        lambda x, dy: (dy * _gate(x),),
        forgets="that the gate depends on x too: half of the product rule",
        shows="everywhere but at 0 and far on the right",
    ),
    Mistake(
        "gate's slope alone",
        lambda x, dy: (dy * (x * _gate_slope(x)),),
        forgets="the direct path, whose factor is T: half of the product rule",
        shows="everywhere",
    ),
    Mistake(
        "x forgotten before the gate's slope",
        lambda x, dy: (dy * (_gate(x) + _gate_slope(x)),),
        forgets="the factor x of the gate's slope",
        shows="everywhere but at 1 and far on the right",
    ),
    Mistake(
        "sign of the gate's slope",
        lambda x, dy: (dy * (_gate(x) - x * _gate_slope(x)),),
        forgets="that the gate opens as x grows",
        shows="everywhere but at 0 and far on the right",
    ),
    Mistake(
        "softplus's slope forgotten",
        lambda x, dy: (dy * (_gate(x) + x / torch.cosh(torch.logaddexp(x, torch.zeros_like(x))) ** 2),),
        forgets="the inner derivative: that of softplus, σ(x)",
        shows="everywhere but at 0 and far on the right",
    ),
    Mistake(
        "softplus's slope from the softplus",
        lambda x, dy: (dy * (_gate(x) + x * (1 - _gate(x) ** 2) * _s(torch.logaddexp(x, torch.zeros_like(x)))),),
        forgets="that softplus's slope is σ of x, and not of softplus's own value",
        shows="everywhere but at 0 and far on the right",
    ),
    Mistake(
        "T(1 - T) for 1 - T²",
        lambda x, dy: (dy * (_gate(x) + x * _gate(x) * (1 - _gate(x)) * _s(x)),),
        forgets="that the gate is a tanh: y(1 - y) belongs to the sigmoid",
        shows="everywhere but at 0 and far on the right",
    ),
    Mistake(
        "1 - y² for 1 - T²",
        lambda x, dy: (dy * (_gate(x) + x * (1 - _y(x) ** 2) * _s(x)),),
        forgets="that the square of tanh is wanted, and y is x times it",
        shows="everywhere but at 0",
    ),
    Mistake(
        "SiLU's derivative",
        lambda x, dy: (dy * (_s(x) * (1 + x * _s(-x))),),
        forgets="which gate it is: this one is σ(x), without tanh and logarithm",
        shows="everywhere",
    ),
    Mistake(
        "derivative at y",
        lambda x, dy: (dy * (_gate(_y(x)) + _y(x) * _gate_slope(_y(x))),),
        forgets="that what it was given has already been through the activation",
        shows="everywhere but at 0 and far on the right",
    ),
    Mistake(
        "1 from a threshold of 2 on",
        lambda x, dy: (dy * torch.where(x > 2, 1.0, _gate(x) + x * _gate_slope(x)),),
        forgets="that a threshold, here of 2, is another function: the slope is above 1 there",
        shows="where x is a little above the threshold",
    ),
    Mistake(
        "cotangent dropped",
        lambda x, dy: ((_gate(x) + x * _gate_slope(x)) * torch.ones_like(dy),),
        forgets="dy",
        shows="wherever dy is not 1",
    ),
)
