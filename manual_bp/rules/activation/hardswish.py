"""Hard swish, x gated by three straight lines.

    y = 0              x ≤ −3
    y = x (x + 3)/6   −3 < x < 3
    y = x              x ≥ 3

that is x times the hard sigmoid (the page `hardsigmoid`).

Derivation.  The outer branches have slopes 0 and 1; the parabola between them (x² + 3x)/6 has (2x + 3)/6, of which x/6
comes from the gate's own slope and (x + 3)/6 from the factor x:

    dx = 0                 x ≤ −3
    dx = dy (2x + 3)/6    −3 < x < 3
    dx = dy                x ≥ 3

y has its least value, −3/8, at x = −3/2, where the derivative crosses 0; 2x + 3 is exact near it.  There are kinks at
−3, where the slopes are 0 and −½, and at 3, where they are 3/2 and 1: the derivative jumps above 1 and back.  This page
takes 0 and 1, those of the outer branches, as torch does.  The closed branch is chosen, not multiplied by 0: an
infinite cotangent that arrives there is dropped.

y(−∞) is NaN, the product of −∞ and 0, as in torch; the slopes at ±∞ are 0 and 1.

Source: Howard et al., "Searching for MobileNetV3", ICCV 2019, section 5.2.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Convention, Edge, Input, Mistake, Value, normal


class Residuals(NamedTuple):
    x: Float[Tensor, "*shape"]
    """x and not y: two x have the same y on either side of its least value."""


def forward(x: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Residuals]:
    return x * _gate(x), Residuals(x)


def backward(residuals: Residuals, dy: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"]]:
    x = residuals.x
    return (torch.where(x <= -3, 0, torch.where(x >= 3, dy, dy * ((2 * x + 3) / 6))),)


def terms(residuals: Residuals, dy: Float[Tensor, "*shape"]) -> dict[str, dict[str, Tensor]]:
    x = residuals.x
    return {"dx": {"direct": dy * _gate(x), "gate": torch.where((x > -3) & (x < 3), dy * (x / 6), 0)}}


def _gate(x: Tensor) -> Tensor:
    """The hard sigmoid."""
    return (torch.clamp(x, -3, 3) + 3) / 6


INPUTS = {"x": Input(normal(std=2.5))}


def _inner(x: Tensor, dy: Tensor) -> tuple[Tensor]:
    return (torch.where(x < -3, 0, torch.where(x > 3, dy, dy * ((2 * x + 3) / 6))),)


CONVENTIONS = {
    "ends": {
        "outer": Convention("at -3 and 3 the slopes of the outer branches, 0 and 1"),
        "inner": Convention("at -3 and 3 the slopes of the parabola, -1/2 and 3/2", gradient=_inner),
        "any": Convention("any valid subgradient", any_subgradient=True),
    }
}

EDGES = (
    Edge("kinks", {"x": [-3.0, 3.0]}),
    Edge("beside the kinks", {"x": [-2.9999998, -3.0000002, 2.9999998, 3.0000002]}),
    Edge("where the derivative crosses 0", {"x": [-1.5, -1.4999999, -1.5000001, -1.49, -1.51]}),
    Edge("zeros", {"x": [0.0, -0.0]}),
    Edge("subnormal inputs", {"x": [1e-310, -1e-310, 1e-40, -1e-40, 1e-7, -1e-7]}),
    Edge("far out", {"x": [6.0, -6.0, 1e30, -1e30]}),
    Edge(
        "infinite cotangent",
        {"x": [-4.0, -1.0, 2.0, 4.0], "dy": [float("inf"), float("inf"), float("-inf"), float("-inf")]},
    ),
    Edge("nothing passes", {"x": [-4.0, -5.0, -7.0]}),
    Edge("a single number", {"x": 0.5}),
    Edge("no number", sizes={"shape": (0, 3)}),
)


def _pieces(x: Tensor, dy: Tensor, inside: Tensor, low: float = -3.0, high: float = 3.0) -> tuple[Tensor]:
    return (torch.where(x <= low, 0, torch.where(x >= high, dy, dy * inside)),)


VALUES = (
    Value(
        "x clamp(x + 3, 0, 6) / 6",
        lambda x: x * torch.clamp(x + 3, 0, 6) / 6,
        forgets="that 6x overflows where x does not",
        shows="above a sixth of the largest number",
    ),
)

MISTAKES = (
    Mistake(
        "gate as a constant",
        lambda x, dy: (dy * _gate(x),),
        forgets="that the gate depends on x too: half of the product rule",
        shows="where |x| < 3, but at 0",
    ),
    Mistake(
        "gate's slope alone",
        lambda x, dy: (torch.where((x > -3) & (x < 3), dy * (x / 6), 0),),
        forgets="the direct path, whose factor is the gate: half of the product rule",
        shows="wherever x > -3",
    ),
    Mistake(
        "hard sigmoid's derivative",
        lambda x, dy: (torch.where((x > -3) & (x < 3), dy / 6, 0),),
        forgets="the factor x in front of the gate",
        shows="wherever x > -3",
    ),
    Mistake(
        "factor 2 forgotten",
        lambda x, dy: _pieces(x, dy, (x + 3) / 6),
        forgets="the 2 of the square: x is in the gate and before it",
        shows="where |x| < 3, but at 0",
    ),
    Mistake(
        "3 forgotten",
        lambda x, dy: _pieces(x, dy, x / 3),
        forgets="the 3 of x + 3",
        shows="wherever |x| < 3",
    ),
    Mistake(
        "1/6 forgotten",
        lambda x, dy: _pieces(x, dy, 2 * x + 3),
        forgets="the 1/6",
        shows="where |x| < 3, but at -3/2",
    ),
    Mistake(
        "sign of the 3",
        lambda x, dy: _pieces(x, dy, (2 * x - 3) / 6),
        forgets="that ReLU6 sees x + 3",
        shows="wherever |x| < 3",
    ),
    Mistake(
        "parabola above too",
        lambda x, dy: _pieces(x, dy, (2 * x + 3) / 6, high=float("inf")),
        forgets="the upper end, from which the gate is 1",
        shows="wherever x > 3",
    ),
    Mistake(
        "parabola below too",
        lambda x, dy: _pieces(x, dy, (2 * x + 3) / 6, low=float("-inf")),
        forgets="the lower end, from which the gate is 0",
        shows="wherever x < -3",
    ),
    Mistake(
        "0 above",
        lambda x, dy: (torch.where((x > -3) & (x < 3), dy * ((2 * x + 3) / 6), 0),),
        forgets="that y is x from 3 on: 0 is the hard sigmoid's slope",
        shows="wherever x ≥ 3",
    ),
    Mistake(
        "clamped to [0, 1]",
        lambda x, dy: (dy * ((2 * x + 3) / 6).clamp(0, 1),),
        forgets="that the slope is below 0 left of -3/2, and above 1 right of 3/2",
        shows="where 3/2 < |x| < 3",
    ),
    Mistake(
        "kinks to the parabola",
        lambda x, dy: _inner(x, dy),
        forgets="which slopes the convention takes at the kinks: these are valid, and not this page's nor torch's",
        shows="at x = -3 and 3",
    ),
    Mistake(
        "swish's derivative",
        lambda x, dy: (dy * (torch.sigmoid(x) * (1 + x * torch.sigmoid(-x))),),
        forgets="that it is the derivative of the function for which the parabola stands",
        shows="everywhere",
    ),
    Mistake(
        "between 0 and 6",
        lambda x, dy: _pieces(x, dy, (2 * x + 3) / 6, 0.0, 6.0),
        forgets="that ReLU6 sees x + 3",
        shows="where -3 < x ≤ 0 or 3 ≤ x < 6",
    ),
    Mistake(
        "gate recovered as y/x",
        lambda x, dy: (dy * (x * _gate(x) / x + torch.where((x > -3) & (x < 3), x / 6, 0)),),
        forgets="that y/x is 0/0 at 0",
        shows="at x = 0",
        seen="https://github.com/huggingface/candle/commit/1690ab45d2f6",
    ),
    Mistake(
        "multiplied",
        lambda x, dy: (dy * ((x > -3) * torch.where(x >= 3, 1.0, (2 * x + 3) / 6)),),
        forgets="that 0 times infinity is NaN",
        shows="where x ≤ -3 and dy is infinite",
    ),
    Mistake(
        "cotangent dropped",
        lambda x, dy: _pieces(x, torch.ones_like(dy), (2 * x + 3) / 6),
        forgets="dy",
        shows="wherever dy is not 1",
    ),
)
