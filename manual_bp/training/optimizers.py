"""Optimisers: named pairs of pure functions with explicit state, made of the pages of the chapter update.

The state is a flat dictionary of tensors under torch.optim's names, such as "momentum_buffer.W1", "exp_avg.W1" and one
"step" for all parameters.  Nothing in it depends on the learning rate, so a schedule is another optimiser with the
same state at each step.

Weight decay here is torch.optim's.  In `sgd` and `adam` it adds weight_decay · W to the gradient of *every* parameter,
biases too, which is the gradient of the penalty weight_decay/2 Σ W²; `training_step(l2=...)` does the same for weights
alone, and counts it in the cost.  In `adamw` it is decoupled: W shrinks by lr · weight_decay · W beside the update.
For plain gradient descent the two are the same.  Adam divides the gradient by its own size, and with it a penalty that
is part of the gradient: large gradients are then decayed less, while decoupled decay treats all alike.
Which parameters decay, `training_step(decayed=...)` says: all by default, as in one parameter group of torch.optim.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manual_bp.arguments import check_bool, check_not_negative, is_finite
from manual_bp.registry import RULES

Tensors = Mapping[str, Tensor]

MOMENTS = ("exp_avg", "exp_avg_sq")


class Optimizer(NamedTuple):
    """A pair of pure functions.

    name, config: what built it, so that another engine can build its own: torch.optim's class of that name takes
        `config` as its arguments.
    init: params -> state.
    update: gradients, state, params -> new params, new state.  Those of this package also take `lr`, in place of that
        of `config`: a number, or a tensor without axes, which a compiled step reads; and `decayed`, the names of the
        parameters whose weight_decay is that of `config`, while the others' is 0: None for all.
    """

    name: str
    config: dict[str, float | bool | tuple[float, float]]
    init: Callable[[Tensors], dict[str, Tensor]]
    update: Callable[..., tuple[dict[str, Tensor], dict[str, Tensor]]]


def sgd(
    lr: float, momentum: float = 0.0, dampening: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False
) -> Optimizer:
    """Stochastic gradient descent, with momentum: the page sgd_update for each parameter.

    Without momentum there is no state.  With it the buffers begin at 0, which is the same as none but for dampening:
    then the state counts steps, and the first one is taken without a buffer.

    Raises ValueError for negative or infinite arguments, and for nesterov without momentum or with dampening.
    """
    check_not_negative("sgd", lr=lr, momentum=momentum, weight_decay=weight_decay)
    if not is_finite(dampening):
        raise ValueError(f"sgd: dampening must be finite, and a number; came {dampening!r}.")
    check_bool("sgd", nesterov=nesterov)
    if nesterov and (momentum == 0 or dampening != 0):
        raise ValueError(
            f"sgd: nesterov needs a momentum above 0 and no dampening; came momentum={momentum}, "
            f"dampening={dampening}. Leave nesterov out, or set the two."
        )
    config: dict[str, float | bool | tuple[float, float]] = {
        "lr": lr,
        "momentum": momentum,
        "dampening": dampening,
        "weight_decay": weight_decay,
        "nesterov": bool(nesterov),
    }

    def init(params: Tensors) -> dict[str, Tensor]:
        if not momentum:
            return {}
        velocity = {f"momentum_buffer.{name}": torch.zeros_like(weight.detach()) for name, weight in params.items()}
        # Only dampening has to know the first step: without it, momentum · 0 + g is g.
        return {**velocity, "step": _zero_steps(params)} if dampening else velocity

    def update(
        gradients: Tensors,
        state: Tensors,
        params: Tensors,
        lr: float | Tensor = lr,
        decayed: Collection[str] | None = None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        after_params, after = {}, {}
        if momentum and dampening:
            after["step"] = state["step"] + 1
        for name, weight in _detached(params):
            given = {**config, "lr": lr, "weight_decay": decay_of(name, weight_decay, decayed)}
            kept = f"momentum_buffer.{name}"
            weight_after, v = _updated("sgd_update", weight, gradients[name], state.get(kept), **given)
            if momentum and dampening:
                first = _updated("sgd_update", weight, gradients[name], None, **given)
                is_first = state["step"] == 0
                weight_after, v = (
                    torch.where(is_first, one, other) for one, other in zip(first, (weight_after, v), strict=True)
                )
            after_params[name] = weight_after
            if momentum:
                after[kept] = v
        return after_params, after

    return Optimizer("sgd", config, init, update)


def adam(
    lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0
) -> Optimizer:
    """Adam: the page adam_update for each parameter.  The state begins at 0, and one count of steps is for all.

    Raises ValueError for negative or infinite arguments, and for betas outside [0, 1).
    """
    return _adam("adam", "adam_update", lr, betas, eps, weight_decay)


def adamw(
    lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 1e-2
) -> Optimizer:
    """Adam with decoupled weight decay: the page adamw_update for each parameter.

    Raises ValueError as `adam` does.
    """
    return _adam("adamw", "adamw_update", lr, betas, eps, weight_decay)


def _adam(kind: str, page: str, lr: float, betas: tuple[float, float], eps: float, weight_decay: float) -> Optimizer:
    check_not_negative(kind, lr=lr, eps=eps, weight_decay=weight_decay)
    two = isinstance(betas, tuple | list) and len(betas) == 2
    if not two or not all(is_finite(beta) and 0 <= beta < 1 for beta in betas):
        raise ValueError(f"{kind}: betas must be two numbers in [0, 1); came {betas!r}. Usual are (0.9, 0.999).")
    config = {"lr": lr, "beta1": betas[0], "beta2": betas[1], "eps": eps, "weight_decay": weight_decay}

    def init(params: Tensors) -> dict[str, Tensor]:
        means = {
            f"{moment}.{name}": torch.zeros_like(weight.detach())  # memory of its own each: a step may write into it
            for moment in MOMENTS
            for name, weight in params.items()
        }
        return {**means, "step": _zero_steps(params)}

    def update(
        gradients: Tensors,
        state: Tensors,
        params: Tensors,
        lr: float | Tensor = lr,
        decayed: Collection[str] | None = None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        t = state["step"] + 1
        after_params, after = {}, {"step": t}
        for name, weight in _detached(params):
            given = {**config, "lr": lr, "weight_decay": decay_of(name, weight_decay, decayed)}
            moments = (state[f"{moment}.{name}"] for moment in MOMENTS)
            found = _updated(page, weight, gradients[name], *moments, step=t.double(), **given)
            after_params[name] = found.param
            after |= {f"{moment}.{name}": getattr(found, moment) for moment in MOMENTS}
        return after_params, after

    return Optimizer(kind, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}, init, update)


MAKERS: Mapping[str, Callable[..., Optimizer]] = MappingProxyType({"sgd": sgd, "adam": adam, "adamw": adamw})
"""By name, what makes an optimiser of its config."""


def decay_of(name: str, weight_decay: float, decayed: Collection[str] | None) -> float:
    """The weight decay of one parameter."""
    return weight_decay if decayed is None or name in decayed else 0.0


def _updated(page: str, *tensors: Tensor | None, **hyper: Any) -> Any:
    """The page's own forward, unchecked: a count of steps or a learning rate that is a tensor, so that it can be
    compiled, is no number."""
    return RULES[page].pure(*tensors, **hyper)[0]


def _detached(params: Tensors) -> list[tuple[str, Tensor]]:
    return [(name, weight.detach()) for name, weight in params.items()]


def _zero_steps(params: Tensors) -> Tensor:
    """No step yet, as a float32 number like torch.optim's, on the parameters' device."""
    device = next((weight.device for weight in params.values()), torch.device("cpu"))
    return torch.zeros((), dtype=torch.float32, device=device)
