"""ELU, the exponential linear unit.

    y = x               x > 0
    y = alpha (eˣ − 1)   x ≤ 0

Derivation.  The right branch has slope 1.  On the left d/dx alpha (eˣ − 1) = alpha eˣ:

    dx = dy              x > 0
    dx = dy alpha eˣ     x ≤ 0

alpha eˣ has the digits that a large alpha brings to light where eˣ alone has sunk below the smallest normal number
(`_exponential`).

At 0 the slopes are 1 and alpha; they meet only for alpha = 1.  This page takes alpha there, as torch does.  Any real
alpha is allowed; for a negative one y > 0 on the left, so the branch cannot be read off y.

On the left alpha eˣ = y + alpha, which saves an exponential and loses digits: y tends to −alpha, and the sum cancels.
Forward needs expm1 for the same reason at the other end: near 0, eˣ − 1 would cancel.

Source: Clevert, Unterthiner & Hochreiter, "Fast and Accurate Deep Network Learning by Exponential Linear Units", ICLR
2016, eq. 15.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, normal
from manual_bp.rules.activation._exponential import times_exp


class Residuals(NamedTuple):
    x: Float[Tensor, "*shape"]
    """x and not y: y + alpha has lost the digits of alpha eˣ, and y > 0 on both sides if alpha < 0."""
    alpha: float


def forward(x: Float[Tensor, "*shape"], *, alpha: float = 1.0) -> tuple[Float[Tensor, "*shape"], Residuals]:
    y = torch.where(x <= 0, alpha * torch.expm1(x), x)
    return y, Residuals(x, alpha)


def backward(residuals: Residuals, dy: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"]]:
    x, alpha = residuals
    return (torch.where(x > 0, dy, dy * times_exp(alpha, x)),)


INPUTS = {"x": Input(normal())}
USUAL = {"alpha": (0.1, 0.5, 1.6733)}

EDGES = (
    Edge("kink", {"x": [0.0, -0.0], "alpha": 2.0}),
    Edge("beside the kink", {"x": [1e-310, -1e-310, 1e-40, -1e-40, 6e-8, -6e-8]}),
    Edge("saturation", {"x": [-9.0, -17.0, -37.0, -80.0]}),
    Edge("gradual underflow", {"x": [-88.0, -95.0, -720.0, -740.0, -800.0]}),
    Edge("infinite cotangent", {"x": [-1.0, 2.0], "dy": [float("inf"), float("-inf")]}),
    Edge("infinities", {"x": [float("inf"), float("-inf")]}),
    Edge("overflowing exponential in the other branch", {"x": [100.0, 800.0]}),
    Edge("alpha above 1", {"alpha": 2}),
    Edge("large alpha", {"x": [-5.0, -60.0, -92.0, -103.0, -110.0, -700.0, -718.0], "alpha": 1e6}),
    Edge("negative alpha", {"alpha": -0.5}),
    Edge("alpha 0", {"alpha": 0.0}),
)


def _y(x: Tensor, alpha: float) -> Tensor:
    return forward(x, alpha=alpha)[0]


MISTAKES = (
    Mistake(
        "y + alpha",
        lambda x, dy, alpha: (torch.where(x > 0, dy, dy * (_y(x, alpha) + alpha)),),
        forgets="that y + alpha cancels once y is near -alpha",
        shows="growing with -x",
        seen="https://github.com/tiny-dnn/tiny-dnn/blob/01cd3fe0597db50780698b1e90f09af5df37cb5f/tiny_dnn/activations/elu_layer.h",
        loses_digits=True,
    ),
    Mistake(
        "alpha forgotten",
        lambda x, dy, alpha: (torch.where(x > 0, dy, dy * torch.exp(x)),),
        forgets="alpha",
        shows="where x ≤ 0 and alpha is not 1",
    ),
    Mistake(
        "y + 1",
        lambda x, dy, alpha: (torch.where(x > 0, dy, dy * (_y(x, alpha) + 1)),),
        forgets="that eˣ is y + 1 only when alpha is 1",
        shows="where x ≤ 0 and alpha is not 1",
    ),
    Mistake(
        "y alone",
        lambda x, dy, alpha: (torch.where(x > 0, dy, dy * _y(x, alpha)),),
        forgets="the + alpha",
        shows="wherever x ≤ 0",
    ),
    Mistake(
        "branch read off y",
        lambda x, dy, alpha: (torch.where(_y(x, alpha) > 0, dy, dy * (alpha * torch.exp(x))),),
        forgets="that y > 0 on the left when alpha is negative",
        shows="where x < 0 and alpha is negative",
        seen="https://github.com/pytorch/pytorch/issues/47671",
    ),
    Mistake(
        "kink passes",
        lambda x, dy, alpha: (torch.where(x >= 0, dy, dy * (alpha * torch.exp(x))),),
        forgets="which slope the convention takes at 0: this one is valid, and not this page's nor torch's",
        shows="at x = 0 if alpha is not 1",
        seen="https://github.com/eriklindernoren/ML-From-Scratch/blob/2067d12c384524adb993217e0e3c661d289dc6f2/mlfromscratch/deep_learning/activation_functions.py",
    ),
    Mistake(
        "masked by multiplication",
        lambda x, dy, alpha: (dy * ((x > 0) + (x <= 0) * (alpha * torch.exp(x))),),
        forgets="that 0 times an overflowed exponential is NaN",
        shows="where x ≥ 89 (float32) or x ≥ 710 (float64)",
        seen="https://github.com/huggingface/candle/pull/2328",
    ),
    Mistake(
        "cotangent dropped",
        lambda x, dy, alpha: (torch.where(x > 0, torch.ones_like(dy), alpha * torch.exp(x)),),
        forgets="dy",
        shows="wherever dy is not 1",
    ),
)
