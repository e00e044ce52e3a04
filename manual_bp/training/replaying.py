"""An engine's own layers: each is replayed by its page, on the tensors that the engine itself shows.

The composition runs once there and back with a stand-in for every layer, which notes what the page makes of the
engine's own input, and then passes on what the engine has shown in its place.  So each layer, the loss, the sum of what
several branches bring back, each parameter's gradient and the update are judged alone, whatever was wrong before them.
What an engine does not show is computed by the page from what comes before: layers that it has fused are judged as one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from manual_bp.arithmetic.perturbed import Errors, wide
from manual_bp.chain import Layer, Leaf, Tensors, Visit
from manual_bp.training.engine import (
    COTANGENTS,
    VALUES,
    StepRecord,
    erring_update,
    with_allowance,
)
from manual_bp.training.step import Step, TrainingState


@dataclass(frozen=True)
class Replay:
    """What is due of an engine's own tensors, and how far off each may be; visits: each layer by itself."""

    due: StepRecord
    width: StepRecord
    visits: dict[str, Visit]


def replayed(
    step: Step, state: TrainingState, x: Tensor, target: Tensor, record: StepRecord, dtype: torch.dtype, seed: int = 0
) -> Replay:
    """Replay a step on what its record shows.

    state: where the step began, with its masks.  seed: of the random errors from which the allowance is estimated.
    """
    shown = _wide(record)
    made: list[_Replaying] = []

    def engine(errors: Errors) -> _Replaying:
        made.append(_Replaying(step, shown, errors))
        return made[-1]

    due, width = with_allowance(engine, state, x, target, dtype, seed)
    exact, *_ = made
    return Replay(due, width, exact.visits)


def replayed_update(
    step: Step, state: TrainingState, gradients: Tensors, dtype: torch.dtype, seed: int = 0
) -> tuple[StepRecord, StepRecord]:
    """What the update makes of an engine's own gradients, in float64, and how far off it may be."""
    grads = wide(gradients)
    none = torch.zeros(())

    class Updating:
        def __init__(self, errors: Errors) -> None:
            self.errors = errors

        def step(self, state: TrainingState, x: Tensor, target: Tensor) -> StepRecord:
            after = erring_update(step, self.errors, state, grads, {})
            return StepRecord(none.double(), params=after.params, optimizer=after.optimizer)

    return with_allowance(Updating, state, none, none, dtype, seed)


def _wide(record: StepRecord) -> StepRecord:
    return replace(
        record,
        layers={name: wide(found) for name, found in record.layers.items()},
        gradients=wide(record.gradients),
    )


class _Replaying:
    """An engine, in the sense of a judge: what it returns is what is due."""

    def __init__(self, step: Step, shown: StepRecord, errors: Errors) -> None:
        self.step_, self.shown, self.errors = step, shown, errors
        self.visits: dict[str, Visit] = {}
        self.due: dict[str, dict[str, Tensor]] = {}

    def step(self, state: TrainingState, x: Tensor, target: Tensor) -> StepRecord:
        self.visits, self.due = {}, {}
        layer = self.step_.model.map(lambda name, leaf: _StandIn(name, leaf, self))
        cost, gradients, buffers = self.step_.gradients(layer, state, x, target, self.errors.vjp)
        due = {name: self.errors.rounded(g) for name, g in gradients.items()}
        return StepRecord(self.errors.rounded(cost), self.due, due, {}, dict(buffers), {})

    def note(self, name: str, visit: Visit, letters: tuple[str, ...], due: Tensor) -> Tensor:
        """Note what is due; what goes on is what was shown, if it was."""
        letter = next(letter for letter in visit.quantities() if letter in letters)
        self.due.setdefault(name, {})[letter] = due
        return self.shown.layers.get(name, {}).get(letter, due)


@dataclass(frozen=True)
class _StandIn:
    name: str
    leaf: Leaf
    replay: _Replaying

    def forward(self, params: Tensors, state: Tensors, x: Any) -> tuple[Tensor, Any, Tensors]:
        y, residuals, after = self.replay.errors.leaf(self.leaf).forward(params, state, x)
        visit = Visit(self.leaf, self.leaf.inputs(params, state, x), y, dy=y)
        self.replay.visits[self.name] = visit
        visit.y = self.replay.note(self.name, visit, VALUES, y)
        return visit.y, residuals, after

    def backward(self, residuals: Any, dy: Tensor) -> tuple[Any, dict[str, Tensor]]:
        visit = self.replay.visits[self.name]
        # What several branches bring back is added and stored once.
        visit.dy = self.replay.note(self.name, visit, COTANGENTS, self.replay.errors.rounded(dy))
        visit.dx, visit.dparams = self.replay.errors.leaf(self.leaf).backward(residuals, visit.dy)
        return visit.dx, visit.dparams

    def map(self, change: Callable[[str, Leaf], Layer], name: str = "") -> Layer:
        return change(self.name, self.leaf)
