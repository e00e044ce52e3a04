"""One step of stochastic gradient descent, with momentum.

    g = grad + weight_decay param
    v = momentum_buffer momentum + (1 − dampening) g      v = g, undampened, where there is no buffer yet
    param − lr v                                          with nesterov: param − lr (g + momentum v)

Without momentum the step is param − lr g, and the buffer stays as it is.  All of it is one pure function: what torch
writes into `param` and `momentum_buffer` in place are its outputs.

Origin.  A ball that rolls down a slope with friction: v is a sum of gradients, each older one by the
factor `momentum` smaller.  For a constant gradient it tends to g / (1 − momentum), a step ten times as long for 0.9;
dampening = momentum makes v a mean instead of a sum.  Nesterov's step takes the gradient at the point to which the old
velocity leads anyway; written in terms of that point it is g + momentum v, with the new v.

Conventions.  The velocity here (and in torch) is not multiplied by lr.  Sutskever et al. and TensorFlow have
v ← momentum v − lr g, param ← param + v: the same while lr is constant, and another path once it changes, since there
a step that was long stays long.  Weight decay is part of the gradient here, and so passes through momentum; optax's
`add_decayed_weights` behind `trace` is another function.  optax's `trace` begins with v = 0: as no gradient is
dampened there, that is the same.  Keras has lr in the
buffer too; its nesterov=True is the same while lr is constant.

Sources: Polyak, "Some methods of speeding up the convergence of iteration methods", USSR Comput. Math. Math. Phys. 4
(1964); Sutskever et al., "On the importance of initialization and momentum in deep learning", ICML 2013, for
Nesterov's; the form of both is torch.optim.SGD's.
"""

from collections.abc import Set
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Convention, Edge, Input, Mistake, constant, normal, require


class Outputs(NamedTuple):
    param: Float[Tensor, "*shape"]
    momentum_buffer: Float[Tensor, "*shape"] | None
    """None without momentum, if none came."""


