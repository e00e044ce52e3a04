"""Optimisers: named pairs of pure functions with explicit state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

Tensors = Mapping[str, Tensor]


class Optimizer(NamedTuple):
    """init(params) -> state;  update(gradients, state, params) -> (new params, new state)."""

    name: str
    init: Callable[[Tensors], Any]
    update: Callable[[Tensors, Any, Tensors], tuple[dict[str, Tensor], Any]]


def sgd(lr: float) -> Optimizer:
    """Stochastic gradient descent: W ← W − lr dW.  It has no state.

    Raises ValueError unless lr is positive.
    """
    if not lr > 0:
        raise ValueError(f"sgd: the learning rate must be positive; came {lr}.")

    def update(gradients: Tensors, state: Any, params: Tensors) -> tuple[dict[str, Tensor], Any]:
        return {name: weight.detach() - lr * gradients[name] for name, weight in params.items()}, state

    return Optimizer("sgd", lambda params: None, update)
