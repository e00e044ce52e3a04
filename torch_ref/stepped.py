"""One step of a torch.optim.Optimizer from a given state, as a function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def stepped(
    kind: type[torch.optim.Optimizer],
    param: Tensor,
    grad: Tensor,
    state: Mapping[str, Tensor | None],
    steps: int | None = None,
    **config: Any,
) -> tuple[Tensor | None, ...]:
    """The parameter after one step, then its state under the names of `state`, whose values may be None: such a part is
    left out before the step, and is None after it where the optimiser made none.

    steps: how many were made before, of an optimiser that counts them.
    """
    leaf = torch.nn.Parameter(param.detach().clone())
    leaf.grad = grad.detach().clone()
    optimizer = kind([leaf], **config)
    own = {name: x.detach().clone() for name, x in state.items() if x is not None}
    if steps is not None:
        own["step"] = torch.tensor(float(steps))
    if own:  # by an empty state torch knows the first step
        optimizer.state[leaf].update(own)
    optimizer.step()
    return (leaf.detach(), *(optimizer.state[leaf].get(name) for name in state))
