"""Model: a layer that knows the names, shapes and initial values of its parameters and state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from manual_bp.chain import Activation, Chain, Identity, Layer, Leaf, Tensors, inference, leaves
from manual_bp.masks import Mask, draw, masks_of
from manual_bp.models.initialization import INITIALIZERS


@dataclass(frozen=True)
class Model:
    """A composition of layers; itself a layer.

    name, config: what built it, so that another engine can build its own (`candidate.model(name, **config)`).
    initializer: the default for weights.
    """

    name: str
    config: dict[str, Any]
    layer: Layer
    initializer: str

    def forward(self, params: Tensors, state: Tensors, x: Tensor) -> tuple[Tensor, Any, Tensors]:
        return self.layer.forward(params, state, x)

    def backward(self, residuals: Any, dy: Tensor) -> tuple[Tensor | None, dict[str, Tensor]]:
        return self.layer.backward(residuals, dy)

    def map(self, change: Callable[[str, Leaf], Layer], name: str = "") -> Layer:
        return self.layer.map(change, name)

    @property
    def usual_loss(self) -> str:
        """The loss of a classification where nothing else is said: the one place that decides it.

        Softmax cross-entropy of outputs that are any numbers, of which softmax makes probabilities.  Outputs that an
        activation has bounded are meant to be the target itself: with sigmoid no class could get beyond
        e / (e + classes − 1).  They get the course notes' cost, half the squared error.
        """
        last: Layer = self.layer
        while isinstance(last, Chain):
            *_, last = (layer for layer in last.layers.values() if not isinstance(layer, Identity))
        return "square_loss" if isinstance(last, Activation) else "softmax_cross_entropy"

    def inference(self) -> Layer:
        """The model as it is used after training: running statistics, no dropout."""
        return inference(self.layer)

    @property
    def masks(self) -> tuple[str, ...]:
        """The names that dropout masks have in the state."""
        return tuple(self._masks)

    @cached_property
    def _masks(self) -> dict[str, Mask]:
        return masks_of(self.layer)

    def draw_masks(self, batch: int, generator: torch.Generator, device: str = "cpu") -> dict[str, Tensor]:
        """Fresh dropout masks for a batch, to be put into the state; empty for a model without dropout."""
        return draw(self._masks, batch, generator, device)

    def init(
        self,
        generator: torch.Generator,
        *,
        initializer: str | None = None,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Initial parameters and state: weights by `initializer`, biases 0, scales 1, and what each layer begins with.

        initializer: "xavier", "he" or "normal"; by default the model's own.  Raises ValueError for any other.
        """
        chosen = initializer or self.initializer
        if chosen not in INITIALIZERS:
            raise ValueError(f"initializer must be one of {list(INITIALIZERS)}; came {chosen!r}.")
        params: dict[str, Tensor] = {}
        state: dict[str, Tensor] = {}
        for leaf in leaves(self.layer).values():
            initial = leaf.initial()
            for name, value in initial.items():
                state[name] = value.to(device, dtype if value.is_floating_point() else value.dtype)
            for local, name in leaf.names.items():
                if local == "mask" or name in initial or name in params:  # of layers that share one the first draws it
                    continue
                shape = leaf.shapes[name]
                if name in leaf.weights:
                    value = INITIALIZERS[chosen](shape, generator)
                else:
                    value = torch.full(shape, 1.0 if local == "weight" else 0.0)
                params[name] = value.to(dtype).to(device)
        return params, state
