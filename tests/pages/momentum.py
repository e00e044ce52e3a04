"""A step with momentum: no backward, and a buffer that may be absent.

buffer ← momentum · buffer + grad  (grad, if there is none yet)
param ← param − lr · (grad + momentum · buffer if nesterov, else buffer)
"""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake


class Outputs(NamedTuple):
    param: Float[Tensor, "*shape"]
    buffer: Float[Tensor, "*shape"]


def forward(
    param: Float[Tensor, "*shape"],
    grad: Float[Tensor, "*shape"],
    buffer: Float[Tensor, "*shape"] | None = None,
    *,
    lr: float = 0.1,
    momentum: float = 0.9,
    nesterov: bool = False,
) -> Outputs:
    new = grad.clone() if buffer is None else momentum * buffer + grad
    step = grad + momentum * new if nesterov else new
    return Outputs(param - lr * step, new)


INPUTS = {name: Input(cotangent=False) for name in ("param", "grad", "buffer")}
EDGES = (Edge("nesterov", {"nesterov": True}),)
MISTAKES = (
    Mistake(
        "uphill",
        lambda param, grad, buffer, lr, momentum, nesterov: forward(
            param, grad, buffer, lr=-lr, momentum=momentum, nesterov=nesterov
        ),
        forgets="the sign of a step",
        shows="everywhere",
    ),
    Mistake(
        "nesterov forgotten",
        lambda param, grad, buffer, lr, momentum, nesterov: forward(param, grad, buffer, lr=lr, momentum=momentum),
        forgets="the look ahead",
        shows="for nesterov=True",
    ),
)
