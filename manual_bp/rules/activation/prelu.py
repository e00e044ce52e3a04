"""PReLU, a leaky ReLU whose slope is learnt: one for each channel.

Axis 1 of x holds the channels, and w_c is the weight of the channel c in which x lies.

    y = x          x > 0
    y = w_c x      x ≤ 0

Derivation.  As a function of x each branch is linear (the page `leaky_relu`); w_c reaches every y of its channel, with
the factor x on the left and 0 on the right:

    dx        = dy                                    x > 0
    dx        = w_c dy                                x ≤ 0
    dweight_c = Σ over the channel of dy min(x, 0)

The sum goes over the batch and all space axes.  At the kink this page takes w_c, as torch does; dweight has none there,
since x is 0.  Any real weight is allowed.  For a negative one y > 0 on both sides: the branch must be remembered from
x.  On the right the factor 0 of dweight is chosen, not multiplied: an infinite cotangent that arrives there is dropped.

Source: He, Zhang, Ren & Sun, "Delving Deep into Rectifiers", ICCV 2015, eq. 1 and 8 to 10.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Convention, Edge, Input, Mistake, constant, normal


class Residuals(NamedTuple):
    x: Float[Tensor, "batch channels *space"]
    """dweight wants x itself, so that a mask of its sign, which is all that dx asks, would not do."""
    weight: Float[Tensor, "channels"]


def forward(
    x: Float[Tensor, "batch channels *space"], weight: Float[Tensor, "channels"]
) -> tuple[Float[Tensor, "batch channels *space"], Residuals]:
    return torch.where(x <= 0, _like(weight, x) * x, x), Residuals(x, weight)


def backward(
    residuals: Residuals, dy: Float[Tensor, "batch channels *space"]
) -> tuple[Float[Tensor, "batch channels *space"], Float[Tensor, "channels"]]:
    x, weight = residuals
    dx = torch.where(x > 0, dy, _like(weight, x) * dy)
    dweight = _over_channel(torch.where(x > 0, 0, dy * x))
    return dx, dweight


def _like(weight: Tensor, x: Tensor) -> Tensor:
    """One number for each channel, shaped so that it meets x on axis 1."""
    return weight.reshape(weight.shape + (1,) * (x.ndim - 2))


def _over_channel(values: Tensor) -> Tensor:
    """Σ over each channel."""
    return torch.sum(values, (0, *range(2, values.ndim)))


INPUTS = {"x": Input(normal()), "weight": Input(normal(mean=0.25, std=0.2))}


def _one_at_0(x: Tensor, weight: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    return torch.where(x >= 0, dy, _like(weight, x) * dy), _over_channel(torch.where(x > 0, 0, dy * x))


CONVENTIONS = {
    "tie": {
        "weight": Convention("at 0 the slope of the left branch, weight"),
        "one": Convention("at 0 the slope of the right branch, 1", gradient=_one_at_0),
        "any": Convention("any valid subgradient", any_subgradient=True),
    }
}

EDGES = (
    Edge("kink", {"x": [[0.0, -0.0, 1.0], [-0.0, -1.0, 0.0]], "weight": [0.25, -0.5, 2.0]}),
    Edge("beside the kink", {"x": [[1e-310, -1e-310], [1e-40, -1e-40], [6e-8, -6e-8]]}),
    Edge("infinities", {"x": [[float("inf"), float("-inf")]], "weight": [0.25, 0.5]}),
    Edge(
        "infinite cotangent",
        {"x": [[1.0, 2.0], [3.0, -1.0]], "weight": [0.5, 0.25], "dy": [[float("inf"), 1.0], [2.0, float("-inf")]]},
    ),
    Edge("negative weight", {"weight": constant(-0.5)}),
    Edge("weight 0", {"weight": constant(0.0)}),
    Edge("weight 1", {"weight": constant(1.0)}),
    Edge("weight above 1", {"weight": constant(3.0)}),
    Edge("nothing below 0", {"x": [[1.0, 2.0], [0.5, 3.0]]}),
    Edge("nothing above 0", {"x": [[-1.0, -2.0], [-0.5, -3.0]]}),
    Edge("vectors", sizes={"space": ()}),
    Edge("images", sizes={"space": (2, 3)}),
    Edge("square images", sizes={"batch": 3, "channels": 3, "space": (3, 3)}),
    Edge("one example", sizes={"batch": 1}),
    Edge("one channel", sizes={"channels": 1}),
    Edge("empty batch", sizes={"batch": 0}),
    Edge("no channel", sizes={"channels": 0}),
    Edge("no position", sizes={"space": (0,)}),
    Edge("no axis of channels", {"x": [1.0, -2.0], "weight": [0.25, 0.5]}, raises=ValueError),
    Edge("one weight for all channels", {"x": [[1.0, -2.0]], "weight": [0.25]}, raises=ValueError),
)


class _Parts:
    """The parts of the right formula, from which wrong ones are made."""

    def __init__(self, x: Tensor, weight: Tensor, dy: Tensor) -> None:
        self.x, self.dy, self.weight, self.left = x, dy, weight, _like(weight, x)
        self.y = torch.where(x > 0, x, self.left * x)
        self.each = torch.where(x > 0, 0, dy * x)

    def cotangents(self, dx: Tensor | None = None, dweight: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The right ones, but for those that are given."""
        dx = self.branches(self.x > 0) if dx is None else dx
        return dx, _over_channel(self.each) if dweight is None else dweight

    def branches(self, right: Tensor) -> Tensor:
        return torch.where(right, self.dy, self.left * self.dy)


