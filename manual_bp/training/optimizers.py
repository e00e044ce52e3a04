"""Optimisers: named pairs of pure functions with explicit state.

The state is a flat dictionary of tensors under torch.optim's names, such as "momentum_buffer.W1", "exp_avg.W1" and one
"step" for all parameters.  Nothing in it depends on the learning rate, so a schedule is another optimiser with the
same state at each step.

Weight decay here is torch.optim's.  In `sgd` and `adam` it adds weight_decay · W to the gradient of *every* parameter,
biases too, which is the gradient of the penalty weight_decay/2 Σ W²; `training_step(l2=...)` does the same for weights
alone, and counts it in the cost.  In `adamw` it is decoupled: W shrinks by lr · weight_decay · W beside the update.
For plain gradient descent the two are the same.  Adam divides the gradient by its own size, and with it a penalty that
is part of the gradient: large gradients are then decayed less, while decoupled decay treats all alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from manual_bp.training.arguments import check_bool, check_not_negative, is_finite

Tensors = Mapping[str, Tensor]


class Optimizer(NamedTuple):
    """A pair of pure functions.

    name, config: what built it, so that another engine can build its own: torch.optim's class of that name takes
        `config` as its arguments.
    init: params -> state.
    update: gradients, state, params -> new params, new state.
    """

    name: str
    config: dict[str, float | bool | tuple[float, float]]
    init: Callable[[Tensors], dict[str, Tensor]]
    update: Callable[[Tensors, Tensors, Tensors], tuple[dict[str, Tensor], dict[str, Tensor]]]


def sgd(
    lr: float, momentum: float = 0.0, dampening: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False
) -> Optimizer:
    """Stochastic gradient descent, with momentum.

        g ← dW + weight_decay W
        v ← momentum v + (1 − dampening) g          the first time v ← g
        W ← W − lr v                                with nesterov: W ← W − lr (g + momentum v)

    Without momentum W ← W − lr g, and there is no state.  The velocity v is not multiplied by lr, as in torch and
    unlike in the papers; the two are the same while lr is constant.

    Raises ValueError for negative or infinite arguments, and for nesterov without momentum or with dampening.
    Sources: Polyak, "Some methods of speeding up the convergence of iteration methods", USSR Comput. Math. Math. Phys.
    4 (1964); Sutskever et al., "On the importance of initialization and momentum in deep learning", ICML 2013, for
    Nesterov's; the form of both is torch.optim.SGD's.
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

    def init(params: Tensors) -> dict[str, Tensor]:
        if not momentum:
            return {}
        velocity = {f"momentum_buffer.{name}": torch.zeros_like(weight.detach()) for name, weight in params.items()}
        # Only dampening has to know the first step: without it, momentum · 0 + g is g.
        return {**velocity, "step": _zero_steps(params)} if dampening else velocity

    def update(gradients: Tensors, state: Tensors, params: Tensors) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        after_params, after = {}, {}
        if momentum and dampening:
            after["step"] = state["step"] + 1
        for name, weight in _detached(params):
            g = gradients[name]
            if weight_decay:
                g = g + weight_decay * weight
            direction = g
            if momentum:
                v = momentum * state[f"momentum_buffer.{name}"] + (1 - dampening) * g
                if dampening:
                    v = torch.where(state["step"] == 0, g, v)
                after[f"momentum_buffer.{name}"] = v
                direction = g + momentum * v if nesterov else v
            after_params[name] = weight - lr * direction
        return after_params, after

    config = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
    return Optimizer("sgd", {**config, "nesterov": nesterov}, init, update)


def adam(
    lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0
) -> Optimizer:
    """Adam: each parameter's step is its mean gradient over the root of its mean squared gradient.

        g ← dW + weight_decay W
        m ← β₁ m + (1 − β₁) g,     m̂ = m / (1 − β₁ᵗ)
        v ← β₂ v + (1 − β₂) g²,    v̂ = v / (1 − β₂ᵗ)
        W ← W − lr m̂ / (√v̂ + eps)

    t counts from 1.  m and v begin at 0; the divisions make up for that.

    Raises ValueError for negative or infinite arguments, and for betas outside [0, 1).
    Source: Kingma & Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, algorithm 1.
    """
    return _adam("adam", lr, betas, eps, weight_decay, decoupled=False)


def adamw(
    lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 1e-2
) -> Optimizer:
    """Adam with decoupled weight decay: as `adam` with g = dW, and before the update

        W ← W − lr weight_decay W

    Raises ValueError as `adam` does.
    Source: Loshchilov & Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, algorithm 2; with lr in the decay,
    as in torch.optim.AdamW.
    """
    return _adam("adamw", lr, betas, eps, weight_decay, decoupled=True)


def _adam(
    kind: str, lr: float, betas: tuple[float, float], eps: float, weight_decay: float, *, decoupled: bool
) -> Optimizer:
    check_not_negative(kind, lr=lr, eps=eps, weight_decay=weight_decay)
    two = isinstance(betas, tuple | list) and len(betas) == 2
    if not two or not all(is_finite(beta) and 0 <= beta < 1 for beta in betas):
        raise ValueError(f"{kind}: betas must be two numbers in [0, 1); came {betas!r}. Usual are (0.9, 0.999).")
    beta1, beta2 = betas

    def init(params: Tensors) -> dict[str, Tensor]:
        means = {
            f"{moment}.{name}": torch.zeros_like(weight.detach())  # memory of its own each: a step may write into it
            for moment in ("exp_avg", "exp_avg_sq")
            for name, weight in params.items()
        }
        return {**means, "step": _zero_steps(params)}

    def update(gradients: Tensors, state: Tensors, params: Tensors) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        t = state["step"] + 1
        after_params, after = {}, {"step": t}
        # In float64 whatever the parameters are: in float32, 1 − 0.999 has four digits left.
        correction1, correction2 = 1 - beta1 ** t.double(), 1 - beta2 ** t.double()
        for name, weight in _detached(params):
            g = gradients[name]
            if weight_decay and decoupled:
                weight = weight - lr * weight_decay * weight
            elif weight_decay:
                g = g + weight_decay * weight
            m = beta1 * state[f"exp_avg.{name}"] + (1 - beta1) * g
            v = beta2 * state[f"exp_avg_sq.{name}"] + (1 - beta2) * g**2
            m_hat = m / correction1.to(weight.dtype)
            v_hat = v / correction2.to(weight.dtype)
            after_params[name] = weight - lr * m_hat / (torch.sqrt(v_hat) + eps)
            after[f"exp_avg.{name}"], after[f"exp_avg_sq.{name}"] = m, v
        return after_params, after

    return Optimizer(kind, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}, init, update)


def _detached(params: Tensors) -> list[tuple[str, Tensor]]:
    return [(name, weight.detach()) for name, weight in params.items()]


def _zero_steps(params: Tensors) -> Tensor:
    """No step yet, as a float32 number like torch.optim's, on the parameters' device."""
    device = next((weight.device for weight in params.values()), torch.device("cpu"))
    return torch.zeros((), dtype=torch.float32, device=device)
