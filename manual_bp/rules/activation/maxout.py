"""Maxout: the largest of each unit's pieces.

The last axis of x holds units · pieces numbers; the pieces of a unit are consecutive.

    y_u = max_q x_{u,q}

Derivation.  Where one piece is larger than the others, y_u is that piece and nothing else; so with w_u the winning
piece

    dx_{u,q} = dy_u   q = w_u
    dx_{u,q} = 0      otherwise

There is no element-wise σ' here: the gradient is routed, not scaled.  At a tie every convex combination of the tied
pieces is a subgradient; this page gives all of dy to the first of them, as torch.max does.  To give it to each of
them is no subgradient.

Source: Goodfellow et al., "Maxout Networks", ICML 2013, section 3.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from manual_bp.inputs import Convention, Edge, Input, Mistake, normal, require


class Residuals(NamedTuple):
    winner: Int[Tensor, "*batch units"]
    """The winning piece of each unit: one index in place of `pieces` numbers, and the tie is settled once."""
    pieces: int


def forward(x: Float[Tensor, "*batch units*pieces"], *, pieces: int) -> tuple[Float[Tensor, "*batch units"], Residuals]:
    require(pieces >= 1, "maxout: pieces must be at least 1", pieces, "With one piece maxout is the identity.")
    candidates = x.reshape(*x.shape[:-1], x.shape[-1] // pieces, pieces)
    winner = torch.argmax(candidates, dim=-1)  # documented to be the first of several maxima
    y = torch.gather(candidates, -1, winner[..., None])[..., 0]
    return y, Residuals(winner, pieces)


def backward(residuals: Residuals, dy: Float[Tensor, "*batch units"]) -> tuple[Float[Tensor, "*batch units*pieces"]]:
    winner, pieces = residuals
    won = winner[..., None] == torch.arange(pieces, device=dy.device)
    dx = torch.where(won, dy[..., None], 0)
    return (dx.reshape(*dy.shape[:-1], dy.shape[-1] * pieces),)


INPUTS = {"x": Input(normal())}
HYPER = {"pieces": 3}
USUAL = {"pieces": (2, 4, 5)}


def _last(x: Tensor, dy: Tensor, pieces: int) -> tuple[Tensor]:
    tied = _tied(x, pieces)
    last = tied & (tied.flip(-1).cumsum(-1).flip(-1) == 1)
    return (torch.where(last, dy[..., None], 0).reshape(x.shape),)


def _split(x: Tensor, dy: Tensor, pieces: int) -> tuple[Tensor]:
    tied = _tied(x, pieces)
    return (torch.where(tied, dy[..., None] / tied.sum(-1, keepdim=True), 0).reshape(x.shape),)


CONVENTIONS = {
    "tie": {
        "first": Convention("dy goes to the first of equal pieces"),
        "last": Convention("dy goes to the last of equal pieces", gradient=_last),
        "split": Convention("equal pieces share dy evenly", gradient=_split),
        "any": Convention("any valid subgradient", any_subgradient=True),
    }
}

EDGES = (
    Edge("tie", {"x": [[1.0, 1.0, 0.0, 2.0, 0.0, 2.0, 3.0, 3.0, 3.0]]}),
    Edge("tie of signed zeros", {"x": [[0.0, -0.0, -1.0, -0.0, 0.0, -1.0]]}),
    Edge("one piece", {"pieces": 1}),
    Edge("many pieces", {"pieces": 9}),
    Edge("one unit", {"pieces": 4}, sizes={"units": 1}),
    Edge("no unit", sizes={"units": 0}),
    Edge("infinities", {"x": [[float("inf"), 0.0, float("-inf"), 1.0, float("-inf"), 2.0]]}),
    Edge("pieces that do not divide", {"x": [[1.0, 2.0, 3.0, 4.0]]}, raises=ValueError),
    Edge("no piece", {"x": [[1.0, 2.0]], "pieces": 0}, raises=ValueError),
)


def _pieces(x: Tensor, pieces: int) -> Tensor:
    return x.reshape(*x.shape[:-1], x.shape[-1] // pieces, pieces)


def _won(x: Tensor, pieces: int) -> Tensor:
    return torch.argmax(_pieces(x, pieces), -1)[..., None] == torch.arange(pieces, device=x.device)


def _tied(x: Tensor, pieces: int) -> Tensor:
    return _pieces(x, pieces) == _pieces(x, pieces).amax(-1, keepdim=True)


MISTAKES = (
    Mistake(
        "every tied piece",
        lambda x, dy, pieces: (torch.where(_tied(x, pieces), dy[..., None], 0).flatten(-2),),
        forgets="that several pieces can equal the maximum: the tied ones together get more than dy",
        shows="at ties",
        seen="https://github.com/apache/mxnet/issues/18563",
    ),
    Mistake(
        "split among ties",
        lambda x, dy, pieces: (
            (_tied(x, pieces) * (dy[..., None] / _tied(x, pieces).sum(-1, keepdim=True))).flatten(-2),
        ),
        forgets="which subgradient the convention takes at a tie: this one is valid, and not this page's",
        shows="at ties",
        seen="https://github.com/tensorflow/tensorflow/issues/4886",
    ),
    Mistake(
        "nearly tied pieces too",
        lambda x, dy, pieces: (
            torch.where(_pieces(x, pieces) > _pieces(x, pieces).amax(-1, keepdim=True) - 0.5, dy[..., None], 0).flatten(
                -2
            ),
        ),
        forgets="that near the maximum is not the maximum",
        shows="where two pieces lie close",
        seen="https://github.com/mni-ml/framework/pull/22",
    ),
    Mistake(
        "smallest piece",
        lambda x, dy, pieces: (
            torch.where(_pieces(x, pieces) == _pieces(x, pieces).amin(-1, keepdim=True), dy[..., None], 0).flatten(-2),
        ),
        forgets="which extremum wins",
        shows="everywhere",
        seen="https://github.com/edeforas/BeeDNN/blob/cba9b14d08e9b76d87d6c88a3d36967cd32cd8a2/src/LayerMaxout.cpp",
    ),
    Mistake(
        "every piece",
        lambda x, dy, pieces: (torch.repeat_interleave(dy, pieces, dim=-1),),
        forgets="that only the winner was let through",
        shows="everywhere",
    ),
    Mistake(
        "shared by the pieces",
        lambda x, dy, pieces: (torch.repeat_interleave(dy / pieces, pieces, dim=-1),),
        forgets="that a maximum is not a mean",
        shows="everywhere",
    ),
    Mistake(
        "interleaved pieces",
        lambda x, dy, pieces: (torch.where(_won(x, pieces), dy[..., None], 0).transpose(-1, -2).flatten(-2),),
        forgets="that the pieces of a unit are consecutive",
        shows="wherever there are several units and pieces",
        seen="https://github.com/BVLC/caffe/issues/2419",
    ),
    Mistake(
        "counted from the end",
        lambda x, dy, pieces: (torch.where(_won(x, pieces).flip(-1), dy[..., None], 0).flatten(-2),),
        forgets="from which end the pieces are counted",
        shows="wherever the winner is not in the middle",
    ),
    Mistake(
        "cotangent dropped",
        lambda x, dy, pieces: (torch.where(_won(x, pieces), torch.ones_like(dy)[..., None], 0).flatten(-2),),
        forgets="dy",
        shows="wherever dy is not 1",
    ),
)
