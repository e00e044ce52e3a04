"""The gradient of each example of a batch by itself, of which those of pieces are made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from manual_bp.arithmetic.perturbed import wide
from manual_bp.training.causes.moment import Moment
from manual_bp.training.engine import StepRecord
from manual_bp.training.step import Step, TrainingState

MOST_NUMBERS = 2**25
"""Of all examples' gradients: 256 MB in float64.  They take one run for each example."""
SAME = 1e-9
"""Relative: by how much the mean of the examples' gradients may be off that of the batch, which is a sum of float64."""

Runner = Callable[..., StepRecord]


class Rows:
    """A step's loss and gradients without penalties: of the whole batch, and of each example.

    names: of the parameters, in the order in which `flat` joins their gradients.
    """

    def __init__(self, step: Step, now: Moment, run: Runner) -> None:
        self.step, self.now, self._run = replace(step, l2=0.0, l1=0.0), now, run
        self.penalising, self.is_penalised = step, bool(step.l2 or step.l1)
        self.names = list(now.due.gradients)
        self.n, self.numbers = len(now.x), sum(g.numel() for g in now.due.gradients.values())

    @cached_property
    def whole(self) -> StepRecord:
        return bare(self.run())

    @cached_property
    def penalty(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Its value and its gradients."""
        due, whole = self.now.due, self.whole
        return due.loss.double() - whole.loss, {n: due.gradients[n].double() - whole.gradients[n] for n in self.names}

    @cached_property
    def each(self) -> tuple[Tensor, Tensor] | None:
        """The losses, (n,), and flat gradients, (n, numbers), of each example as a batch of one.

        None where they are too many, or where the batch's are not their mean: where examples meet one another, or do
        not count alike.
        """
        if not self.n > 1 or self.n * self.numbers > MOST_NUMBERS:
            return None
        try:
            records = [self.of(slice(row, row + 1)) for row in range(self.n)]
        except ValueError:  # batch norm has nothing to normalise in one
            return None
        losses, gradients = (
            torch.stack([r.loss for r in records]),
            torch.stack([self.flat(r.gradients) for r in records]),
        )
        whole = self.flat(self.whole.gradients)
        size = float(gradients.norm(dim=1).mean())
        if not float((gradients.mean(0) - whole).norm()) <= SAME * size:
            return None
        return losses, gradients

    @cached_property
    def shown(self) -> Tensor | None:
        """The gradients that are shown, without what is due of the penalties; None unless all are."""
        found = self.now.shown.gradients
        return self.flat(found) - self.flat(self.penalty[1]) if found.keys() >= set(self.names) else None

    def run_penalised(self, state: TrainingState, x: Tensor, target: Tensor) -> StepRecord:
        return self._run(self.penalising, state, x, target)

    def run(
        self, state: TrainingState | None = None, x: Tensor | None = None, target: Tensor | None = None
    ) -> StepRecord:
        given = (self.now.state if state is None else state, self.now.x if x is None else x)
        return self._run(self.step, *given, self.now.target if target is None else target)

    @cached_property
    def state(self) -> TrainingState:
        """Where the step begins, in float64."""
        state = self.now.state
        return replace(state, params=wide(state.params), buffers=wide(state.buffers), optimizer=wide(state.optimizer))

    @cached_property
    def penalties(self) -> Tensor:
        """The flat gradients of the penalties."""
        return self.flat(self.penalty[1])

    def of(self, rows: slice, target: Tensor | None = None, state: TrainingState | None = None) -> StepRecord:
        """Of some examples alone."""
        now = self.now if target is None else replace(self.now, target=target)
        return bare(of_rows(self.step, now if state is None else replace(now, state=state), rows, self.run))

    def flat(self, gradients: Any) -> Tensor:
        return torch.cat([wide({"": gradients[name]})[""].flatten() for name in self.names])

    def named(self, flat: Tensor) -> dict[str, Tensor]:
        """Flat gradients by name again, with their shapes."""
        due = self.now.due.gradients
        pieces = torch.split(flat, [due[name].numel() for name in self.names])
        return {name: piece.view(due[name].shape) for name, piece in zip(self.names, pieces, strict=True)}

    def pieces(self, ends: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The mean losses, and mean gradients, of the pieces that end behind these numbers of examples."""
        assert self.each is not None
        lengths = torch.tensor([end - start for start, end in zip((0, *ends), ends, strict=False)])
        of_piece = torch.repeat_interleave(torch.arange(len(ends)), lengths)
        losses, gradients = (
            torch.zeros((len(ends), *t.shape[1:]), dtype=t.dtype).index_add_(0, of_piece, t) for t in self.each
        )
        return losses / lengths, gradients / lengths[:, None]

    def record(self, flat: Tensor, loss: Tensor) -> StepRecord:
        """With the penalties, counted once."""
        value, gradients = self.penalty
        return StepRecord(loss + value, gradients={n: g + gradients[n] for n, g in self.named(flat).items()})


def of_rows(step: Step, now: Moment, rows: slice, run: Runner) -> StepRecord:
    """The step of some examples alone."""
    masks = {n: now.state.buffers[n][rows] for n in step.model.masks if n in now.state.buffers}
    state = replace(now.state, buffers={**now.state.buffers, **masks})
    return replace(run(state=state, x=now.x[rows], target=now.target[rows]), layers={})  # of as many rows as there are


def bare(record: StepRecord) -> StepRecord:
    """Loss and gradients alone."""
    return replace(record, layers={}, params={}, buffers={}, optimizer={})
