"""One step of Lion: of one size for every parameter, in the direction of a sign.

    u     = sign(β₁ exp_avg + (1 − β₁) grad)
    param = (1 − lr weight_decay) param − lr u
    m     = β₂ exp_avg + (1 − β₂) grad

The step looks at a mean that forgets sooner (β₁ = 0.9) than the one that is stored (β₂ = 0.99), and comes before it:
the stored mean is of the steps before.  sign(0) = 0: without gradient and momentum only the decay is left.  sign(NaN)
is 0 in torch, so that a NaN in the gradient does not reach the parameter at once, and NaN in JAX.

Origin.  It was found by a search of programs, not derived.  As |u| is 1, lr is to be some 3 to 10 times
smaller than Adam's, and weight_decay so much larger, as the decay is by lr · weight_decay.

Conventions.  The decay is of the parameter before the step, as in AdamW.  optax.lion has the sign of the same mean, and
b1, b2 as here.  A sign is not continuous: where the two terms nearly cancel, rounding may decide it.

Source: Chen et al., "Symbolic Discovery of Optimization Algorithms", NeurIPS 2023 (arXiv 2302.06675), algorithm 2.
"""

from collections.abc import Set
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Convention, Edge, Input, Mistake, Value, constant, normal, require


class Outputs(NamedTuple):
    param: Float[Tensor, "*shape"]
    exp_avg: Float[Tensor, "*shape"]


def forward(
    param: Float[Tensor, "*shape"],
    grad: Float[Tensor, "*shape"],
    exp_avg: Float[Tensor, "*shape"],
    *,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.99,
    weight_decay: float = 0.0,
) -> Outputs:
    for what, value in (("lr", lr), ("weight_decay", weight_decay)):
        require(value >= 0, f"lion_update: {what} must not be negative", value, "0 is none.")
    for what, value in (("beta1", beta1), ("beta2", beta2)):
        require(0 <= value < 1, f"lion_update: {what} must lie in [0, 1)", value, "Usual are 0.9 and 0.99.")
    u = torch.sign(beta1 * exp_avg + (1 - beta1) * grad)
    shrunk = param - lr * weight_decay * param if weight_decay else param
    return Outputs(shrunk - lr * u, beta2 * exp_avg + (1 - beta2) * grad)


INPUTS = {
    "param": Input(normal(), cotangent=False),
    "grad": Input(normal(), cotangent=False),
    "exp_avg": Input(normal(std=0.5), cotangent=False),
}
HYPER = {"lr": 0.25}
USUAL = {"lr": (1e-4,), "beta1": (0.95,), "beta2": (0.98,), "weight_decay": (0.1, 1.0)}

_LARGE = {"beta1": 0.5, "beta2": 0.25, "weight_decay": 0.5}

EDGES = (
    Edge("the first step", {"exp_avg": constant(0.0)}),
    Edge("everything large", _LARGE),
    Edge("everything large, from 0", {**_LARGE, "param": constant(0.0)}),
    Edge("everything large, the first step", {**_LARGE, "exp_avg": constant(0.0)}),
    Edge("gradient against momentum", {"grad": [4.0, -4.0, 16.0, -16.0], "exp_avg": [-1.0, 1.0, -1.0, 1.0]}),
    Edge("no gradient", {**_LARGE, "grad": constant(0.0)}),
    Edge("neither gradient nor momentum", {**_LARGE, "grad": [0.0, -0.0], "exp_avg": [0.0, 0.0]}),
    Edge("they cancel", {"beta1": 0.5, "grad": [2.0, -1.0], "exp_avg": [-2.0, 1.0], "param": [1.0, 1.0]}),
    Edge("no memory", {"beta1": 0.0, "beta2": 0.0}),
    Edge("decay alone", {**_LARGE, "grad": constant(0.0), "exp_avg": constant(0.0)}),
    Edge("gradients of every size", {"param": constant(0.0), "exp_avg": constant(0.0), "grad": [1e4, -1e-4, 1e-7]}),
    Edge("an infinite gradient", {"grad": [torch.inf, -torch.inf, 1.0]}),
    Edge("no elements", sizes={"shape": (0,)}),
    Edge("negative lr", {"lr": -0.1}, raises=ValueError),
    Edge("beta1 of 1", {"beta1": 1.0}, raises=ValueError),
    Edge("negative beta2", {"beta2": -0.1}, raises=ValueError),
    Edge("negative weight decay", {"weight_decay": -0.1}, raises=ValueError),
)


