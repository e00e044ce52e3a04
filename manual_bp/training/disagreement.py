"""What a judge of training notes: the worst of each tensor, and what is beyond its allowance."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from manual_bp.training.engine import StepRecord
from manual_bp.training.step import TrainingState

UPDATE = "it comes from the update"
UPDATE_OR_GRADIENT = "it comes from a gradient or from the update"


@dataclass
class Row:
    """One tensor of one layer, over all steps."""

    layer: str
    quantity: str
    rule: str
    error_over_allowance: float = 0.0
    ulps: float = 0.0
    step: int = 0


@dataclass(frozen=True)
class Judged:
    """One step as both engines made it, and how far off each tensor may be."""

    number: int
    state: TrainingState
    x: Tensor
    target: Tensor
    ours: StepRecord
    theirs: StepRecord
    width: StepRecord


@dataclass(frozen=True)
class Disagreement:
    """A tensor that is beyond its allowance."""

    step: int
    layer: str
    quantity: str
    sentence: str
