"""One training step by torch.autograd and torch.optim, with every layer's tensors retained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from manual_bp.training.engine import StepRecord
from torch_ref.candidate import function
from torch_ref.models import MODELS
from torch_ref.models.observing import Tape

# The cotangent's letter for each value's letter.
COTANGENTS = {"z": "delta", "a": "da", "y": "dy"}


class TorchEngine:
    """A model with a loss, an L2 penalty and torch.optim.SGD: an `Engine` of manual_bp.training.engine."""

    def __init__(self, name: str, *, loss: str, lr: float, l2: float, **config: Any) -> None:
        if name not in MODELS:
            raise ValueError(f"torch has no model {name!r}; it has {list(MODELS)}.")
        self._module, self._config = MODELS[name], config
        self._loss, self._lr, self._l2 = loss, lr, l2

    def step(
        self, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], x: Tensor, target: Tensor
    ) -> StepRecord:
        with torch.random.fork_rng():  # the modules draw initial values, which are overwritten
            module: nn.Module = self._module(**self._config).to(x.device, x.dtype)
        self._load(module, params, buffers)
        tape = Tape()
        with torch.enable_grad():
            cost = self._cost(module, x, target, buffers, tape)
            torch.autograd.backward(cost)
        layers = {name: self._quantities(found) for name, found in tape.tensors.items()}
        gradients = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
        torch.optim.SGD(module.parameters(), lr=self._lr).step()
        return StepRecord(
            cost.detach(),
            layers,
            gradients,
            {name: p.detach() for name, p in module.named_parameters()},
            {name: b.detach() for name, b in module.named_buffers() if b.is_floating_point()},
        )

    def _cost(self, module: nn.Module, x: Tensor, target: Tensor, buffers: Mapping[str, Tensor], tape: Tape) -> Tensor:
        loss = function(self._loss)
        assert loss is not None
        cost: Tensor = loss(module(x, buffers, tape), target)
        if self._l2:
            weights = [p for p in module.parameters() if p.ndim == 2]
            cost = cost + self._l2 / 2 * torch.stack([w.pow(2).sum() for w in weights]).sum()
        return cost

    @staticmethod
    def _load(module: nn.Module, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, p in module.named_parameters():
                p.copy_(params[name])
            for name, b in module.named_buffers():
                if name in buffers:
                    b.copy_(buffers[name])

    @staticmethod
    def _quantities(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        ((letter, value),) = found.items()
        assert value.grad is not None
        return {letter: value.detach(), COTANGENTS[letter]: value.grad}
