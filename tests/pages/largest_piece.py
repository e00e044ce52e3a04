"""The largest of each unit's pieces: an axis that is a product, with a hyperparameter in it.

y_u = max_p x_{u·pieces + p};   dx at the first of the largest is dy_u, and 0 elsewhere
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from manual_bp.inputs import Convention, Edge, Input, Mistake


class Residuals(NamedTuple):
    winner: Int[Tensor, "*batch units"]
    pieces: int


def forward(x: Float[Tensor, "*batch units*pieces"], *, pieces: int) -> tuple[Float[Tensor, "*batch units"], Residuals]:
    u = x.reshape(*x.shape[:-1], x.shape[-1] // pieces, pieces)
    winner = torch.argmax(u, dim=-1)
    return torch.amax(u, dim=-1), Residuals(winner, pieces)


def backward(residuals: Residuals, dy: Float[Tensor, "*batch units"]) -> tuple[Float[Tensor, "*batch units*pieces"]]:
    winner, pieces = residuals
    is_winner = winner[..., None] == torch.arange(pieces, device=dy.device)
    dx = torch.where(is_winner, dy[..., None], 0)
    return (dx.reshape(*dy.shape[:-1], dy.shape[-1] * pieces),)


INPUTS = {"x": Input()}
HYPER = {"pieces": 3}
EDGES = (Edge("two pieces", {"pieces": 2}), Edge("five pieces", {"pieces": 5}), Edge("a tie", {"x": [[1.0, 1.0, 0.0]]}))
CONVENTIONS = {
    "tie": {"first": Convention("the first of equals"), "any": Convention("any of equals", any_subgradient=True)}
}
MISTAKES = (
    Mistake(
        "every piece",
        lambda x, dy, pieces: (dy[..., None].expand(*dy.shape, pieces).reshape(x.shape),),
        forgets="that one piece alone is y",
        shows="for more than one piece",
    ),
)
