"""Numbers held between -cap and cap, by a function that is the identity near 0, where this page draws them.

y = cap tanh(x / cap);   dx = dy (1 - tanh²(x / cap)) = dy / cosh²(x / cap)
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Input, Mistake, normal


class Residuals(NamedTuple):
    x: Float[Tensor, "*shape"]
    cap: float


def forward(x: Float[Tensor, "*shape"], *, cap: float = 30.0) -> tuple[Float[Tensor, "*shape"], Residuals]:
    return cap * torch.tanh(x / cap), Residuals(x, cap)


def backward(residuals: Residuals, dy: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"]]:
    x, cap = residuals
    small = torch.exp(-2 * torch.abs(x / cap))
    return (dy * 4 * small / (1 + small) ** 2,)


INPUTS = {"x": Input(normal(std=1e-3))}
EDGES = ()
MISTAKES = (Mistake("cap forgotten", lambda x, dy, cap: (dy,), forgets="the derivative of tanh", shows="away from 0"),)
