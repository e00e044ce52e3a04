"""Squared ReLU.

    y = x²   x > 0
    y = 0    x ≤ 0

Derivation.  y = r(x)² with r = max(x, 0), so that dy/dx = 2 r r', where r' is 1 on the right and r is 0 on the left:

    dx = dy 2x   x > 0
    dx = 0       x ≤ 0

The slopes 2x and 0 meet at 0: ReLU's kink is gone, and there is no choice to be made.  The second derivative jumps
there.  The closed branch is chosen, not multiplied by 0: an infinite cotangent that arrives there is dropped.

x² overflows from |x| = 1.8e19 in float32 (256 in float16), where the slope is still a number; x = ∞ has the slope ∞.

Source: So et al., "Primer: Searching for Efficient Transformers for Language Modeling", NeurIPS 2021, section 3.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, normal


class Residuals(NamedTuple):
    x: Float[Tensor, "*shape"]
    """x and not y: its root would lose digits where x² underflows, and x is alive anyway."""


def forward(x: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Residuals]:
    return torch.where(x <= 0, 0, x * x), Residuals(x)


def backward(residuals: Residuals, dy: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"]]:
    x = residuals.x
    return (torch.where(x > 0, dy * (2 * x), 0),)


INPUTS = {"x": Input(normal())}

EDGES = (
    Edge("zeros", {"x": [0.0, -0.0]}),
    Edge("beside zero", {"x": [1e-310, -1e-310, 1e-40, -1e-40, 6e-8, -6e-8]}),
    Edge("squares that underflow", {"x": [1e-20, -1e-20, 3e-23, 1e-160, 1e-170]}),
    Edge("squares that overflow", {"x": [1e19, 2e19, 1e30, -1e30]}),
    Edge("infinities", {"x": [float("inf"), float("-inf")]}),
    Edge("infinite cotangent", {"x": [-1.0, 2.0, -0.5], "dy": [float("inf"), float("-inf"), float("-inf")]}),
    Edge("nothing passes", {"x": [-1.0, -2.0, -3.0]}),
    Edge("slope of 1", {"x": [0.5, 0.5]}),
    Edge("a single number", {"x": 0.5}),
    Edge("no number", sizes={"shape": (0, 3)}),
)


def _r(x: Tensor) -> Tensor:
    return torch.clamp(x, min=0)


MISTAKES = (
    Mistake(
        "factor 2",
        lambda x, dy: (dy * _r(x),),
        forgets="the 2 of the square",
        shows="wherever x > 0",
    ),
    Mistake(
        "square as a square on both sides",
        lambda x, dy: (dy * (2 * x),),
        forgets="the mask",
        shows="wherever x < 0",
    ),
    Mistake(
        "absolute value",
        lambda x, dy: (dy * (2 * torch.abs(x)),),
        forgets="that the left branch is 0, and not the mirrored right one",
        shows="wherever x < 0",
    ),
    Mistake(
        "ReLU's derivative",
        lambda x, dy: (torch.where(x > 0, dy, 0),),
        forgets="the outer derivative, 2 max(x, 0)",
        shows="where x > 0, but at ½",
    ),
    Mistake(
        "2 without x",
        lambda x, dy: (torch.where(x > 0, 2 * dy, 0),),
        forgets="that the outer derivative is 2 max(x, 0), and not 2",
        shows="where x > 0, but at 1",
    ),
    Mistake(
        "2y",
        lambda x, dy: (dy * (2 * _r(x) ** 2),),
        forgets="that it was given x² where max(x, 0) is due",
        shows="where x > 0, but at 1",
    ),
    Mistake(
        "square of the derivative",
        lambda x, dy: (dy * (2 * _r(x)) ** 2,),
        forgets="that the derivative of a square is no square",
        shows="where x > 0, but at ½",
    ),
    Mistake(
        "2x everywhere but at 0",
        lambda x, dy: (torch.where(x == 0, dy, dy * (2 * _r(x))),),
        forgets="that the slope at 0 is 0 from both sides",
        shows="at x = 0",
    ),
    Mistake(
        "multiplied",
        lambda x, dy: (dy * (2 * _r(x)),),
        forgets="that 0 times infinity is NaN",
        shows="where x ≤ 0 and dy is infinite",
    ),
    Mistake(
        "root of y",
        lambda x, dy: (dy * (2 * torch.sqrt(_r(x) ** 2)),),
        forgets="that y has underflowed, or overflowed, where x has not",
        shows="where x² is below the smallest normal number or above the largest",
    ),
    Mistake(
        "y over x",
        lambda x, dy: (dy * (2 * _r(x) ** 2 / x),),
        forgets="that y/x is 0/0 at 0",
        shows="at x = 0",
        seen="https://github.com/huggingface/candle/commit/1690ab45d2f6",
    ),
    Mistake(
        "mask of the cotangent",
        lambda x, dy: (torch.where(dy > 0, dy * (2 * x), 0),),
        forgets="that the sign of x opens the gate, not the sign of dy",
        shows="where the signs differ",
        seen="https://github.com/Oneflow-Inc/oneflow/commit/6946b483560b",
    ),
    Mistake(
        "cotangent dropped",
        lambda x, dy: (2 * _r(x) * torch.ones_like(dy),),
        forgets="dy",
        shows="wherever dy is not 1",
    ),
)
