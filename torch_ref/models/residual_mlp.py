from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torch_ref.models.observing import activation_of, ignore, width_before


class Block(nn.Module):
    """x + dropout(activation(batch_norm(linear(x)))), with torch's own modules."""

    def __init__(
        self,
        width: int,
        activation: str,
        batch_norm: bool,
        dropout: float,
        momentum: float | None,
        hyper: dict[str, Any],
    ) -> None:
        super().__init__()
        widened = width_before(activation, hyper, width)
        self.linear = nn.Linear(width, widened)
        self.batch_norm = nn.BatchNorm1d(widened, momentum=momentum) if batch_norm else None
        self.activation = None if activation == "identity" else activation_of(activation, hyper)
        self.p = dropout

    def forward(self, x: Tensor, name: str, masks: Mapping[str, Tensor], tape: Callable[..., Tensor]) -> Tensor:
        y = tape(f"{name}.linear", "z", self.linear(x))
        if self.batch_norm is not None:
            y = tape(f"{name}.batch_norm", "y", self.batch_norm(y))
        if self.activation is not None:
            y = tape(f"{name}.activation", "a", self.activation(y))
        if self.p and self.training:
            # nn.Dropout draws its own mask; the comparison needs the one that the other engine used.
            y = tape(f"{name}.dropout", "y", torch.where(masks[f"{name}.dropout.mask"], y / (1 - self.p), 0))
        return tape(name, "y", x + y)


class ResidualMLP(nn.Module):
    """manual_bp.models.residual_mlp: parameters block1.linear.weight, block1.batch_norm.weight, ..."""

    def __init__(
        self,
        width: int,
        depth: int,
        activation: str = "relu",
        batch_norm: bool = True,
        dropout: float = 0.0,
        *,
        inputs: int | None = None,
        outputs: int | None = None,
        momentum: float | None = 0.1,
        **hyper: Any,
    ) -> None:
        super().__init__()
        self.depth = depth
        self.input = nn.Linear(inputs, width) if inputs is not None else None
        for index in range(1, depth + 1):
            self.add_module(f"block{index}", Block(width, activation, batch_norm, dropout, momentum, hyper))
        self.output = nn.Linear(width, outputs) if outputs is not None else None

    def forward(
        self, x: Tensor, masks: Mapping[str, Tensor] | None = None, tape: Callable[..., Tensor] = ignore
    ) -> Tensor:
        if self.input is not None:
            x = tape("input", "z", self.input(x))
        for index in range(1, self.depth + 1):
            x = self.get_submodule(f"block{index}")(x, f"block{index}", masks or {}, tape)
        if self.output is not None:
            x = tape("output", "z", self.output(x))
        return x
