"""Engines: who can do one training step and show its tensors; the hand-derived one, and how far a step may be off."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from manual_bp.arithmetic.perturbed import RandomErrors, wide
from manual_bp.chain import probe
from manual_bp.rule import Rule
from manual_bp.training.step import Step, TrainingState

Tensors = Mapping[str, Tensor]

VALUES = ("z", "a", "y")
COTANGENTS = ("delta", "da", "dy")
"""The letters of what a layer puts out, and of its cotangent."""


@dataclass(frozen=True)
class StepRecord:
    """What one step of an engine shows.

    loss: the cost before the update, penalty included.
    layers: by dotted layer name, its tensors by letter: z and delta, a and da, or y and dy.
    gradients, params: by parameter name, the gradient (penalty included) and the updated value.
    buffers: running statistics by name.
    """

    loss: Tensor
    layers: dict[str, dict[str, Tensor]]
    gradients: dict[str, Tensor]
    params: dict[str, Tensor]
    buffers: dict[str, Tensor]

    @staticmethod
    def combine(f: Callable[..., Tensor], *records: StepRecord) -> StepRecord:
        """f of the corresponding tensors of several records."""

        def each(*tensors: Tensors) -> dict[str, Tensor]:
            return {name: f(*(t[name] for t in tensors)) for name in tensors[0]}

        return StepRecord(
            f(*(r.loss for r in records)),
            {layer: each(*(r.layers[layer] for r in records)) for layer in records[0].layers},
            each(*(r.gradients for r in records)),
            each(*(r.params for r in records)),
            each(*(r.buffers for r in records)),
        )


class Engine(Protocol):
    """Whoever can do one training step and show it; `buffers` holds running statistics and dropout masks."""

    def step(self, params: Tensors, buffers: Tensors, x: Tensor, target: Tensor) -> StepRecord: ...


class ManualEngine:
    """The hand-derived step, probed; `visits` keeps what passed each layer in the latest step.

    errors: makes every layer and the loss err at random.
    """

    def __init__(self, step: Step, errors: RandomErrors | None = None) -> None:
        self._step = step
        self._vjp = errors.vjp if errors else Rule.vjp
        self._layer, self.visits = probe(step.model, errors.leaf if errors else None)

    def step(self, params: Tensors, buffers: Tensors, x: Tensor, target: Tensor) -> StepRecord:
        state = TrainingState(dict(params), dict(buffers), self._step.optimizer.init(params), seed=0)
        cost, gradients, new_buffers = self._step.gradients(self._layer, state, x, target, self._vjp)
        after = self._step.update(state, gradients, new_buffers)
        layers = {
            name: {letter: t for letter, t in visit.quantities().items() if letter in VALUES + COTANGENTS}
            for name, visit in self.visits.items()
        }
        return StepRecord(cost, layers, gradients, after.params, after.buffers)


# Runs with random rounding errors from which the allowance of a step is estimated.  Eight leave the size of one
# element's error uncertain by a factor of about 2, hence the floor at the tensor's own root mean square.
RUNS = 8
# The allowance in units of that size.  A normal error beyond 6 has probability 2e-9, and actual errors are about a
# third of the widths that the random ones fill.
SIZES = 6.0
# Roundings that penalty, update and running average add to each element, outside of the layers: at most four.
OUTSIDE = 4.0


def allowance_of(
    step: Step, params: Tensors, buffers: Tensors, x: Tensor, target: Tensor, dtype: torch.dtype, seed: int
) -> StepRecord:
    """How far each tensor of a step may be off after the whole chain: runs with random rounding errors of `dtype`."""
    params, buffers = wide(params), wide(buffers)
    data = wide({"x": x, "target": target}).values()
    generator = torch.Generator().manual_seed(seed)
    exact = ManualEngine(step).step(params, buffers, *data)
    erring = ManualEngine(step, RandomErrors(dtype, generator))
    noisy = [erring.step(params, buffers, *data) for _ in range(RUNS)]
    size = StepRecord.combine(_error_size, exact, *noisy)
    u = torch.finfo(dtype).eps / 2

    def outside(sizes: Tensors, after: Tensors, before: Tensors) -> dict[str, Tensor]:
        return {name: s + OUTSIDE * u * (after[name].abs() + before[name].abs()) for name, s in sizes.items()}

    decays = {name: step.l2 * params[name] if name in step.weights else torch.zeros(()) for name in params}
    return StepRecord(
        size.loss + OUTSIDE * u * exact.loss.abs(),
        size.layers,
        outside(size.gradients, exact.gradients, decays),
        outside(size.params, exact.params, params),
        outside(size.buffers, exact.buffers, buffers),
    )


def _error_size(exact: Tensor, *noisy: Tensor) -> Tensor:
    """SIZES times the root mean square of the error: of each element, and at least of the whole tensor."""
    square = torch.stack([(t - exact) ** 2 for t in noisy]).mean(0)
    return SIZES * torch.sqrt(torch.maximum(square, square.mean()))
