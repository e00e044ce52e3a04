"""Hard sigmoid, three straight lines in place of the logistic function.

    y = 0             x ≤ −3
    y = (x + 3)/6    −3 < x < 3
    y = 1             x ≥ 3

Derivation.  Each branch is linear:

    dx = dy/6    −3 < x < 3
    dx = 0        elsewhere

The kinks at −3 and 3 have every slope in [0, 1/6] as a subgradient; this page takes 0 at both, as torch does.  The
closed branches are chosen, not multiplied by 0: an infinite cotangent that arrives there is dropped.

Others have other lines under this name: (x/5 + ½) cut to [0, 1] in older Keras, ONNX and Paddle.  The middle one here
has the slope 1/6, while the logistic function's own at 0 is 1/4.

Source: Howard et al., "Searching for MobileNetV3", ICCV 2019, section 5.2.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, normal


class Residuals(NamedTuple):
    inside: Bool[Tensor, "*shape"]
    """Whether x lies between the kinks: all that backward asks, in a byte where x or y would take four."""


def forward(x: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Residuals]:
    return (torch.clamp(x, -3, 3) + 3) / 6, Residuals((x > -3) & (x < 3))


def backward(residuals: Residuals, dy: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"]]:
    return (torch.where(residuals.inside, dy / 6, 0),)


INPUTS = {"x": Input(normal(std=1.5))}

EDGES = (
    Edge("kinks", {"x": [-3.0, 3.0]}),
    Edge("beside the kinks", {"x": [-2.9999998, -3.0000002, 2.9999998, 3.0000002]}),
    Edge("zeros", {"x": [0.0, -0.0]}),
    Edge("subnormal inputs", {"x": [1e-310, -1e-310, 1e-40, -1e-40, 1e-7, -1e-7]}),
    Edge("far out", {"x": [6.0, -6.0, 1e30, -1e30]}),
    Edge("infinities", {"x": [float("inf"), float("-inf")]}),
    Edge(
        "infinite cotangent",
        {"x": [-4.0, -1.0, 2.0, 4.0], "dy": [float("inf"), float("inf"), float("-inf"), float("-inf")]},
    ),
    Edge("nothing passes", {"x": [-4.0, -5.0, 7.0]}),
    Edge("a single number", {"x": 0.5}),
    Edge("no number", sizes={"shape": (0, 3)}),
)


def _between(x: Tensor, dy: Tensor, low: float = -3.0, high: float = 3.0, slope: float = 1 / 6) -> tuple[Tensor]:
    return (torch.where((x > low) & (x < high), dy * slope, 0),)


MISTAKES = (
    Mistake(
        "1/6 forgotten",
        lambda x, dy: _between(x, dy, slope=1.0),
        forgets="the 1/6: this is the derivative of a clamp",
        shows="wherever |x| < 3",
    ),
    Mistake(
        "slope 1/5 between -2.5 and 2.5",
        lambda x, dy: _between(x, dy, -2.5, 2.5, 0.2),
        forgets="which three lines are meant: these are the ones of older Keras and of ONNX",
        shows="wherever |x| < 3",
    ),
    Mistake(
        "slope 1/4",
        lambda x, dy: _between(x, dy, slope=0.25),
        forgets="that the middle line is not the tangent of the logistic function",
        shows="wherever |x| < 3",
    ),
    Mistake(
        "slope 1/3",
        lambda x, dy: _between(x, dy, slope=1 / 3),
        forgets="that the line rises by 1 over 6, and not over 3",
        shows="wherever |x| < 3",
    ),
    Mistake(
        "between 0 and 6",
        lambda x, dy: _between(x, dy, 0.0, 6.0),
        forgets="that ReLU6 sees x + 3",
        shows="where -3 < x ≤ 0 or 3 ≤ x < 6",
    ),
    Mistake(
        "between 0 and 1",
        lambda x, dy: _between(x, dy, 0.0, 1.0),
        forgets="that the mask is one of the input: the output it is that lies between 0 and 1",
        shows="where 1 ≤ |x| < 3 or -3 < x ≤ 0",
    ),
    Mistake(
        "open above",
        lambda x, dy: (torch.where(x > -3, dy / 6, 0),),
        forgets="the upper end",
        shows="wherever x ≥ 3",
    ),
    Mistake(
        "open below",
        lambda x, dy: (torch.where(x < 3, dy / 6, 0),),
        forgets="the lower end",
        shows="wherever x ≤ -3",
    ),
    Mistake(
        "line everywhere",
        lambda x, dy: (dy / 6,),
        forgets="both ends",
        shows="wherever |x| ≥ 3",
    ),
    Mistake(
        "kinks pass",
        lambda x, dy: (torch.where((x >= -3) & (x <= 3), dy / 6, 0),),
        forgets="which slope the convention takes at the kinks: this one is valid, and not this page's nor torch's",
        shows="at x = -3 and 3",
    ),
    Mistake(
        "sigmoid's derivative",
        lambda x, dy: (dy * (torch.sigmoid(x) * torch.sigmoid(-x)),),
        forgets="that it is the derivative of the function for which the lines stand",
        shows="everywhere",
    ),
    Mistake(
        "y(1 - y)",
        lambda x, dy: (dy * (((x + 3) / 6).clamp(0, 1) * (1 - ((x + 3) / 6).clamp(0, 1))),),
        forgets="that sigmoid's shortcut holds for sigmoid's y",
        shows="wherever |x| < 3",
    ),
    Mistake(
        "mask of the cotangent",
        lambda x, dy: (torch.where(torch.abs(dy) < 3, dy / 6, 0),),
        forgets="that x opens the gate, not dy",
        shows="where |x| ≥ 3, or where |dy| ≥ 3",
        seen="https://github.com/Oneflow-Inc/oneflow/commit/6946b483560b",
    ),
    Mistake(
        "multiplied",
        lambda x, dy: (dy * ((x > -3) & (x < 3)) / 6,),
        forgets="that 0 times infinity is NaN",
        shows="where |x| ≥ 3 and dy is infinite",
    ),
    Mistake(
        "cotangent dropped",
        lambda x, dy: _between(x, torch.ones_like(dy)),
        forgets="dy",
        shows="wherever dy is not 1",
    ),
)
