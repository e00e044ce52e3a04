"""One update that may be wrong, as a function of where it begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from manual_bp.chain import Tensors
from manual_bp.training.optimizers import Optimizer
from manual_bp.training.step import Step, TrainingState

MOST_PAST = 3
"""By so many steps gradients may be late."""
After = tuple[Mapping[str, Tensor], Mapping[str, Tensor]]
"""Parameters and the optimiser's state."""


@dataclass(frozen=True)
class Updating:
    """Where one update begins: its step, the state before it, and gradients by name; all in float64.

    past: the gradients of the steps before, the latest first, at most MOST_PAST of them.  is_own: whether the
    optimiser's state is the one that this wrong update has itself left, and none before its first step.
    """

    step: Step
    state: TrainingState
    gradients: Tensors
    past: tuple[Tensors, ...] = ()
    is_own: bool = False

    def after(
        self, step: Step | None = None, state: TrainingState | None = None, gradients: Tensors | None = None
    ) -> After:
        found = (step or self.step).update(state or self.state, gradients or self.gradients, {})
        return found.params, found.optimizer

    @property
    def optimizer(self) -> Optimizer:
        """Of this step: with its learning rate."""
        step = self.step
        return step.schedule.at(step.optimizer, self.state.steps) if step.schedule else step.optimizer


WrongUpdate = tuple[str, Callable[[Updating], After]]
