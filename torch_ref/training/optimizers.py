"""torch.optim as a pure function, with the flat state of manual_bp.training.optimizers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from manual_bp.training.optimizers import Optimizer

Tensors = Mapping[str, Tensor]

CLASSES: dict[str, Any] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
"""torch's class for each optimiser's name."""


def groups(params: Tensors, decayed: Collection[str] | None) -> list[dict[str, Any]]:
    """torch.optim's parameter groups: what decays, all if it is None, and what does not."""
    if decayed is None:
        return [{"params": list(params.values())}]
    spared = [p for name, p in params.items() if name not in decayed]
    return [
        {"params": [p for name, p in params.items() if name in decayed]},
        {"params": spared, "weight_decay": 0.0},
    ]


def update(
    optimizer: Optimizer,
    gradients: Tensors,
    state: Tensors,
    params: Tensors,
    decayed: Collection[str] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """One step of the torch.optim class of that name, built with `optimizer.config`: new params, new state."""
    leaves = {name: torch.nn.Parameter(p.clone()) for name, p in params.items()}
    for name, leaf in leaves.items():
        leaf.grad = gradients[name].clone()
    theirs = CLASSES[optimizer.name](groups(leaves, decayed), **optimizer.config)
    for flat, tensor in state.items():
        if flat != "step":
            kind, name = flat.split(".", 1)
            theirs.state[leaves[name]][kind] = tensor.clone()
    # torch's SGD counts no steps: it knows the first one by its having no buffer.
    counts = optimizer.name != "sgd"
    if counts:
        for leaf in leaves.values():
            theirs.state[leaf]["step"] = state["step"].clone().cpu()  # where torch wants it
    elif "step" in state and not state["step"]:
        theirs.state.clear()
    theirs.step()

    def after(flat: str, tensor: Tensor) -> Tensor:
        if flat == "step":
            return theirs.state[next(iter(leaves.values()))]["step"].to(tensor.device) if counts else tensor + 1
        kind, name = flat.split(".", 1)
        found: Tensor = theirs.state[leaves[name]][kind]
        return found

    return {name: leaf.detach() for name, leaf in leaves.items()}, {n: after(n, t) for n, t in state.items()}
