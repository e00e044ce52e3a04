"""One training step by torch.autograd and torch.optim, with every layer's tensors retained."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from manual_bp.training.engine import StepRecord
from manual_bp.training.optimizers import Optimizer
from manual_bp.training.schedules import Schedule
from manual_bp.training.step import TrainingState
from torch_ref.functions import function
from torch_ref.models import MODELS
from torch_ref.models.observing import Tape
from torch_ref.training.optimizers import update

# The cotangent's letter for each value's letter.
COTANGENTS = {"z": "delta", "a": "da", "y": "dy"}


class TorchEngine:
    """A model with a loss, penalties and a torch.optim optimiser: an `Engine` of manual_bp.training.engine.

    optimizer: its name and config decide which class of torch.optim is built, and with which arguments.
    """

    def __init__(
        self,
        name: str,
        *,
        loss: str,
        loss_hyper: Mapping[str, Any] = MappingProxyType({}),
        optimizer: Optimizer,
        l2: float = 0.0,
        l1: float = 0.0,
        max_norm: float | None = None,
        clip_norm: float | None = None,
        schedule: Schedule | None = None,
        frozen: Collection[str] = (),
        decayed: Collection[str] | None = None,
        **config: Any,
    ) -> None:
        if name not in MODELS:
            raise ValueError(f"torch has no model {name!r}; it has {list(MODELS)}.")
        self._module, self._config = MODELS[name], config
        found = function(loss)
        if found is None:
            raise ValueError(f"torch has no twin for the loss {loss!r}; write torch_ref/twins/{loss}.py.")
        self._loss, self._optimizer = partial(found, **loss_hyper), optimizer
        self._l2, self._l1, self._max_norm, self._clip_norm = l2, l1, max_norm, clip_norm
        self._schedule, self._frozen, self._decayed = schedule, frozenset(frozen), decayed

    def step(self, state: TrainingState, x: Tensor, target: Tensor) -> StepRecord:
        with torch.random.fork_rng():  # the modules draw initial values, which are overwritten
            module: nn.Module = self._module(**self._config).to(x.device, state.dtype)
        self._load(module, state)
        tape = Tape()
        if x.is_floating_point():  # so that layers before the first parameter have cotangents too
            x = x.detach().requires_grad_()
        with torch.enable_grad():
            cost = self._cost(module, x, target, state.buffers, tape)
            torch.autograd.backward(cost)
        layers = {name: self._quantities(found) for name, found in tape.tensors.items()}
        gradients = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
        if self._clip_norm is not None:
            trained = (p for name, p in module.named_parameters() if name not in self._frozen)
            torch.nn.utils.clip_grad_norm_(trained, self._clip_norm)
        clipped = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
        made = self._schedule.at(self._optimizer, state.steps) if self._schedule else self._optimizer
        kept = {n: t for n, t in state.optimizer.items() if n.partition(".")[2] not in self._frozen}
        params, optimizer = update(
            made, clipped, kept, {n: p for n, p in state.params.items() if n not in self._frozen}, self._decayed
        )
        params, optimizer = {**state.params, **params}, {**state.optimizer, **optimizer}
        if self._max_norm is not None:
            params = self._limited(module, params, self._max_norm)
        return StepRecord(
            cost.detach(),
            layers,
            gradients,
            params,
            {name: b.detach() for name, b in module.named_buffers() if name in state.buffers},
            optimizer,
        )

    def _cost(self, module: nn.Module, x: Tensor, target: Tensor, buffers: Mapping[str, Tensor], tape: Tape) -> Tensor:
        cost: Tensor = self._loss(module(x, buffers, tape), target)
        weights = self._weights(module).values()
        if self._l1:
            cost = cost + self._l1 * torch.stack([w.abs().sum() for w in weights]).sum()
        if self._l2:
            cost = cost + self._l2 / 2 * torch.stack([w.pow(2).sum() for w in weights]).sum()
        return cost

    def _limited(self, module: nn.Module, params: dict[str, Tensor], limit: float) -> dict[str, Tensor]:
        limited = function("max_norm")
        assert limited is not None
        named = {name: params[name] for name in self._weights(module)}
        return {**params, **{name: limited(w.flatten(1), limit=limit).view_as(w) for name, w in named.items()}}

    @staticmethod
    def _weights(module: nn.Module) -> dict[str, nn.Parameter]:
        """What penalties and max-norm are about: matrices and filters."""
        return {name: p for name, p in module.named_parameters() if p.ndim > 1}

    @staticmethod
    def _load(module: nn.Module, state: TrainingState) -> None:
        with torch.no_grad():
            for name, p in module.named_parameters():
                p.copy_(state.params[name])
            for name, b in module.named_buffers():
                if name in state.buffers:
                    b.copy_(state.buffers[name])

    @staticmethod
    def _quantities(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        ((letter, value),) = found.items()
        assert value.grad is not None
        return {letter: value.detach(), COTANGENTS[letter]: value.grad}