def forward(
    param: Float[Tensor, "*shape"],
    grad: Float[Tensor, "*shape"],
    momentum_buffer: Float[Tensor, "*shape"] | None = None,
    *,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> Outputs:
    # In a compiled step whose rate changes it is a tensor, whose value nobody looks at.
    require(
        isinstance(lr, Tensor) or lr >= 0, "sgd_update: lr must not be negative", lr, "The step is already downhill."
    )
    require(momentum >= 0, "sgd_update: momentum must not be negative", momentum, "0 is none.")
    require(weight_decay >= 0, "sgd_update: weight_decay must not be negative", weight_decay, "0 is none.")
    require(
        not nesterov or (momentum > 0 and dampening == 0),
        "sgd_update: nesterov needs a momentum above 0 and no dampening",
        f"momentum={momentum}, dampening={dampening}",
        "Leave nesterov out, or set the two.",
    )
    g = grad + weight_decay * param if weight_decay else grad
    if not momentum:
        return Outputs(param - lr * g, None if momentum_buffer is None else momentum_buffer.clone())
    v = g.clone() if momentum_buffer is None else momentum * momentum_buffer + (1 - dampening) * g
    return Outputs(param - lr * (g + momentum * v if nesterov else v), v)


INPUTS = {name: Input(normal(), cotangent=False) for name in ("param", "grad", "momentum_buffer")}
HYPER = {"lr": 0.25}
USUAL = {"lr": (1e-3, 0.01, 0.1), "momentum": (0.5, 0.9, 0.99), "dampening": (0.1, 0.9), "weight_decay": (1e-4, 0.01)}

_ALL = {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.25}
_AHEAD = {"momentum": 0.9, "nesterov": True, "weight_decay": 0.25}

EDGES = (
    Edge("momentum", {"momentum": 0.9}),
    Edge("first step with momentum", {"momentum": 0.9, "momentum_buffer": None}),
    Edge("first step, dampened", {"momentum": 0.9, "dampening": 0.5, "momentum_buffer": None}),
    Edge("a buffer of zeros, dampened", {"momentum": 0.9, "dampening": 0.5, "momentum_buffer": constant(0.0)}),
    Edge("everything but nesterov", _ALL),
    Edge("nesterov and decay", _AHEAD),
    Edge("first step of nesterov", {**_AHEAD, "momentum_buffer": None}),
    Edge("from 0, everything but nesterov", {**_ALL, "param": constant(0.0)}),
    Edge("from 0, nesterov", {**_AHEAD, "param": constant(0.0)}),
    Edge("no buffer and no momentum", {"momentum_buffer": None}),
    Edge("zero gradient", {**_ALL, "grad": constant(0.0)}),
    Edge("zero gradient, nothing else", {"grad": [0.0, -0.0], "param": [1.0, -0.0]}),
    Edge("lr 0", {**_AHEAD, "lr": 0.0}),
    Edge("lr of usual size", {**_ALL, "lr": 1e-3}),
    Edge("momentum above 1", {"momentum": 1.5}),
    Edge("negative dampening", {"momentum": 0.5, "dampening": -1.0}),
    Edge("an update below half an ulp of the parameter", {"param": constant(1.0), "grad": constant(1e-9)}),
    Edge("huge and tiny gradients", {"param": constant(0.0), "grad": [1e4, -1e4, 1e-4, -1e-6]}),
    Edge("an infinite gradient", {"momentum": 0.9, "grad": [torch.inf, 1.0]}),
    Edge("no elements", sizes={"shape": (0,)}),
    Edge("negative lr", {"lr": -0.1}, raises=ValueError),
    Edge("negative momentum", {"momentum": -0.1}, raises=ValueError),
    Edge("negative weight decay", {"weight_decay": -0.1}, raises=ValueError),
    Edge("nesterov without momentum", {"nesterov": True}, raises=ValueError),
    Edge("nesterov with dampening", {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, raises=ValueError),
)


def varied(
    names: Set[str],
    param: Tensor,
    grad: Tensor,
    momentum_buffer: Tensor | None,
    lr: float,
    momentum: float,
    dampening: float,
    nesterov: bool,
    weight_decay: float,
) -> Outputs:
    """The page's formula but for what is named."""
    decay = weight_decay * param
    beside = bool(names & {"decay decoupled", "decay without lr", "decay after the step"})
    g = grad
    if weight_decay and not beside and "decay forgotten" not in names:
        g = grad - decay if "sign of decay" in names else grad + decay
    old, inside = momentum_buffer, "lr in the velocity" in names
    if not momentum:
        v = old if old is None else old.clone()
        direction = lr * g
    else:
        rate = lr if inside else 1.0
        fresh = (1 if "dampening forgotten" in names else 1 - dampening) * g
        if "a mean of gradients" in names:
            fresh = (1 - momentum) * g
        first = rate * (fresh if names & {"first step dampened", "a mean of gradients"} else g)
        v = first if old is None else momentum * old + rate * fresh
        if "momentum subtracted" in names:
            v = first if old is None else rate * fresh - momentum * old
        used = v
        if "velocity of the step before" in names:
            used = torch.zeros_like(g) if old is None else old
        along = used
        if nesterov and "nesterov forgotten" not in names:
            along = rate * g + momentum * used
            if "nesterov without the gradient" in names:
                along = momentum * used
            if "nesterov ahead by the old velocity" in names:
                along = rate * g + momentum * (torch.zeros_like(g) if old is None else old)
        direction = along if inside else lr * along
    after = param - direction
    if weight_decay and beside:
        shrunk = after if "decay after the step" in names else param
        after = after - (1 if "decay without lr" in names else lr) * weight_decay * shrunk
    if "uphill" in names:
        after = 2 * param - after
    return Outputs(after, v)


CONVENTIONS = {
    "lr": {
        "of the step": Convention("the velocity is multiplied by lr when the step is made: torch, optax"),
        "in the velocity": Convention(
            "v ← momentum v + lr g, param − v: Sutskever, TensorFlow, Keras", varied="lr in the velocity"
        ),
    },
    "first": {
        "undampened": Convention("the first velocity is the gradient: torch"),
        "dampened": Convention("the first velocity is (1 − dampening) g", varied="first step dampened"),
    },
    "decay": {
        "coupled": Convention("part of the gradient: torch"),
        "decoupled": Convention("beside the step: SGDW", varied="decay decoupled"),
    },
}


def _mistake(name: str, forgets: str, shows: str) -> Mistake:
    return Mistake(name, partial(varied, frozenset({name})), forgets, shows)


MISTAKES = (
    _mistake("uphill", "that a step goes against the gradient", "everywhere"),
    _mistake("first step dampened", "that the first velocity is the gradient itself", "at first, with dampening"),
    _mistake("dampening forgotten", "1 − dampening", "with dampening, from the second step on"),
    _mistake(
        "a mean of gradients",
        "that the velocity is a sum: without dampening the gradient enters whole, and not times 1 − momentum",
        "with momentum",
    ),
    _mistake("momentum subtracted", "that gradients of one sign add up", "with momentum, from the second step on"),
    _mistake("velocity of the step before", "that the new velocity makes the step", "with momentum"),
    _mistake(
        "lr in the velocity",
        "that lr multiplies the velocity when the step is made; Sutskever's v ← momentum v − lr g is the same only "
        "while lr is constant, and its buffer holds other numbers",
        "with momentum: in the buffer at once, in the parameter when lr changes",
    ),
    _mistake("nesterov forgotten", "the look ahead: it steps along v, not g + momentum v", "for nesterov=True"),
    _mistake("nesterov without the gradient", "that g itself is part of the step", "for nesterov=True"),
    _mistake(
        "nesterov ahead by the old velocity",
        "that Nesterov looks ahead by the new velocity: this is plain momentum",
        "for nesterov=True",
    ),
    _mistake("sign of decay", "that decay makes weights smaller", "with weight decay"),
    _mistake(
        "decay decoupled",
        "that decay is part of the gradient here, and passes through momentum",
        "with weight decay and momentum; without momentum the two are the same",
    ),
    _mistake("decay forgotten", "weight_decay", "with weight decay"),
    _mistake("decay without lr", "that decay is multiplied by lr", "with weight decay"),
    _mistake("decay after the step", "that decay is of the parameter before the step", "with weight decay"),
)
