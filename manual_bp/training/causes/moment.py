"""One step as it was made: what a cause is sought in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from manual_bp.chain import Tensors
from manual_bp.training.engine import StepRecord
from manual_bp.training.step import TrainingState


@dataclass(frozen=True)
class Moment:
    """One step: where it began, its data, what is due and what an engine showed.

    total: its gradients so far, added up.  past: the gradients that were due in the steps before, the latest first.
    """

    state: TrainingState
    x: Tensor
    target: Tensor
    due: StepRecord
    shown: StepRecord
    total: Tensors = field(default_factory=dict)
    past: tuple[Tensors, ...] = ()


@dataclass(frozen=True)
class Updated(StepRecord):
    """What a step would show whose parameters are no update of its gradients as they are shown."""


Hypothesis = tuple[str, Callable[[], StepRecord]]
"""What would be wrong, in words, and what the step would show."""
