"""One step of RMSprop: the gradient divided by the root of the mean of its squares.

    g = grad + weight_decay param
    v = α square_avg + (1 − α) g²
    a = α grad_avg + (1 − α) g                 where there is a grad_avg ("centered")
    r = √v + eps                               centered: √(v − a²) + eps
    param − lr g / r                           without momentum
    b = momentum momentum_buffer + g / r       with momentum; b = g / r where there is no buffer yet
    param − lr b

Derivation.  The centred root: with weights that add up to 1, Σ w (g − a)² = Σ w g² − a²: v − a² is the variance under
the same weights, and not below 0.  By rounding it may be, and then the root is NaN, here and in torch, where a gradient
is constant over 1/(1 − α) steps and eps is no help, being outside.

There is no bias correction: v begins at 0 in torch, so that the first step is g/(√(1 − α) |g|), ten times lr for
α = 0.99.  At g = 0 with v = 0 the step is 0/eps = 0.

Conventions.  Of eps: torch adds it outside of the root; TensorFlow 1, Keras and optax (eps_in_sqrt=True, its default)
inside.  Of the first v: 0 in torch and optax; in TensorFlow 1 it is 1, and the first step of about lr |g|.  Of lr: it
stands outside of the momentum buffer, as in torch; TensorFlow 1 and Keras have it inside, which is the same while lr is
constant.  Of decay: coupled, as in torch.

Sources: Tieleman & Hinton, "Lecture 6.5: rmsprop", Coursera 2012; Graves, "Generating Sequences With Recurrent Neural
Networks" (arXiv 1308.0850), equations 38 to 45, for the centred one, eps inside; the form is torch.optim.RMSprop's.
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
    square_avg: Float[Tensor, "*shape"]
    momentum_buffer: Float[Tensor, "*shape"] | None
    """None without momentum, if none came."""
    grad_avg: Float[Tensor, "*shape"] | None


def forward(
    param: Float[Tensor, "*shape"],
    grad: Float[Tensor, "*shape"],
    square_avg: Float[Tensor, "*shape"],
    momentum_buffer: Float[Tensor, "*shape"] | None = None,
    grad_avg: Float[Tensor, "*shape"] | None = None,
    *,
    lr: float,
    alpha: float = 0.99,
    eps: float = 1e-8,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
) -> Outputs:
    for what, value in (("lr", lr), ("eps", eps), ("momentum", momentum), ("weight_decay", weight_decay)):
        require(value >= 0, f"rmsprop_update: {what} must not be negative", value, "0 is none.")
    require(0 <= alpha <= 1, "rmsprop_update: alpha must lie in [0, 1]", alpha, "It is the share of the old mean.")
    g = grad + weight_decay * param if weight_decay else grad
    v = alpha * square_avg + (1 - alpha) * g**2
    a = None if grad_avg is None else alpha * grad_avg + (1 - alpha) * g
    r = torch.sqrt(v if a is None else v - a**2) + eps
    if not momentum:
        return Outputs(param - lr * g / r, v, None if momentum_buffer is None else momentum_buffer.clone(), a)
    b = g / r if momentum_buffer is None else momentum * momentum_buffer + g / r
    return Outputs(param - lr * b, v, b, a)


INPUTS = {
    "param": Input(normal(), cotangent=False),
    "grad": Input(normal(), cotangent=False),
    "square_avg": Input(uniform(0.5, 2.0), cotangent=False),
    "momentum_buffer": Input(normal(), cotangent=False),
    # Below the root of any square_avg, so that the variance is well above 0.
    "grad_avg": Input(uniform(-0.5, 0.5), cotangent=False),
}
HYPER = {"lr": 0.25}
USUAL = {"lr": (1e-3,), "alpha": (0.9,), "eps": (1e-3,), "momentum": (0.9,), "weight_decay": (0.1,)}

# Felt in every precision; see adam_update's helper for why.
_LARGE = {"alpha": 0.75, "eps": 0.25, "momentum": 0.5, "weight_decay": 0.5}
_PLAIN = {"momentum_buffer": None, "grad_avg": None}

EDGES = (
    Edge("plain", _PLAIN),
    Edge("plain, from 0", {**_PLAIN, "param": constant(0.0)}),
    Edge("plain, everything large", {**_LARGE, **_PLAIN, "momentum": 0.0}),
    Edge("plain, everything large, from 0", {**_LARGE, **_PLAIN, "momentum": 0.0, "param": constant(0.0)}),
    Edge("momentum", {"momentum": 0.9}),
    Edge("momentum, not centred", {**_LARGE, "grad_avg": None}),
    Edge("first momentum", {**_LARGE, "momentum_buffer": None}),
    Edge("everything large", _LARGE),
    Edge("everything large, from 0", {**_LARGE, "param": constant(0.0)}),
    Edge("the first step", {**_PLAIN, "square_avg": constant(0.0), "param": constant(0.0)}),
    Edge("the first step, centred", {"square_avg": constant(0.0), "grad_avg": constant(0.0)}),
    Edge("no gradient", {**_LARGE, "grad": constant(0.0)}),
    Edge("no gradient yet", {**_PLAIN, "grad": [0.0, -0.0], "square_avg": constant(0.0), "param": [1.0, -1.0]}),
    Edge("no eps", {**_PLAIN, "eps": 0.0}),
    Edge("a large eps", {**_PLAIN, "eps": 1.0, "param": constant(0.0)}),
    Edge("no memory", {**_PLAIN, "alpha": 0.0, "param": constant(0.0)}),
    Edge("nothing but memory", {"alpha": 1.0}),
    Edge("gradients of every size", {**_PLAIN, "param": constant(0.0), "grad": [1e4, -1e2, 1e-2, -1e-4]}),
    Edge("an infinite gradient", {**_PLAIN, "grad": [torch.inf, 1.0]}),
    Edge("no elements", sizes={"shape": (0,)}),
    Edge("negative lr", {"lr": -0.1}, raises=ValueError),
    Edge("alpha above 1", {"alpha": 1.5}, raises=ValueError),
    Edge("negative eps", {"eps": -1e-8}, raises=ValueError),
    Edge("negative momentum", {"momentum": -0.5}, raises=ValueError),
    Edge("negative weight decay", {"weight_decay": -0.1}, raises=ValueError),
)


def varied(
    names: Set[str],
    param: Tensor,
    grad: Tensor,
    square_avg: Tensor,
    momentum_buffer: Tensor | None,
    grad_avg: Tensor | None,
    lr: float,
    alpha: float,
    eps: float,
    momentum: float,
    weight_decay: float,
) -> Outputs:
    """The page's formula but for what is named."""
    decay = weight_decay * param
    g = grad if names & {"decay decoupled", "decay forgotten"} else grad + decay
    if "α and 1 − α swapped" in names:
        alpha = 1 - alpha
    fresh = 1.0 if "square without 1 − α" in names else 1 - alpha
    v = alpha * square_avg + fresh * (g.abs() if "the gradient unsquared" in names else g**2)
    a = None if grad_avg is None else alpha * grad_avg + (1 - alpha) * g
    used = square_avg if "mean of the step before" in names else v
    if a is not None and "mean not taken off" not in names:
        used = used - (a if "mean taken off unsquared" in names else a**2)
    r = torch.sqrt(used + eps) if "eps inside the root" in names else torch.sqrt(used) + eps
    if "no root" in names:
        r = used + eps
    if "eps forgotten" in names:
        r = torch.sqrt(used)
    b, direction = momentum_buffer, g / r
    if momentum:
        pushed = g if "momentum before the division" in names else g / r
        if "lr in the buffer" in names:
            pushed = lr * pushed
        b = pushed if momentum_buffer is None else momentum * momentum_buffer + pushed
        direction = b / r if "momentum before the division" in names else b
        if "buffer not used" in names:
            direction = g / r
    elif b is not None:
        b = b.clone()
    step = direction if "lr in the buffer" in names and momentum else lr * direction
    if "decay decoupled" in names:
        step = step + lr * decay
    return Outputs(param + step if "uphill" in names else param - step, v, b, a)


