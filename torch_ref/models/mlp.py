from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torch_ref.models.observing import activation_of, ignore, width_before


class MLP(nn.Module):
    """manual_bp.models.mlp: parameters W1, b1, W2, b2, ..."""

    def __init__(
        self, sizes: Sequence[int], activation: str = "relu", output_activation: str = "identity", **hyper: Any
    ) -> None:
        super().__init__()
        self.last = len(sizes) - 1
        self.names = [activation] * (self.last - 1) + [output_activation]
        self.activations: list[Callable[[Tensor], Tensor]] = []
        for index, name in enumerate(self.names, 1):
            given = hyper if name == activation else {}
            outputs = width_before(name, given, sizes[index])
            self.register_parameter(f"W{index}", nn.Parameter(torch.empty(outputs, sizes[index - 1])))
            self.register_parameter(f"b{index}", nn.Parameter(torch.empty(outputs)))
            self.activations.append(activation_of(name, given))

    def forward(
        self, x: Tensor, masks: Mapping[str, Tensor] | None = None, tape: Callable[..., Tensor] = ignore
    ) -> Tensor:
        a = x
        for index, (name, activation) in enumerate(zip(self.names, self.activations, strict=True), 1):
            weight, bias = self.get_parameter(f"W{index}"), self.get_parameter(f"b{index}")
            z = tape(f"linear{index}", "z", F.linear(a, weight, bias))
            a = activation(z)
            if name != "identity":
                a = tape(f"activation{index}", "a", a)
        return a
