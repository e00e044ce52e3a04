"""Gradient clipping by value: no element is larger than a limit.

    y = grad              where |grad| ≤ limit
    y = limit sign(grad)  elsewhere

Each element is cut by itself, so that the direction of the gradient changes: towards the corners of a cube, in which a
step along each axis is at most lr · limit.  clip_by_norm keeps the direction.  −limit and limit stay as they are, an
infinite element becomes the limit, and NaN stays NaN; limit = 0 gives 0.

Source: Mikolov, "Statistical Language Models Based on Neural Networks", PhD thesis, Brno 2012; as
torch.nn.utils.clip_grad_value_.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, normal, require


def forward(grad: Float[Tensor, "*shape"], *, limit: float) -> Float[Tensor, "*shape"]:
    require(limit >= 0, "clip_by_value: limit must not be negative", limit, "It is the largest size of an element.")
    return torch.clamp(grad, -limit, limit)


INPUTS = {"grad": Input(normal(), cotangent=False)}
HYPER = {"limit": 0.7}
USUAL = {"limit": (0.5, 5.0)}

EDGES = (
    Edge("at the limit", {"grad": [0.75, -0.75, 0.7421875, -0.7421875, 0.7578125, -0.7578125], "limit": 0.75}),
    Edge("zeros", {"grad": [0.0, -0.0]}),
    Edge("infinities and NaN", {"grad": [torch.inf, -torch.inf, torch.nan, 0.5]}),
    Edge("none is too large", {"limit": 100.0}),
    Edge("all are too large", {"grad": [30.0, -20.0, 50.0]}),
    Edge("limit 0", {"limit": 0.0}),
    Edge("no elements", sizes={"shape": (0,)}),
    Edge("negative limit", {"limit": -1.0}, raises=ValueError),
)

MISTAKES = (
    Mistake(
        "from above alone",
        lambda grad, limit: torch.clamp(grad, max=limit),
        forgets="that a gradient may be far below 0",
        shows="below −limit",
    ),
    Mistake(
        "sign lost",
        lambda grad, limit: torch.where(grad.abs() > limit, limit, grad),
        forgets="the sign of what it cuts",
        shows="below −limit",
    ),
    Mistake(
        "dropped",
        lambda grad, limit: torch.where(grad.abs() > limit, 0, grad),
        forgets="that what is too large becomes the limit, not 0",
        shows="beyond the limit",
    ),
    Mistake(
        "raised to the limit",
        lambda grad, limit: torch.where(grad < 0, grad.clamp(max=-limit), grad.clamp(min=limit)),
        forgets="which side of the limit is kept",
        shows="within the limit",
    ),
    Mistake(
        "clipped by the norm",
        lambda grad, limit: grad * torch.clamp(limit / (torch.sqrt(torch.sum(grad**2)) + 1e-6), max=1.0),
        forgets="that each element is cut by itself: this is clip_by_norm",
        shows="where the norm is beyond the limit",
    ),
    Mistake(
        "clipped within ±1",
        lambda grad, limit: torch.clamp(grad, -1.0, 1.0),
        forgets="limit",
        shows="unless limit is 1",
    ),
    Mistake("not clipped", lambda grad, limit: grad.clone(), forgets="to clip", shows="beyond the limit"),
)
