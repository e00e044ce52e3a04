"""Training that is judged: every step is also made by another engine, from the same state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from manual_bp.training.engine import Engine
from manual_bp.training.judging.judge import Judge
from manual_bp.training.step import Step, TrainingState


class Verifier:
    """Takes steps as `step` does, and judges each of them; what it found may be kept in a checkpoint.

    factory: `factory(name, loss=, optimizer=, l2=, l1=, max_norm=, clip_norm=, **config)` builds the other engine; with
        loss_hyper= beside them where a hyperparameter of the loss is off its default, and schedule=, frozen= and
        decayed= where there are such.
    found: what `found()` of an earlier part of the run returned, or nothing.
    steps: how many have been judged. worst: the largest error over allowance, and `where` it was.
    failure: the first that is wrong, in words; "" if nothing is.
    """

    def __init__(
        self,
        step: Step,
        dtype: torch.dtype,
        factory: Callable[..., Engine],
        found: Mapping[str, Any],
        against: str = "torch",
    ) -> None:
        self._step, self.against = step, against
        engine = factory(
            step.model.name,
            **step.loss.options,
            optimizer=step.optimizer,
            l2=step.l2,
            l1=step.l1,
            max_norm=step.max_norm,
            clip_norm=step.clip_norm,
            **({"schedule": step.schedule} if step.schedule else {}),
            **({"frozen": sorted(step.frozen)} if step.frozen else {}),
            **({} if step.decayed is None else {"decayed": sorted(step.decayed)}),
            **step.model.config,
        )
        self._judge = Judge(step, engine, dtype, against=against)
        self.steps: int = found.get("steps", 0)
        self.worst: float = found.get("worst", 0.0)
        self.where: str = found.get("where", "")
        self.failure: str = found.get("failure", "")

    def __call__(self, state: TrainingState, x: Tensor, target: Tensor) -> tuple[TrainingState, Tensor]:
        after, loss = self._step(state, x, target)
        number = state.steps + 1
        masked = replace(state, buffers={**self._step.masks(state, len(x), str(x.device)), **state.buffers})
        ours, _ = self._judge.step(number, masked, x, target, seed=number)
        self.steps += 1
        if not self.failure:
            self.failure = self._wrong(number, after.params, ours.params)
        return after, loss

    def found(self) -> dict[str, Any]:
        """JSON's values."""
        for row in self._judge.rows:
            if row.error_over_allowance > self.worst:
                self.worst, self.where = row.error_over_allowance, f"{row.quantity} of {row.layer}, step {row.step}"
        worst = min(self.worst, torch.finfo(torch.float64).max)  # JSON knows no infinity
        return {"steps": self.steps, "worst": worst, "where": self.where, "failure": self.failure}

    def _wrong(self, number: int, trained: Mapping[str, Tensor], judged: Mapping[str, Tensor]) -> str:
        if self._judge.diverged:
            return self._judge.diverged
        if self._judge.disagreements:
            first = self._judge.disagreements[0]
            return f"first disagreement in step {first.step} at {first.layer}: {first.sentence}"
        if odd := [name for name, p in trained.items() if not torch.equal(p, judged[name])]:
            return f"in step {number} what was judged is not what trained: {odd[0]} differs after the update"
        return ""
