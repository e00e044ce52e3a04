from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torch_ref.models.observing import ignore

CELLS: dict[str, Any] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


class Recurrent(nn.Module):
    """manual_bp.models.recurrent: parameters embedding.weight, layer1.weight_ih_l0, ..., head.weight, head.bias.

    A module for each layer, as one of several layers does not show what passes between them.
    """

    def __init__(
        self,
        vocabulary: int,
        context: int,
        width: int,
        layers: int = 1,
        *,
        cell: str = "lstm",
        dropout: float = 0.0,
        **hyper: Any,
    ) -> None:
        super().__init__()
        if hyper.pop("reset", "after") != "after":
            raise ValueError("nn.GRU resets after the product with W_hh; it has no other. Compare reset='after'.")
        self.embedding = nn.Embedding(vocabulary, width)
        self.layers = layers
        for number in range(1, layers + 1):
            self.add_module(f"layer{number}", CELLS[cell](width, width, **hyper))
        self.head = nn.Linear(width, vocabulary)
        self.p = dropout

    def forward(
        self, x: Tensor, masks: Mapping[str, Tensor] | None = None, tape: Callable[..., Tensor] = ignore
    ) -> Tensor:
        y = tape("embedding", "y", self.embedding(x))
        for number in range(1, self.layers + 1):
            found, _ = self.get_submodule(f"layer{number}")(y.transpose(0, 1))
            y = tape(f"layer{number}", "y", found).transpose(0, 1)
            if self.p and self.training:
                # nn.Dropout draws its own mask; the comparison needs the one that the other engine used.
                mask = (masks or {})[f"dropout{number}.mask"]
                y = tape(f"dropout{number}", "y", torch.where(mask, y / (1 - self.p), 0))
        return tape("head", "z", self.head(y)).transpose(1, 2)
