"""What recurrent layers share: sequences (time, batch, ...) whose pre-activations are affine in x_t and in a state.

Of every step a cotangent comes in, and one and the same weight is used in all of them: its cotangent is a sum over the
steps.  The sums are products of two matrices with a row for each step and example.
"""

import math

import torch
from torch import Tensor

from manual_bp.inputs import Shape, require, uniform


def require_a_step(name: str, x: Tensor) -> None:
    require(x.shape[0] > 0, f"{name}: x must have at least one time step", "none", "Without one there is no state h_n.")


def initial(shape: Shape, generator: torch.Generator) -> Tensor:
    """Weights as torch draws them, within ±1/√n of n units that they read: then a state neither grows nor dies out
    within a few steps."""
    return uniform(-1, 1)(shape, generator) / math.sqrt(max(shape[-1], 1))


def before(first: Tensor, states: Tensor) -> Tensor:
    """The state before each step, from the one before the first and those after each."""
    return torch.cat([first[None], states[:-1]])


def through_weight(da: Tensor, x: Tensor) -> Tensor:
    """dW of a_t = W x_t: Σ over steps and examples of da xᵀ."""
    return torch.flatten(da, 0, 1).T @ torch.flatten(x, 0, 1)


def through_bias(da: Tensor) -> Tensor:
    """db of a_t = ... + b: Σ over steps and examples of da."""
    return torch.sum(torch.flatten(da, 0, 1), 0)
