from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torch_ref.models.observing import activation_of, ignore


class Block(nn.Module):
    """activation(batch_norm(convolution(x))), with torch's own modules."""

    def __init__(
        self,
        channels: int,
        filters: int,
        kernel: int,
        batch_norm: bool,
        momentum: float | None,
        activation: str,
        hyper: dict[str, Any],
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, filters, kernel, padding=kernel // 2, bias=not batch_norm)
        self.batch_norm = nn.BatchNorm2d(filters, momentum=momentum) if batch_norm else None
        self.activation = None if activation == "identity" else activation_of(activation, hyper)

    def forward(self, x: Tensor, name: str, tape: Callable[..., Tensor]) -> Tensor:
        y = tape(f"{name}.convolution", "z", self.convolution(x))
        if self.batch_norm is not None:
            y = tape(f"{name}.batch_norm", "y", self.batch_norm(y))
        return y if self.activation is None else tape(f"{name}.activation", "a", self.activation(y))


class CNN(nn.Module):
    """manual_bp.models.cnn: parameters block1.convolution.weight, block1.batch_norm.weight, ..., output.weight."""

    def __init__(
        self,
        image: Sequence[int],
        outputs: int,
        layers: Sequence[int | str] = (32, "max", 64, "max"),
        *,
        kernel: int = 3,
        activation: str = "relu",
        batch_norm: bool = True,
        dropout: float = 0.0,
        momentum: float | None = 0.1,
        **hyper: Any,
    ) -> None:
        super().__init__()
        channels, *lengths = image
        self.order: list[str] = []
        for each in layers:
            kind = "pool" if isinstance(each, str) else "block"
            name = f"{kind}{1 + sum(before.startswith(kind) for before in self.order)}"
            if isinstance(each, str):
                self.add_module(name, nn.MaxPool2d(2) if each == "max" else nn.AvgPool2d(2))
                lengths = [length // 2 for length in lengths]
            else:
                self.add_module(name, Block(channels, each, kernel, batch_norm, momentum, activation, hyper))
                channels = each
            self.order.append(name)
        self.output = nn.Linear(channels * lengths[0] * lengths[1], outputs)
        self.p = dropout

    def forward(
        self, x: Tensor, masks: Mapping[str, Tensor] | None = None, tape: Callable[..., Tensor] = ignore
    ) -> Tensor:
        for name in self.order:
            module = self.get_submodule(name)
            x = module(x, name, tape) if isinstance(module, Block) else tape(name, "y", module(x))
        x = x.flatten(1)
        if self.p and self.training:
            # nn.Dropout draws its own mask; the comparison needs the one that the other engine used.
            x = tape("dropout", "y", torch.where((masks or {})["dropout.mask"], x / (1 - self.p), 0))
        return tape("output", "z", self.output(x))