MISTAKES = (
    Mistake(
        "plain ReLU",
        lambda **p: _Parts(**p).cotangents(dx=torch.where(p["x"] > 0, p["dy"], 0)),
        forgets="the slope on the left",
        shows="wherever x < 0",
    ),
    Mistake(
        "kink passes",
        lambda **p: _one_at_0(**p),
        forgets="which slope the convention takes at 0: this one is valid, and not this page's nor torch's",
        shows="at x = 0 if the weight is not 1",
    ),
    Mistake(
        "branch read off y",
        lambda **p: _Parts(**p).cotangents(
            dx=_Parts(**p).branches(_Parts(**p).y > 0),
            dweight=_over_channel(torch.where(_Parts(**p).y > 0, 0, p["dy"] * p["x"])),
        ),
        forgets="that y > 0 on both sides when the weight is negative",
        shows="where x < 0 and the weight is negative",
    ),
    Mistake(
        "mask of the cotangent",
        lambda **p: _Parts(**p).cotangents(dx=_Parts(**p).branches(p["dy"] > 0)),
        forgets="that the sign of x chooses the branch, not the sign of dy",
        shows="where the signs differ",
        seen="https://github.com/Oneflow-Inc/oneflow/commit/6946b483560b",
    ),
    Mistake(
        "slope everywhere",
        lambda **p: _Parts(**p).cotangents(dx=_Parts(**p).left * p["dy"]),
        forgets="that the slope belongs to the left branch only",
        shows="wherever x > 0",
    ),
    Mistake(
        "weight forgotten",
        lambda **p: _Parts(**p).cotangents(dweight=torch.zeros_like(p["weight"])),
        forgets="that the slope is learnt",
        shows="wherever x < 0",
    ),
    Mistake(
        "dweight from the right branch too",
        lambda **p: _Parts(**p).cotangents(dweight=_over_channel(p["dy"] * p["x"])),
        forgets="that y does not depend on the weight where x > 0",
        shows="wherever x > 0",
    ),
    Mistake(
        "dweight from the other branch",
        lambda **p: _Parts(**p).cotangents(dweight=_over_channel(torch.where(p["x"] > 0, p["dy"] * p["x"], 0))),
        forgets="on which side the weight acts",
        shows="everywhere",
    ),
    Mistake(
        "dweight from y",
        lambda **p: _Parts(**p).cotangents(dweight=_over_channel(torch.where(p["x"] > 0, 0, p["dy"] * _Parts(**p).y))),
        forgets="that what the weight is multiplied with is x",
        shows="where x < 0 and the weight is not 1",
    ),
    Mistake(
        "dweight without x",
        lambda **p: _Parts(**p).cotangents(dweight=_over_channel(torch.where(p["x"] > 0, 0, p["dy"]))),
        forgets="the factor x",
        shows="wherever x < 0",
    ),
    Mistake(
        "dweight without dy",
        lambda **p: _Parts(**p).cotangents(dweight=_over_channel(torch.clamp(p["x"], max=0))),
        forgets="dy",
        shows="wherever dy is not 1",
    ),
    Mistake(
        "dweight's sign",
        lambda **p: _Parts(**p).cotangents(dweight=-_over_channel(_Parts(**p).each)),
        forgets="that x is negative there, and not |x|",
        shows="wherever x < 0",
    ),
    Mistake(
        "dweight over the batch alone",
        lambda **p: _Parts(**p).cotangents(dweight=torch.sum(_Parts(**p).each, 0).flatten(1)[:, :1].flatten()),
        forgets="the space axes, of which the first position alone is taken",
        shows="where there is more than one position",
    ),
    Mistake(
        "one dweight for all channels",
        lambda **p: _Parts(**p).cotangents(dweight=torch.sum(_Parts(**p).each).expand(p["weight"].shape)),
        forgets="that each channel has a weight of its own",
        shows="for more than one channel",
    ),
    Mistake(
        "dweight averaged",
        lambda **p: _Parts(**p).cotangents(dweight=_over_channel(_Parts(**p).each) / max(len(p["x"]), 1)),
        forgets="that the weight reaches every example, so that its cotangent is a sum",
        shows="for more than one example",
    ),
    Mistake(
        "dweight of the step before not cleared",
        lambda **p: _Parts(**p).cotangents(dweight=2 * _over_channel(_Parts(**p).each)),
        forgets="to clear the sum before it adds to it: here it holds the same step once more",
        shows="from the second step on",
        seen="https://github.com/Oneflow-Inc/oneflow/commit/1b7511ba3194",
    ),
    Mistake(
        "masked by multiplication",
        lambda **p: _Parts(**p).cotangents(dweight=_over_channel((p["x"] <= 0) * (p["dy"] * p["x"]))),
        forgets="that 0 times infinity is NaN",
        shows="where x > 0 and dy is infinite",
    ),
    Mistake(
        "cotangent dropped",
        lambda **p: _Parts(**{**p, "dy": torch.ones_like(p["dy"])}).cotangents(),
        forgets="dy",
        shows="wherever dy is not 1",
    ),
)