CONVENTIONS = {
    "eps": {
        "outside the root": Convention("√v + eps: torch"),
        "inside the root": Convention("√(v + eps): TensorFlow, Keras, optax", varied="eps inside the root"),
    },
    "lr": {
        "of the step": Convention("lr multiplies the buffer when the step is made: torch"),
        "in the buffer": Convention("b ← momentum b + lr g/r: TensorFlow 1, Keras", varied="lr in the buffer"),
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
    _mistake("α and 1 − α swapped", "that α is the share of the old mean", "unless α is ½"),
    _mistake("square without 1 − α", "that a mean's newest part counts 1 − α", "everywhere"),
    _mistake("the gradient unsquared", "the square in the mean", "wherever |grad| is neither 0 nor 1"),
    _mistake("mean of the step before", "that the newest gradient is part of the mean that divides it", "everywhere"),
    _mistake("no root", "the root", "wherever the mean is not 1"),
    _mistake(
        "eps inside the root",
        "that eps is outside of the root here and in torch; TensorFlow, Keras and optax have it inside, and mean "
        "another eps",
        "where √eps is felt beside the root",
    ),
    _mistake("eps forgotten", "eps", "for gradients that are 0 so far (NaN), or small"),
    _mistake("mean not taken off", "that the centred root is of the variance: v − a²", "with grad_avg"),
    _mistake("mean taken off unsquared", "the square of the mean in v − a²", "with grad_avg"),
    _mistake("momentum before the division", "that each gradient is divided by its own root", "with momentum"),
    _mistake(
        "lr in the buffer",
        "that lr multiplies the step; in the buffer, where TensorFlow has it, a change of lr acts late",
        "with momentum",
    ),
    _mistake("buffer not used", "that with momentum the buffer is the step", "with momentum, from the second step on"),
    _mistake(
        "decay decoupled", "that decay is part of the gradient here, and divided by the root with it", "with decay"
    ),
    _mistake("decay forgotten", "weight_decay", "with weight decay"),
)