ADDED_FIRST = "sign and decay added before lr"


def varied(
    names: Set[str],
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    lr: float,
    beta1: float,
    beta2: float,
    weight_decay: float,
) -> Outputs:
    """The page's formula but for what is named."""
    if "betas swapped" in names:
        beta1, beta2 = beta2, beta1
    coupled = grad + weight_decay * param if "decay coupled" in names else grad
    m = beta2 * exp_avg + (1.0 if "moment without 1 − β₂" in names else 1 - beta2) * coupled
    mean = beta1 * exp_avg + (1 - beta1) * coupled
    if "β₁ in the stored moment" in names:
        m = mean
    if "the stored moment's sign" in names:
        mean = m
    if "the new moment in the step" in names:
        mean = beta1 * m + (1 - beta1) * coupled
    if "the gradient's sign" in names:
        mean = coupled
    u = mean if "no sign" in names else torch.sign(mean)
    if "sign of 0 is 1" in names:
        u = torch.where(mean >= 0, 1.0, -1.0).to(mean.dtype)
    if "uphill" in names:
        u = -u
    rate = 1.0 if "decay without lr" in names else lr
    step = lr * u
    if "decay after the step" in names:
        after = (1 - lr * weight_decay) * (param - step)
    elif names & {"decay coupled", "decay forgotten"}:
        after = param - step
    elif ADDED_FIRST in names:
        after = param - lr * (u + weight_decay * param)
    else:
        after = param - rate * weight_decay * param - step
    return Outputs(after, m)


CONVENTIONS = {
    "decay": {
        "first": Convention("of the parameter before the step: the paper, optax"),
        "last": Convention("of the parameter after the step", varied="decay after the step"),
        "without lr": Convention("not multiplied by lr", varied="decay without lr"),
    },
}


def _mistake(name: str, forgets: str, shows: str) -> Mistake:
    return Mistake(name, partial(varied, frozenset({name})), forgets, shows)


VALUES = (
    Value(
        ADDED_FIRST,
        partial(varied, frozenset({ADDED_FIRST})),
        forgets="that their sum is rounded as a number above 1 (optax has it so)",
        shows="where parameter and step cancel",
    ),
)

MISTAKES = (
    _mistake("uphill", "that a step goes against the gradient", "everywhere"),
    _mistake("no sign", "the sign", "wherever the mean is not 1, 0 or −1"),
    _mistake("betas swapped", "that β₁ is of the step and β₂ of what is stored", "unless both are the same"),
    _mistake("β₁ in the stored moment", "that what is stored has a β of its own", "unless both are the same"),
    _mistake(
        "the stored moment's sign",
        "that the step looks at a mean of its own, with β₁",
        "where gradient and momentum are of opposite signs",
    ),
    _mistake(
        "the new moment in the step",
        "that the step comes before the moment",
        "where gradient and momentum are of opposite signs",
    ),
    _mistake("the gradient's sign", "the momentum: this is signSGD", "where the two are of opposite signs"),
    _mistake("moment without 1 − β₂", "that a mean's newest part counts 1 − β₂", "everywhere"),
    _mistake("sign of 0 is 1", "that without gradient and momentum there is no step", "where both are 0"),
    _mistake("decay coupled", "that decay is beside the step, and does not enter the sign", "with weight decay"),
    _mistake(
        "decay without lr", "that a step shrinks the parameter by lr · weight_decay of itself", "with weight decay"
    ),
    _mistake("decay after the step", "that the parameter before the step decays", "with weight decay"),
    _mistake("decay forgotten", "weight_decay", "with weight decay"),
)
