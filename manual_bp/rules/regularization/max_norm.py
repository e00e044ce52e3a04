"""Max-norm: no unit's incoming weights are longer than a limit.

Row o of W holds the weights that come into unit o.

    y_o = W_o                    where ‖W_o‖ ≤ limit
    y_o = limit W_o / ‖W_o‖      where ‖W_o‖ > limit

This is the projection of each row onto the ball of radius `limit`.  Training applies it to the weights after each
update, and does not differentiate it; a network that uses y in place of W does.

Derivation.  Let u = W_o/‖W_o‖, the direction of a row that is too long.  As ∂‖W_o‖/∂W_oi = u_i,

    ∂y_oj/∂W_oi = limit/‖W_o‖ (δ_ij − u_i u_j)
    dweight_o   = limit/‖W_o‖ (dy_o − u (u · dy_o))

and dweight_o = dy_o for a row that is left alone: two terms, `direct` and `projection`, which takes away what points
along the row, since a longer row gives the same y.  At ‖W_o‖ = limit there is a kink, and this page takes dy_o, the
derivative from inside.

Source: Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", JMLR 15 (2014),
section 5.1.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, normal, require


class Residuals(NamedTuple):
    weight: Float[Tensor, "out in"]
    norm: Float[Tensor, "out"]
    """‖W_o‖: it says which rows were too long, and by how much."""
    limit: float


def forward(weight: Float[Tensor, "out in"], *, limit: float) -> tuple[Float[Tensor, "out in"], Residuals]:
    require(limit > 0, "max_norm: limit must be positive", limit, "It is the largest norm that a row may have.")
    norm = torch.sqrt(torch.sum(weight**2, 1))
    too_long = norm[:, None] > limit
    y = torch.where(too_long, limit * (weight / norm[:, None]), weight)
    return y, Residuals(weight, norm, limit)


def backward(residuals: Residuals, dy: Float[Tensor, "out in"]) -> tuple[Float[Tensor, "out in"]]:
    found = terms(residuals, dy)["dweight"]
    return (found["direct"] + found["projection"],)


def terms(residuals: Residuals, dy: Tensor) -> dict[str, dict[str, Tensor]]:
    """The summands of the derivation."""
    weight, limit = residuals.weight, residuals.limit
    norm = residuals.norm[:, None]
    too_long = norm > limit
    u = weight / norm
    along = torch.sum(u * dy, 1)[:, None]
    return {
        "dweight": {
            "direct": torch.where(too_long, limit / norm * dy, dy),
            "projection": torch.where(too_long, -limit / norm * (u * along), 0),
        }
    }


INPUTS = {"weight": Input(normal())}
HYPER = {"limit": 1.5}
USUAL = {"limit": (3.0, 4.0)}

EDGES = (
    Edge("every row too long", {"limit": 0.01}),
    Edge("no row too long", {"limit": 100.0}),
    Edge("an int for limit", {"limit": 1}),
    Edge("limit exactly met", {"weight": [[3.0, 4.0], [0.0, -5.0], [3.0, -4.5]], "limit": 5.0}),
    Edge("zero rows", {"weight": [[0.0, -0.0], [3.0, 4.0], [0.0, 0.0]]}),
    Edge("a row with one weight", {"weight": [[0.0, 2.0, 0.0], [0.0, 0.0, -9.0]]}),
    Edge("dy along the row", {"weight": [[3.0, 4.0]], "limit": 1.0, "dy": [[6.0, 8.0]]}),
    Edge("dy across the row", {"weight": [[3.0, 4.0]], "limit": 1.0, "dy": [[-8.0, 6.0]]}),
    Edge("long columns, short rows", {"weight": [[1.0, 0.0], [1.0, 0.0], [1.0, 0.5]]}),
    Edge("limit 0", {"limit": 0.0}, raises=ValueError),
    Edge("negative limit", {"limit": -1.0}, raises=ValueError),
)


def _gradient(
    weight: Tensor,
    dy: Tensor,
    limit: float,
    axis: int | tuple[int, int] = 1,
    direct: float = 1.0,
    projection: float = 1.0,
    rooted: bool = True,
    scaled: bool = True,
    always: bool = False,
) -> tuple[Tensor]:
    """The right formula, from which wrong ones are made."""
    square = torch.sum(weight**2, axis, keepdim=True)
    norm = torch.sqrt(square)
    u = weight / norm
    along = torch.sum(u * dy, axis, keepdim=True)
    turned = (limit / norm if scaled else 1.0) * (direct * dy - projection * u * along)
    return (torch.where(((norm if rooted else square) > limit) | always, turned, dy),)


MISTAKES = (
    Mistake(
        "norm as a constant",
        lambda weight, dy, limit: _gradient(weight, dy, limit, projection=0),
        forgets="that the norm depends on the weights: the projection term",
        shows="for rows that are too long, unless dy lies across the row",
    ),
    Mistake(
        "identity",
        lambda weight, dy, limit: (dy,),
        forgets="that forward shortened rows",
        shows="for rows that are too long",
        seen="https://github.com/happynear/caffe-windows/issues/265",
    ),
    Mistake(
        "nothing for long rows",
        lambda weight, dy, limit: _gradient(weight, dy, limit, direct=0, projection=0),
        forgets="that a row at the limit can still turn: this is the gradient of a clipped number",
        shows="for rows that are too long",
    ),
    Mistake(
        "projection term's sign",
        lambda weight, dy, limit: _gradient(weight, dy, limit, projection=-1),
        forgets="that a longer row gives the same y",
        shows="for rows that are too long, unless dy lies across the row",
    ),
    Mistake(
        "scale forgotten",
        lambda weight, dy, limit: _gradient(weight, dy, limit, scaled=False),
        forgets="the limit/‖W‖ of forward",
        shows="for rows that are too long",
    ),
    Mistake(
        "square of the norm",
        lambda weight, dy, limit: _gradient(weight, dy, limit, rooted=False),
        forgets="the root, when it asks which rows are too long",
        shows="for rows between √limit and limit",
    ),
    Mistake(
        "columns",
        lambda weight, dy, limit: _gradient(weight, dy, limit, axis=0),
        forgets="that the weights coming into a unit are a row of (out, in)",
        shows="unless the matrix is symmetric",
        seen="https://github.com/kevinzakka/pytorch-goodies/issues/1",
    ),
    Mistake(
        "norm of the whole matrix",
        lambda weight, dy, limit: _gradient(weight, dy, limit, axis=(0, 1)),
        forgets="that each unit has a limit of its own",
        shows="for more than one row",
    ),
    Mistake(
        "short rows lengthened",
        lambda weight, dy, limit: _gradient(weight, dy, limit, always=True),
        forgets="that only rows beyond the limit are touched",
        shows="for rows within the limit; NaN for zero rows",
    ),
    Mistake(
        "cotangent dropped",
        lambda weight, dy, limit: _gradient(weight, torch.ones_like(dy), limit),
        forgets="dy",
        shows="wherever dy is not 1",
    ),
)
