from typing import Any

import torch
from torch import Tensor

from torch_ref.stepped import stepped


def rmsprop_update(
    param: Tensor,
    grad: Tensor,
    square_avg: Tensor,
    momentum_buffer: Tensor | None = None,
    grad_avg: Tensor | None = None,
    *,
    momentum: float = 0.0,
    **hyper: Any,
) -> tuple[Tensor | None, ...]:
    state = {"square_avg": square_avg, "momentum_buffer": momentum_buffer, "grad_avg": grad_avg}
    if momentum and momentum_buffer is None:
        state["momentum_buffer"] = torch.zeros_like(param)  # as torch begins
    centered = grad_avg is not None
    return stepped(torch.optim.RMSprop, param, grad, state, 0, momentum=momentum, centered=centered, **hyper)
