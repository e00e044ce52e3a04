"""Huber's cost: a square near 0, straight lines beyond.

With r = x − target an element costs

    l = r²/2                      |r| ≤ delta
    l = delta (|r| − delta/2)     |r| > delta

    y = Σ l        reduction = "sum"
    y = Σ l / n    reduction = "mean",   n = the number of all elements

Derivation.  The square has the slope r, the lines ±delta; the target enters with the opposite sign.  Let s be dy for a
sum, dy / n for a mean:

    dx      = s r                |r| ≤ delta
    dx      = s delta sign(r)    |r| > delta
    dtarget = −dx

that is s times r, clamped to [−delta, delta].  Both branches have the same value and slope where they meet, so that
there is no kink at |r| = delta, and none at 0, where the square is; the second derivative jumps at ±delta.

delta is positive (ValueError): 0 would leave nothing.  For a large one y is half the squared error, for a small one
about delta times the absolute error.  Divided by delta it is torch's smooth_l1_loss with beta = delta.

A mean over nothing is 0/0 = NaN.  An infinite r costs ∞ and has the slope ±delta.

Source: Huber, "Robust Estimation of a Location Parameter", Ann. Math. Statist. 35 (1964), p. 78.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, normal, require
from manual_bp.rules.loss._reduction import divisor


class Residuals(NamedTuple):
    difference: Float[Tensor, "*shape"]
    """r: one tensor where x and target would be two."""
    delta: float
    reduction: Literal["mean", "sum"]


def forward(
    x: Float[Tensor, "*shape"],
    target: Float[Tensor, "*shape"],
    *,
    delta: float = 1.0,
    reduction: Literal["mean", "sum"] = "mean",
) -> tuple[Float[Tensor, ""], Residuals]:
    require(delta > 0, "huber: delta must be positive", delta, "It is where the square goes over into lines.")
    r = x - target
    distance = torch.abs(r)
    cost = torch.where(distance <= delta, r * r / 2, delta * (distance - delta / 2))
    return torch.sum(cost) / divisor(r, reduction), Residuals(r, delta, reduction)


def backward(residuals: Residuals, dy: Float[Tensor, ""]) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    r, delta, reduction = residuals
    dx = dy * (torch.clamp(r, -delta, delta) / divisor(r, reduction))
    return dx, -dx


INPUTS = {"x": Input(normal()), "target": Input(normal(), optional=True)}
USUAL = {"delta": (0.1, 0.5, 1.35, 10.0)}

_INF = float("inf")

EDGES = (
    Edge("sum", {"reduction": "sum"}),
    Edge("exact fit", {"x": [1.0, 2.0, -0.0], "target": [1.0, 2.0, 0.0]}),
    Edge("where the branches meet", {"x": [1.0, -1.0, 3.0, 0.5], "target": [0.0, 0.0, 2.0, 1.5]}),
    Edge(
        "beside the meeting",
        {"x": [1.0000001, 0.9999999, -1.0000001, -0.9999999], "target": [0.0, 0.0, 0.0, 0.0]},
    ),
    Edge("where the branches meet, delta 2", {"x": [2.0, -2.0, 1.5], "target": [0.0, 0.0, -0.5], "delta": 2}),
    Edge("all on the square", {"x": [0.5, -0.25, 0.125], "target": [0.0, 0.25, -0.5]}),
    Edge("all on the lines", {"x": [5.0, -4.0, 30.0], "target": [0.0, 1.0, -2.0]}),
    Edge("small delta", {"delta": 0.01}),
    Edge("small delta in a sum", {"delta": 0.01, "reduction": "sum"}),
    Edge("large delta", {"delta": 100.0}),
    Edge("delta below 1 in a sum", {"delta": 0.25, "reduction": "sum"}),
    Edge("nearly fitted", {"x": [1.0, 1.0], "target": [1.0, 1.0078125]}),
    Edge("squares that underflow", {"x": [1e-25, -1e-170, 1e-310], "target": [0.0, 0.0, 0.0]}),
    Edge("squares that overflow", {"x": [1e20, -1e30, 1e200], "target": [0.0, 0.0, 0.0]}),
    Edge("infinities", {"x": [_INF, -_INF, 1.0], "target": [0.0, 0.0, 0.5]}),
    Edge("a single number", {"x": 0.5, "target": 2.0}),
    Edge("images", sizes={"shape": (2, 3, 4)}),
    Edge("large batch", sizes={"shape": (500, 2)}),
    Edge("empty batch", sizes={"shape": (0, 3)}),
    Edge("empty batch in a sum", {"reduction": "sum"}, sizes={"shape": (0, 3)}),
    Edge("negative cotangent", {"dy": -2.5}),
    Edge(
        "cotangent near float32's smallest",
        {"x": normal(std=1e4), "dy": 2e-38, "delta": 1e4},
        sizes={"shape": (100, 2)},
    ),
    Edge(
        "cotangent near float64's smallest",
        {"x": normal(std=1e4), "dy": 3e-308, "delta": 1e4},
        sizes={"shape": (100, 2)},
    ),
    Edge("a target that would broadcast", {"x": [[1.0, 2.0]], "target": [1.0, 2.0]}, raises=ValueError),
    Edge("delta 0", {"delta": 0.0}, raises=ValueError),
    Edge("negative delta", {"delta": -1.0}, raises=ValueError),
    Edge("infinite delta", {"delta": _INF}, raises=ValueError),
)


def _gradient(
    slope: Tensor, dy: Tensor | float, reduction: str, n: float | None = None, of_target: float = -1.0
) -> tuple[Tensor, Tensor]:
    """Another slope than r, clamped, or another divisor, or another sign of dtarget."""
    n = divisor(slope, reduction) if n is None else n
    dx = dy * (slope / max(n, 1))
    return dx, of_target * dx


def _clamped(x: Tensor, target: Tensor, delta: float) -> Tensor:
    return torch.clamp(x - target, -delta, delta)


MISTAKES = (
    Mistake(
        "not clamped",
        lambda x, target, dy, delta, reduction: _gradient(x - target, dy, reduction),
        forgets="the lines: this is the derivative of the square",
        shows="wherever |r| > delta",
    ),
    Mistake(
        "clamped above only",
        lambda x, target, dy, delta, reduction: _gradient(torch.clamp(x - target, max=delta), dy, reduction),
        forgets="that |r| is compared with delta, and not r",
        shows="wherever r < -delta",
    ),
    Mistake(
        "0 beyond delta",
        lambda x, target, dy, delta, reduction: _gradient(
            torch.where(torch.abs(x - target) <= delta, x - target, 0), dy, reduction
        ),
        forgets="that the lines have a slope: this is the derivative of a clamped cost",
        shows="wherever |r| > delta",
    ),
    Mistake(
        "slope of the lines without delta",
        lambda x, target, dy, delta, reduction: _gradient(
            torch.where(torch.abs(x - target) <= delta, x - target, torch.sign(x - target)), dy, reduction
        ),
        forgets="the delta in front of the lines",
        shows="where |r| > delta and delta is not 1",
    ),
    Mistake(
        "delta for its sign",
        lambda x, target, dy, delta, reduction: _gradient(
            torch.where(torch.abs(x - target) <= delta, x - target, delta), dy, reduction
        ),
        forgets="that the left line falls",
        shows="wherever r < -delta",
    ),
    Mistake(
        "smooth L1",
        lambda x, target, dy, delta, reduction: _gradient(_clamped(x, target, delta) / delta, dy, reduction),
        forgets="that Huber's cost is not divided by delta",
        shows="wherever delta is not 1",
    ),
    Mistake(
        "delta 1 always",
        lambda x, target, dy, delta, reduction: _gradient(_clamped(x, target, 1.0), dy, reduction),
        forgets="that delta is a hyperparameter",
        shows="where |r| > 1 or |r| > delta, and delta is not 1",
    ),
    Mistake(
        "absolute error",
        lambda x, target, dy, delta, reduction: _gradient(delta * torch.sign(x - target), dy, reduction),
        forgets="the square near 0",
        shows="wherever |r| < delta",
    ),
    Mistake(
        "sign as r/|r|",
        lambda x, target, dy, delta, reduction: _gradient(
            (x - target) / torch.abs(x - target) * torch.clamp(torch.abs(x - target), max=delta), dy, reduction
        ),
        forgets="that r/|r| is 0/0 at 0",
        shows="where x is the target",
        seen="https://github.com/tracel-ai/burn/commit/fc311323d91c",
    ),
    Mistake(
        "factor 2",
        lambda x, target, dy, delta, reduction: _gradient(
            torch.where(torch.abs(x - target) <= delta, 2 * (x - target), delta * torch.sign(x - target)), dy, reduction
        ),
        forgets="the ½ of the square",
        shows="where |r| ≤ delta, but at 0",
    ),
    Mistake(
        "½ twice",
        lambda x, target, dy, delta, reduction: _gradient(
            torch.where(torch.abs(x - target) <= delta, (x - target) / 2, delta * torch.sign(x - target)), dy, reduction
        ),
        forgets="the 2 of the square, which cancels the ½",
        shows="where |r| ≤ delta, but at 0",
        seen="https://github.com/davisking/dlib/commit/79e2d1373add",
    ),
    Mistake(
        "square of r compared",
        lambda x, target, dy, delta, reduction: _gradient(
            torch.where((x - target) ** 2 <= delta, x - target, delta * torch.sign(x - target)), dy, reduction
        ),
        forgets="the root, when it asks which branch it is",
        shows="for |r| between √delta and delta",
    ),
    Mistake(
        "dy/n first",
        lambda x, target, dy, delta, reduction: _gradient(
            dy / max(divisor(x, reduction), 1), _clamped(x, target, delta), "sum"
        ),
        forgets="that dy/n may fall below the smallest normal number and lose digits, which the difference does not",
        shows="where dy/n is subnormal",
        loses_digits=True,
    ),
    Mistake(
        "sign",
        lambda x, target, dy, delta, reduction: _gradient(-_clamped(x, target, delta), dy, reduction),
        forgets="that the cost rises with |x - target|",
        shows="everywhere but at 0",
    ),
    Mistake(
        "target's sign",
        lambda x, target, dy, delta, reduction: _gradient(_clamped(x, target, delta), dy, reduction, of_target=1.0),
        forgets="that the target enters with the opposite sign",
        shows="in dtarget, everywhere but at 0",
    ),
    Mistake(
        "target as a constant",
        lambda x, target, dy, delta, reduction: _gradient(_clamped(x, target, delta), dy, reduction, of_target=0.0),
        forgets="that the target has a cotangent too",
        shows="in dtarget, everywhere but at 0",
    ),
    Mistake(
        "1/n forgotten",
        lambda x, target, dy, delta, reduction: _gradient(_clamped(x, target, delta), dy, reduction, n=1),
        forgets="that the cost is a mean",
        shows="for a mean of more than one element",
    ),
    Mistake(
        "1/n twice",
        lambda x, target, dy, delta, reduction: _gradient(
            _clamped(x, target, delta), dy, reduction, n=divisor(x, reduction) ** 2
        ),
        forgets="that the cost is divided once",
        shows="for a mean of more than one element",
    ),
    Mistake(
        "mean over the batch alone",
        lambda x, target, dy, delta, reduction: _gradient(
            _clamped(x, target, delta), dy, reduction, n=len(x) if reduction == "mean" and x.ndim else 1
        ),
        forgets="that the mean goes over all elements",
        shows="for a mean of more than one element in each example",
    ),
    Mistake(
        "a sum divided too",
        lambda x, target, dy, delta, reduction: _gradient(_clamped(x, target, delta), dy, "mean"),
        forgets="that a sum is not divided",
        shows='for reduction="sum"',
        seen="https://github.com/linkedin/Liger-Kernel/commit/53d5934c796d",
    ),
    Mistake(
        "cotangent dropped",
        lambda x, target, dy, delta, reduction: _gradient(_clamped(x, target, delta), 1.0, reduction),
        forgets="dy",
        shows="wherever dy is not 1: when the cost is scaled or is one of several",
        seen="https://github.com/chainer/chainer/commit/e60dd3efbca0",
    ),
)
