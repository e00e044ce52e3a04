"""Schedules: what the learning rate of each step is, as a share of the optimiser's."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from manual_bp.arguments import is_finite, is_whole
from manual_bp.inputs import require
from manual_bp.training.optimizers import MAKERS, Optimizer

FLOOR = 0.1
"""What is left of the learning rate at the end of a cosine."""


@dataclass(frozen=True)
class Schedule:
    """A warm-up, and half a period of a cosine down to a tenth.

    In step t, counted from 1, of `steps` altogether the learning rate is multiplied by

        t / warmup                                                  while t ≤ warmup
        0.1 + 0.9 · ½ (1 + cos(π (t − warmup) / (steps − warmup)))   then; without `steps` 1

    Adam's first steps divide by what one or a few gradients were; the warm-up keeps them from moving far on that.

    >>> schedule = Schedule(warmup=2, steps=6)
    >>> [round(schedule.factor(made), 3) for made in range(7)]
    [0.5, 1.0, 0.868, 0.55, 0.232, 0.1, 0.1]

    Raises ValueError for what is no number of steps, and for a warm-up that leaves the cosine no step.
    Source: Loshchilov & Hutter, "SGDR", ICLR 2017, eq. 5, without restarts.
    """

    warmup: int = 0
    steps: int | None = None

    def __post_init__(self) -> None:
        must = "Schedule: warmup must be a number of steps, at least 0"
        require(is_whole(self.warmup), must, repr(self.warmup), "0 is none.")
        if self.steps is not None:
            must = "Schedule: there must be more steps than those of the warm-up"
            holds = is_whole(self.steps, 1) and self.steps > self.warmup
            require(holds, must, f"{self.steps!r} after {self.warmup}", "Train longer, or warm up faster.")

    def factor(self, made: int) -> float:
        """By which the learning rate is multiplied in the step that comes after so many."""
        step = made + 1
        if step <= self.warmup:
            return step / self.warmup
        if self.steps is None:
            return 1.0
        share = min(1.0, (step - self.warmup) / (self.steps - self.warmup))
        return FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * share)) / 2

    def at(self, optimizer: Optimizer, made: int) -> Optimizer:
        """The optimiser of the step that comes after so many: another learning rate, the same state."""
        config = {**optimizer.config, "lr": optimizer.config["lr"] * self.factor(made)}  # type: ignore[operator]
        return MAKERS[optimizer.name](**config)


@dataclass(frozen=True)
class ScheduleOf(Schedule):
    """A function of the number of steps made, 0 in the first, that returns what the learning rate is multiplied by: as
    torch.optim.lr_scheduler.LambdaLR takes it.

    >>> ScheduleOf(function=lambda made: 0.5**made).factor(2)
    0.25

    `factor` raises ValueError where the function does not return a finite number.
    """

    function: Callable[[int], float] = lambda made: 1.0

    def factor(self, made: int) -> float:
        found = self.function(made)
        require(
            is_finite(found),
            "schedule must return a finite number",
            f"{found!r} after {made} steps",
            "1 leaves the learning rate.",
        )
        return found
