"""SELU, the self-normalising exponential linear unit: ELU, scaled.

    y = λ x               x > 0
    y = λ α (eˣ − 1)      x ≤ 0

with the two constants for which y has mean 0 and variance 1 if x is normally distributed with mean 0 and variance 1.
With c = erfc(1/√2),

    α = √(2/π) / (1 − c √e)                                                  = 1.67326...
    λ = (1 − c √e) √(2π / (2 erfc(√2) e² + π c² e − 2 (2 + π) c √e + π + 2))     = 1.05070...

Derivation.  Each branch is that of ELU (the page `elu`) with alpha = α, times λ:

    dx = dy λ              x > 0
    dx = dy λ α eˣ         x ≤ 0

At 0 the slopes are λ and λ α = 1.758; this page takes λ α there, as torch does.

On the left λ α eˣ = y + λ α, which saves an exponential and loses digits: y tends to −λ α, and the sum cancels.  It is
neither y + α nor λ (y + α), as y has been scaled.  Forward needs expm1 for the same reason at the other end: near 0,
eˣ − 1 would cancel.

y(−∞) = −λ α with slope 0; y(∞) = ∞ with slope λ.

Source: Klambauer, Unterthiner, Mayr & Hochreiter, "Self-Normalizing Neural Networks", NeurIPS 2017, eq. 2 and 14.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, normal
from manual_bp.rules.activation._exponential import times_exp

ALPHA = 1.6732632423543772848170429916717
SCALE = 1.0507009873554804934193349852946
"""λ.  Both to 32 digits, as the paper's own program has them; as numbers of float64 they are torch's."""


class Residuals(NamedTuple):
    x: Float[Tensor, "*shape"]
    """x and not y: y + λ α has lost the digits of λ α eˣ."""


def forward(x: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Residuals]:
    return torch.where(x <= 0, SCALE * ALPHA * torch.expm1(x), SCALE * x), Residuals(x)


def backward(residuals: Residuals, dy: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"]]:
    x = residuals.x
    return (dy * torch.where(x > 0, SCALE, times_exp(SCALE * ALPHA, x)),)


INPUTS = {"x": Input(normal())}

EDGES = (
    Edge("kink", {"x": [0.0, -0.0]}),
    Edge("beside the kink", {"x": [1e-310, -1e-310, 1e-40, -1e-40, 6e-8, -6e-8]}),
    Edge("saturation", {"x": [-9.0, -17.0, -37.0, -80.0]}),
    Edge("gradual underflow", {"x": [-87.5, -88.0, -95.0, -103.0, -104.2, -708.5, -720.0, -740.0, -745.5, -800.0]}),
    Edge("infinite cotangent", {"x": [-1.0, 2.0], "dy": [float("inf"), float("-inf")]}),
    Edge("infinities", {"x": [float("inf"), float("-inf")]}),
    Edge("overflowing exponential in the other branch", {"x": [100.0, 800.0]}),
    Edge("a single number", {"x": -0.5}),
    Edge("no number", sizes={"shape": (0, 3)}),
)


def _y(x: Tensor) -> Tensor:
    return forward(x)[0]


def _gradient(x: Tensor, dy: Tensor, right: float = SCALE, left: float = SCALE * ALPHA) -> tuple[Tensor]:
    return (dy * torch.where(x > 0, right, left * torch.exp(x)),)


MISTAKES = (
    Mistake(
        "y + λα",
        lambda x, dy: (dy * torch.where(x > 0, SCALE, _y(x) + SCALE * ALPHA),),
        forgets="that y + λα cancels once y is near -λα",
        shows="growing with -x",
        seen="https://github.com/jax-ml/jax/commit/893b483e3f13",
        loses_digits=True,
    ),
    Mistake(
        "λ(y + α)",
        lambda x, dy: (dy * torch.where(x > 0, SCALE, SCALE * (_y(x) + ALPHA)),),
        forgets="that y has been scaled already",
        shows="wherever x < 0",
        seen="https://github.com/tiny-dnn/tiny-dnn/commit/93b1fbae7807",
    ),
    Mistake(
        "y + α",
        lambda x, dy: (dy * torch.where(x > 0, SCALE, _y(x) + ALPHA),),
        forgets="the λ of λα",
        shows="wherever x ≤ 0",
    ),
    Mistake(
        "ELU's derivative",
        lambda x, dy: _gradient(x, dy, 1.0, ALPHA),
        forgets="λ",
        shows="everywhere",
    ),
    Mistake(
        "ELU of alpha 1",
        lambda x, dy: _gradient(x, dy, 1.0, 1.0),
        forgets="both constants",
        shows="everywhere",
    ),
    Mistake(
        "λ missing on the left",
        lambda x, dy: _gradient(x, dy, left=ALPHA),
        forgets="that λ multiplies both branches",
        shows="wherever x ≤ 0",
    ),
    Mistake(
        "λ missing on the right",
        lambda x, dy: _gradient(x, dy, right=1.0),
        forgets="that λ multiplies both branches",
        shows="wherever x > 0",
    ),
    Mistake(
        "α missing on the left",
        lambda x, dy: _gradient(x, dy, left=SCALE),
        forgets="α",
        shows="wherever x ≤ 0",
    ),
    Mistake(
        "α and λ exchanged on the right",
        lambda x, dy: _gradient(x, dy, right=ALPHA),
        forgets="which constant is which",
        shows="wherever x > 0",
    ),
    Mistake(
        "y alone",
        lambda x, dy: (dy * torch.where(x > 0, SCALE, _y(x)),),
        forgets="the + λα",
        shows="wherever x ≤ 0",
    ),
    Mistake(
        "kink passes",
        lambda x, dy: (dy * torch.where(x >= 0, SCALE, SCALE * ALPHA * torch.exp(x)),),
        forgets="which slope the convention takes at 0: this one is valid, and not this page's nor torch's",
        shows="at x = 0",
    ),
    Mistake(
        "mask of the cotangent",
        lambda x, dy: (dy * torch.where(dy > 0, SCALE, SCALE * ALPHA * torch.exp(x)),),
        forgets="that the sign of x chooses the branch, not the sign of dy",
        shows="where the signs differ",
        seen="https://github.com/Oneflow-Inc/oneflow/commit/6946b483560b",
    ),
    Mistake(
        "masked by multiplication",
        lambda x, dy: (dy * ((x > 0) * SCALE + (x <= 0) * (SCALE * ALPHA * torch.exp(x))),),
        forgets="that 0 times an overflowed exponential is NaN",
        shows="where x ≥ 89 (float32) or x ≥ 710 (float64)",
    ),
    Mistake(
        "cotangent dropped",
        lambda x, dy: _gradient(x, torch.ones_like(dy)),
        forgets="dy",
        shows="wherever dy is not 1",
    ),
)
