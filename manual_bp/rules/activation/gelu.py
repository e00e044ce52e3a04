"""GELU, the Gaussian error linear unit.

    y = x Φ(x),   Φ(x) = ∫ φ from −∞ to x,   φ(x) = e^(−x²/2) / √(2π)          approximate = "none"
    y = x σ(t),   t = √(8/π) (x + 0.044715 x³),   σ(t) = 1 / (1 + e⁻ᵗ)          approximate = "tanh"

The second stands for the first and is another function, up to 0.0005 off; it is mostly written x/2 (1 + tanh(t/2)),
which is the same, since ½ (1 + tanh(t/2)) = σ(t).

Derivation.  By the product rule, where Φ' = φ, and σ' = σ(t) σ(−t) with t' = √(8/π) (1 + 3 · 0.044715 x²):

    dx = dy (Φ(x) + x φ(x))
    dx = dy (σ(t) + x t' σ(t) σ(−t))
             direct   gate

Both gates sink to 0 on the left, and fast: written as (1 + erf(x/√2)) / 2 or (1 + tanh(t/2)) / 2 they are differences
of numbers near 1, and from x = −5.5 (float32) or −8.3 (float64) on no digit is left.  Φ(x) = erfc(−x/√2) / 2 keeps
them; so do σ(t) and φ(x) as `_gelu` computes them, down to gradual underflow.

No kinks.  y has its least value, −0.170, near x = −0.752, where the derivative crosses 0.  The slope at both zeros is
½; at ±∞ it is 1 and 0, where torch has NaN.  y(−∞) is NaN, the product of ∞ and 0, as in torch.

Source: Hendrycks & Gimpel, "Gaussian Error Linear Units (GELUs)" (2016), section 2.
"""

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, Promise, Value, normal
from manual_bp.rules.activation._gelu import (
    CUBIC,
    SLOPE,
    cdf,
    cdf_from_1,
    density,
    dt,
    gelu,
    gelu_from_1,
    gelu_slope,
    magnified,
    t,
)


class Residuals(NamedTuple):
    x: Float[Tensor, "*shape"]
    """x and not y: two x have the same y on either side of its least value, and y/x is NaN at 0."""
    approximate: str


def forward(
    x: Float[Tensor, "*shape"], *, approximate: Literal["none", "tanh"] = "none"
) -> tuple[Float[Tensor, "*shape"], Residuals]:
    return gelu(x, approximate), Residuals(x, approximate)


