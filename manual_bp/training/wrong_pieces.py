"""Wrong steps of a batch that is taken in pieces: the means of unequal ones averaged, or the means of all added up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from manual_bp.training.engine import StepRecord
from manual_bp.training.moment import Hypothesis, Moment
from manual_bp.training.step import Step, TrainingState

# A batch of more examples is not tried in pieces of every size.
MOST_ROWS = 32


def wrong_pieces(step: Step, now: Moment, run: Callable[..., StepRecord]) -> Iterator[Hypothesis]:
    yield from _averaged(step, now, run)
    yield from _added(step, now, run)


def of_rows(step: Step, now: Moment, rows: slice, run: Callable[..., StepRecord]) -> StepRecord:
    """The step of some examples alone."""
    masks = {n: now.state.buffers[n][rows] for n in step.model.masks if n in now.state.buffers}
    state = replace(now.state, buffers={**now.state.buffers, **masks})
    return replace(run(state=state, x=now.x[rows], target=now.target[rows]), layers={})  # of as many rows as there are


def _averaged(step: Step, now: Moment, run: Callable[..., StepRecord]) -> Iterator[Hypothesis]:
    n = len(now.x)
    for size in range(1, n):
        if n % size and not step.model.masks and n <= MOST_ROWS:
            words = (
                f"it is the mean of the means of pieces of {size}, the last of which is shorter: its rows count more"
            )
            yield words, lambda size=size: _mean_of_pieces(step, now, size, run)  # type: ignore[misc]
            yield (
                f"{words}, in the gradients alone",
                lambda size=size: replace(_mean_of_pieces(step, now, size, run), loss=now.due.loss),  # type: ignore[misc]
            )


def _mean_of_pieces(step: Step, now: Moment, size: int, run: Callable[..., StepRecord]) -> StepRecord:
    pieces = _pieces(step, now, size, run)
    return bare(StepRecord.combine(lambda *tensors: sum(tensors) / len(tensors), *pieces))


def _added(step: Step, now: Moment, run: Callable[..., StepRecord]) -> Iterator[Hypothesis]:
    """As many pieces as the shown loss, or the gradients, are times what is due; a penalty counts once, or in each."""
    n = len(now.x)
    plain = replace(step, l2=0.0, l1=0.0)
    penalised = bool(step.l2 or step.l1)

    def run_plain(state: TrainingState, x: Tensor, target: Tensor) -> StepRecord:
        return run(plain, state, x, target)

    whole = run_plain(now.state, now.x, now.target)
    for number in sorted(_numbers(whole, now)):
        for size in [s for s in range(2, n) if -(-n // s) == number][:MOST_ROWS]:
            equal = n % size == 0
            made: list[list[StepRecord]] = []  # computed once, if it is asked for

            def pieces(size: int = size, made: list[list[StepRecord]] = made) -> list[StepRecord]:
                if not made:
                    made.append(_pieces(step, now, size, run_plain))
                return made[0]

            short = "" if equal else ", the last of which is shorter,"
            as_where = f"the means of {number} micro-batches of {size}{short} are added up, and not divided by {number}"
            words = f"the cost is {number} times what is due, as where {as_where}" if equal else as_where
            for times in (1, number) if penalised else (1,):
                if times == 1 and number == 2 and equal:
                    continue  # told among wrong losses, as a ½ may be forgotten as well
                also = "" if not penalised else "; the penalty counts once" if times == 1 else ", and so is the penalty"
                for said, loss in _losses(whole, now, number, times):
                    yield (
                        f"{words}{also}{said}",
                        lambda pieces=pieces, times=times, loss=loss: _sum(pieces(), whole, now, times, loss),  # type: ignore[misc]
                    )


Loss = Callable[[list[StepRecord]], Tensor]


def _losses(whole: StepRecord, now: Moment, number: int, times: int) -> list[tuple[str, Loss]]:
    """What may be shown for the loss of pieces."""
    penalty = now.due.loss.double() - whole.loss
    return [
        ("", lambda pieces: _total(pieces) + times * penalty),
        ("; the loss that is shown is right, and its gradient is not", lambda pieces: now.due.loss),
        ("; the loss that is shown is their mean", lambda pieces: _total(pieces) / number + penalty),
        ("; the loss that is shown is that of the last of them", lambda pieces: pieces[-1].loss + penalty),
        ("; the loss that is shown is without the penalty", lambda pieces: _total(pieces)),
    ]


def _total(pieces: list[StepRecord]) -> Tensor:
    return torch.stack([piece.loss for piece in pieces]).sum()


def _numbers(whole: StepRecord, now: Moment) -> set[int]:
    """Of how many pieces the sum may be what is shown."""
    found = []
    if float(whole.loss):
        found.append(float(now.shown.loss) / float(whole.loss))
    names = [n for n in whole.gradients if n in now.shown.gradients]
    if names:
        own, shown = (
            torch.cat([t[n].double().flatten().cpu() for n in names]) for t in (whole.gradients, now.shown.gradients)
        )
        if float(own.norm()):
            found.append(float(shown @ own / (own @ own)))
    return {round(c) for c in found if 1.5 < c < len(now.x) - 0.5}


def _sum(pieces: list[StepRecord], whole: StepRecord, now: Moment, times: int, loss: Loss) -> StepRecord:
    found = bare(StepRecord.combine(lambda *tensors: sum(tensors), *pieces))
    penalties = {n: now.due.gradients[n].double() - g for n, g in whole.gradients.items()}
    gradients = {n: g + times * penalties[n] for n, g in found.gradients.items()}
    return replace(found, loss=loss(pieces), gradients=gradients)


def _pieces(step: Step, now: Moment, size: int, run: Callable[..., StepRecord]) -> list[StepRecord]:
    return [bare(of_rows(step, now, slice(k, k + size), run)) for k in range(0, len(now.x), size)]


def bare(record: StepRecord) -> StepRecord:
    """Loss and gradients alone."""
    return replace(record, layers={}, params={}, buffers={}, optimizer={})
