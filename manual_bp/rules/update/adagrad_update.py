"""One step of AdaGrad: the gradient divided by the root of the sum of all its squares.

    g = grad + weight_decay param
    s = sum + g²
    param − lr/(1 + (step − 1) lr_decay) · g / (√s + eps)

step is 1 at first, so that the first step is undecayed.

Origin.  A bound on the regret of online learning is least for the step lr/√(Σ g²) of each parameter by
itself; rare features keep long steps.  As the sum never forgets, steps shrink as 1/√t for gradients of one size.  From
sum = 0, eps = 0 the first step is exactly lr sign(g); at g = 0 with sum = 0 it is 0/eps = 0.

Conventions.  eps is outside of the root here and in torch; optax (scale_by_rss) and Keras have it inside.  sum begins
at initial_accumulator_value: 0 in torch, 0.1 in Keras, TensorFlow and optax.  lr_decay is torch's alone.

Source: Duchi, Hazan & Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization", JMLR 12
(2011); the form is torch.optim.Adagrad's.
"""

from collections.abc import Set
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Convention, Edge, Input, Mistake, constant, normal, require, uniform


class Outputs(NamedTuple):
    param: Float[Tensor, "*shape"]
    sum: Float[Tensor, "*shape"]


def forward(
    param: Float[Tensor, "*shape"],
    grad: Float[Tensor, "*shape"],
    sum: Float[Tensor, "*shape"],
    *,
    step: int,
    lr: float,
    lr_decay: float = 0.0,
    eps: float = 1e-10,
    weight_decay: float = 0.0,
) -> Outputs:
    require(step >= 1, "adagrad_update: step must be 1 or more", step, "The first step is 1.")
    for what, value in (("lr", lr), ("lr_decay", lr_decay), ("eps", eps), ("weight_decay", weight_decay)):
        require(value >= 0, f"adagrad_update: {what} must not be negative", value, "0 is none.")
    g = grad + weight_decay * param if weight_decay else grad
    s = sum + g**2
    return Outputs(param - lr / (1 + (step - 1) * lr_decay) * g / (torch.sqrt(s) + eps), s)


INPUTS = {
    "param": Input(normal(), cotangent=False),
    "grad": Input(normal(), cotangent=False),
    "sum": Input(uniform(0.25, 3.0), cotangent=False),
}
HYPER = {"step": 3, "lr": 0.25}
USUAL = {"step": (1000,), "lr": (0.01,), "lr_decay": (0.1,), "eps": (1e-3,), "weight_decay": (0.1,)}

_LARGE = {"lr_decay": 0.5, "eps": 0.25, "weight_decay": 0.5}

EDGES = (
    Edge("the first step", {"step": 1, "sum": constant(0.0)}),
    Edge("the first step, everything large", {**_LARGE, "step": 1, "sum": constant(0.0)}),
    Edge("everything large", _LARGE),
    Edge("everything large, from 0", {**_LARGE, "param": constant(0.0)}),
    Edge("the second step, from 0", {**_LARGE, "step": 2, "param": constant(0.0)}),
    Edge("from 0", {"param": constant(0.0)}),
    Edge("no gradient", {**_LARGE, "grad": constant(0.0)}),
    Edge("no gradient yet", {"grad": [0.0, -0.0], "param": [1.0, -1.0], "sum": constant(0.0)}),
    Edge("no eps", {"eps": 0.0}),
    Edge("a large eps", {"eps": 1.0, "param": constant(0.0)}),
    Edge("gradients of every size", {"param": constant(0.0), "sum": constant(0.0), "grad": [1e4, -1e2, 1e-2, -1e-4]}),
    Edge("a sum that swallows the square", {"sum": constant(1e6), "grad": constant(1e-3), "param": constant(0.0)}),
    Edge("an infinite gradient", {"grad": [torch.inf, 1.0]}),
    Edge("no elements", sizes={"shape": (0,)}),
    Edge("step 0", {"step": 0}, raises=ValueError),
    Edge("negative lr", {"lr": -0.1}, raises=ValueError),
    Edge("negative lr decay", {"lr_decay": -0.1}, raises=ValueError),
    Edge("negative eps", {"eps": -1e-8}, raises=ValueError),
    Edge("negative weight decay", {"weight_decay": -0.1}, raises=ValueError),
)


def varied(
    names: Set[str],
    param: Tensor,
    grad: Tensor,
    sum: Tensor,
    step: int,
    lr: float,
    lr_decay: float,
    eps: float,
    weight_decay: float,
) -> Outputs:
    """The page's formula but for what is named."""
    decay = weight_decay * param
    g = grad if names & {"decay decoupled", "decay forgotten"} else grad + decay
    s = (0 if "sum forgotten" in names else sum) + (g.abs() if "the gradient unsquared" in names else g**2)
    if "a mean" in names:
        s = sum + (g**2 - sum) / step
    used = sum if "sum of the step before" in names else s
    r = torch.sqrt(used + eps) if "eps inside the root" in names else torch.sqrt(used) + eps
    if "no root" in names:
        r = used + eps
    if "eps forgotten" in names:
        r = torch.sqrt(used)
    t = step if "lr decayed at first" in names else step - 1
    rate = lr / (1 + (0 if "lr decay forgotten" in names else t) * lr_decay)
    if "lr decayed as a power" in names:
        rate = lr * (1 / (1 + lr_decay)) ** (step - 1)
    after = param - rate * g / r
    if "decay decoupled" in names:
        after = after - rate * decay
    return Outputs(2 * param - after if "uphill" in names else after, s)


CONVENTIONS = {
    "eps": {
        "outside the root": Convention("√s + eps: torch"),
        "inside the root": Convention("√(s + eps): Keras, optax", varied="eps inside the root"),
    },
    "decay": {
        "coupled": Convention("part of the gradient: torch"),
        "decoupled": Convention("beside the step", varied="decay decoupled"),
    },
}


def _mistake(name: str, forgets: str, shows: str) -> Mistake:
    return Mistake(name, partial(varied, frozenset({name})), forgets, shows)


MISTAKES = (
    _mistake("uphill", "that a step goes against the gradient", "everywhere"),
    _mistake("sum forgotten", "the squares of the steps before", "from the second step on"),
    _mistake("a mean", "that squares add up, and are not averaged", "from the second step on"),
    _mistake("the gradient unsquared", "the square in the sum", "wherever |grad| is neither 0 nor 1"),
    _mistake("sum of the step before", "that the newest gradient is part of the sum that divides it", "everywhere"),
    _mistake("no root", "the root of the sum", "wherever the sum is not 1"),
    _mistake(
        "eps inside the root",
        "that eps is outside of the root here and in torch; Keras and optax have it inside, and mean another eps",
        "where √eps is felt beside the root",
    ),
    _mistake("eps forgotten", "eps", "for gradients that are 0 so far (NaN), or small"),
    _mistake("lr decayed at first", "that the first step, of step = 1, is undecayed", "with lr_decay"),
    _mistake("lr decay forgotten", "lr_decay", "with lr_decay, from the second step on"),
    _mistake("lr decayed as a power", "that lr falls as 1/(1 + t lr_decay)", "with lr_decay, from the third step on"),
    _mistake(
        "decay decoupled", "that decay is part of the gradient here, and divided by the root with it", "with decay"
    ),
    _mistake("decay forgotten", "weight_decay", "with weight decay"),
)