def backward(residuals: Residuals, dy: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"]]:
    x, approximate = residuals
    return (dy * gelu_slope(x, approximate),)


def terms(residuals: Residuals, dy: Float[Tensor, "*shape"]) -> dict[str, dict[str, Tensor]]:
    x, approximate = residuals
    return {"dx": {"direct": dy * cdf(x, approximate), "gate": dy * (x * density(x, approximate))}}


INPUTS = {"x": Input(normal(std=2.0))}

EDGES = (
    Edge("zeros", {"x": [0.0, -0.0]}),
    Edge("zeros, tanh", {"x": [0.0, -0.0], "approximate": "tanh"}),
    Edge("where the derivative crosses 0", {"x": [-0.7517916, -0.7517915, -0.752, -0.75, -0.8]}),
    Edge("where the derivative crosses 0, tanh", {"x": [-0.752461, -0.752462, -0.752, -0.75], "approximate": "tanh"}),
    Edge("upper saturation", {"x": [3.0, 5.5, 8.5, 13.0, 40.0, 100.0, 6e4]}),
    Edge("upper saturation, tanh", {"x": [3.0, 5.5, 8.5, 13.0, 40.0, 100.0], "approximate": "tanh"}),
    Edge("lower tail", {"x": [-3.0, -5.0, -5.5, -6.0, -8.5, -10.0, -12.0]}),
    Edge("lower tail, tanh", {"x": [-3.0, -5.0, -5.5, -6.0, -8.5, -9.5], "approximate": "tanh"}),
    Edge("gradual underflow", {"x": [-13.0, -13.2, -13.5, -14.0, -14.4, -37.5, -37.8, -38.4, -38.6]}),
    Edge("gradual underflow, tanh", {"x": [-9.9, -10.1, -10.3, -10.6, -21.2, -21.4, -21.7], "approximate": "tanh"}),
    Edge("beyond underflow", {"x": [-15.0, -39.0, -41.0, -100.0, -6e4]}),
    Edge("beyond underflow, tanh", {"x": [-15.0, -39.0, -41.0, -100.0], "approximate": "tanh"}),
    Edge("infinite cotangent", {"x": [-1.0, 2.0], "dy": [float("inf"), float("-inf")]}),
    Edge("subnormal inputs", {"x": [1e-310, -1e-310, 1e-40, -1e-40, 1e-7, -1e-7]}),
    Edge("tanh", {"approximate": "tanh"}),
)


PROMISES = {
    "y": Promise(
        "in the lower tail a relative error of x/√2 is magnified x² times, one of t |t| times; and where the gate is "
        "subnormal x brings the digits to light that it has lost",
        more=magnified,
        beside=lambda x, approximate: torch.finfo(torch.float32).tiny * x.abs(),
    ),
    "dx": Promise(
        'its terms cancel near -0.752; and of the form "tanh" a relative error of t is magnified |t| times in the '
        "lower tail",
        more=lambda x, approximate: magnified(x, approximate) if approximate == "tanh" else 0.0,
        beside=lambda x, approximate: (x * density(x, approximate)).abs().nan_to_num(nan=0.0),
    ),
}


def _density_from_1(x: Tensor, approximate: str) -> Tensor:
    """φ, or t'/4 (1 − tanh²(t/2))."""
    return dt(x) / 4 * (1 - torch.tanh(t(x) / 2) ** 2) if approximate == "tanh" else density(x, approximate)


def _slope(x: Tensor, approximate: str) -> Tensor:
    return cdf(x, approximate) + x * density(x, approximate)


VALUES = (
    Value(
        "½ x (1 + erf) or ½ x (1 + tanh)",
        gelu_from_1,
        forgets="that erf and tanh are near -1 in the lower tail, and the sum with 1 cancels",
        shows="for x < 0, growing; from -5.5 (float32) or -8.3 (float64) no digit is left; at the largest x twice x "
        "may overflow",
        seen="https://github.com/pytorch/pytorch/issues/187806",
    ),
)

MISTAKES = (
    Mistake(
        "1 + erf or 1 + tanh",
        lambda x, dy, approximate: (dy * (cdf_from_1(x, approximate) + x * _density_from_1(x, approximate)),),
        forgets="that erf and tanh are near -1 in the lower tail, and the sum with 1 cancels",
        shows="for x < 0, growing; what is left of Φ + xφ is off by 1/x²",
        seen="https://github.com/tenstorrent/tt-metal/issues/38643",
        loses_digits=True,
    ),
    Mistake(
        "gate recovered as y/x",
        lambda x, dy, approximate: (dy * (x * cdf(x, approximate) / x + x * density(x, approximate)),),
        forgets="that y/x is 0/0 at 0",
        shows="at x = 0",
        seen="https://github.com/apache/mxnet/commit/22377edef3ac",
    ),
    Mistake(
        "tanh form for the erf form",
        lambda x, dy, approximate: (dy * _slope(x, "tanh"),),
        forgets="that the approximation is another function than the one that forward computed",
        shows='everywhere but at 0 and in saturation, if approximate is "none"',
    ),
    Mistake(
        "approximate ignored",
        lambda x, dy, approximate: (dy * _slope(x, "none"),),
        forgets="that forward computed the approximation",
        shows='everywhere but at 0 and in saturation, if approximate is "tanh"',
    ),
    Mistake(
        "gate as a constant",
        lambda x, dy, approximate: (dy * cdf(x, approximate),),
        forgets="that the gate depends on x too: half of the product rule",
        shows="everywhere but at 0",
    ),
    Mistake(
        "gate's slope alone",
        lambda x, dy, approximate: (dy * (x * density(x, approximate)),),
        forgets="the direct path, whose factor is the gate: half of the product rule",
        shows="everywhere",
    ),
    Mistake(
        "x missing before the density",
        lambda x, dy, approximate: (dy * (cdf(x, approximate) + density(x, approximate)),),
        forgets="the factor x of the gate's slope",
        shows="everywhere but at 1",
    ),
    Mistake(
        "sign of the density",
        lambda x, dy, approximate: (dy * (cdf(x, approximate) - x * density(x, approximate)),),
        forgets="the sign of the gate's slope",
        shows="everywhere but at 0",
    ),
    Mistake(
        "½ missing before the gate",
        lambda x, dy, approximate: (dy * (2 * cdf(x, approximate) + x * density(x, approximate)),),
        forgets="the ½ of ½ (1 + erf)",
        shows="everywhere",
    ),
    Mistake(
        "½ missing before the density",
        lambda x, dy, approximate: (dy * (cdf(x, approximate) + 2 * x * density(x, approximate)),),
        forgets="the ½ of ½ (1 + erf)",
        shows="everywhere but at 0",
    ),
    Mistake(
        "½ twice before the density",
        lambda x, dy, approximate: (dy * (cdf(x, approximate) + x * density(x, approximate) / 2),),
        forgets="that the ½ is in φ already",
        shows="everywhere but at 0",
    ),
    Mistake(
        "inner derivative forgotten",
        lambda x, dy, approximate: (
            dy
            * (
                cdf(x, approximate)
                + x * density(x, approximate) * (2 / dt(x) if approximate == "tanh" else math.sqrt(2))
            ),
        ),
        forgets="the derivative of what stands inside erf or tanh",
        shows="everywhere but at 0",
    ),
    Mistake(
        "½ missing in the exponent",
        lambda x, dy, approximate: (dy * (cdf(x, approximate) + x * density(math.sqrt(2) * x, approximate)),),
        forgets="that φ holds e^(-x²/2): here its argument is √2 x",
        shows="everywhere but at 0",
    ),
    Mistake(
        "3 missing in t'",
        lambda x, dy, approximate: (
            dy
            * (
                cdf(x, approximate)
                + x * density(x, approximate) * ((1 + CUBIC * x * x) * SLOPE / dt(x) if approximate == "tanh" else 1.0)
            ),
        ),
        forgets="the 3 of the derivative of x³",
        shows='everywhere but near 0, if approximate is "tanh"',
    ),
    Mistake(
        "σ(1.702 x)",
        lambda x, dy, approximate: (dy * (torch.sigmoid(1.702 * x) * (1 + 1.702 * x * torch.sigmoid(-1.702 * x))),),
        forgets="that the sigmoid of 1.702 x is a third function, up to 0.02 off",
        shows="everywhere but at 0",
    ),
    Mistake(
        "derivative at y",
        lambda x, dy, approximate: (dy * _slope(x * cdf(x, approximate), approximate),),
        forgets="that what it was given has already been through the activation",
        shows="everywhere but at 0 and far on the right",
    ),
    Mistake(
        "cotangent dropped",
        lambda x, dy, approximate: (_slope(x, approximate) * torch.ones_like(dy),),
        forgets="dy",
        shows="wherever dy is not 1",
    ),
)
