"""Optimisers as people get them wrong; each must be rejected wherever optimisers are judged."""

from __future__ import annotations

import torch

from manual_bp.training import adam, adamw, sgd


def wrong_sgd(lr=0.01, momentum=0.9, dampening=0.0, weight_decay=0.0, nesterov=False, *, wrong):
    """torch's formulas but for one thing."""
    right = sgd(lr, momentum, dampening, weight_decay, nesterov)

    def update(gradients, state, params):
        after_params, after = {}, {}
        if "step" in state:
            after["step"] = state["step"] + 1
        for name, weight in params.items():
            g = gradients[name] + (0 if wrong == "decay forgotten" else weight_decay) * weight
            before = state[f"momentum_buffer.{name}"]
            v = momentum * before + (1 if wrong == "dampening forgotten" else 1 - dampening) * g
            if "step" in state and wrong != "first gradient dampened":
                v = torch.where(state["step"] == 0, g, v)
            ahead = before if wrong == "velocity of the step before" else v
            plain = not nesterov or wrong == "Nesterov forgotten"
            after_params[name] = weight - lr * (ahead if plain else g + momentum * ahead)
            after[f"momentum_buffer.{name}"] = v
        return after_params, after

    return right._replace(update=update)


def wrong_adam(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled=False, *, wrong):
    """torch's formulas but for one thing."""
    right = (adamw if decoupled else adam)(lr, betas, eps, weight_decay)
    beta1, beta2 = reversed(betas) if wrong == "betas swapped" else betas
    if wrong == "coupling":
        decoupled = not decoupled

    def update(gradients, state, params):
        t = state["step"] + (0 if wrong == "t counts from 0" else 1)
        correction1 = (1 - beta1 ** t.double()).to(torch.float64)
        correction2 = (1 - beta2 ** t.double()).to(torch.float64)
        after_params, after = {}, {"step": state["step"] + 1}
        for name, weight in params.items():
            g = gradients[name] if decoupled else gradients[name] + weight_decay * weight
            m = beta1 * state[f"exp_avg.{name}"] + (-1 if wrong == "sign of m" else 1) * (1 - beta1) * g
            v = beta2 * state[f"exp_avg_sq.{name}"] + (1 - beta2) * (g if wrong == "g for g²" else g**2)
            m_hat = m if wrong == "no correction of m" else m / correction1
            v_hat = v if wrong == "no correction of v" else v / correction2
            root = torch.sqrt(v_hat + eps) if wrong == "eps inside the root" else torch.sqrt(v_hat) + eps
            if wrong == "eps before the correction":
                root = (torch.sqrt(v) + eps) / torch.sqrt(correction2)
            shrunk = weight - lr * weight_decay * weight if decoupled else weight
            if wrong == "decay without lr":
                shrunk = weight - weight_decay * weight
            after_params[name] = shrunk - (lr * m_hat / root).to(weight.dtype)
            after[f"exp_avg.{name}"], after[f"exp_avg_sq.{name}"] = m, v
        return after_params, after

    return right._replace(update=update)


WRONG = {
    "sgd: decay forgotten": lambda: wrong_sgd(weight_decay=0.01, wrong="decay forgotten"),
    "sgd: dampening forgotten": lambda: wrong_sgd(dampening=0.5, wrong="dampening forgotten"),
    "sgd: first gradient dampened": lambda: wrong_sgd(dampening=0.5, wrong="first gradient dampened"),
    "sgd: velocity of the step before": lambda: wrong_sgd(wrong="velocity of the step before"),
    "sgd: Nesterov forgotten": lambda: wrong_sgd(nesterov=True, wrong="Nesterov forgotten"),
    "adam: t counts from 0": lambda: wrong_adam(wrong="t counts from 0"),
    "adam: sign of m": lambda: wrong_adam(wrong="sign of m"),
    "adam: g for g²": lambda: wrong_adam(wrong="g for g²"),
    "adam: no correction of m": lambda: wrong_adam(wrong="no correction of m"),
    "adam: no correction of v": lambda: wrong_adam(wrong="no correction of v"),
    "adam: eps inside the root": lambda: wrong_adam(wrong="eps inside the root"),
    "adam: eps before the correction": lambda: wrong_adam(eps=1e-4, wrong="eps before the correction"),
    "adam: betas swapped": lambda: wrong_adam(wrong="betas swapped"),
    "adam: decay decoupled": lambda: wrong_adam(weight_decay=0.01, wrong="coupling"),
    "adamw: decay coupled": lambda: wrong_adam(weight_decay=0.01, decoupled=True, wrong="coupling"),
    "adamw: decay without lr": lambda: wrong_adam(weight_decay=0.01, decoupled=True, wrong="decay without lr"),
}
