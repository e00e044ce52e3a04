"""Wrong steps of a batch that is taken in pieces: one of them alone counts, the means of unequal ones are averaged, the
means of all are added up, or each is clipped by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from manual_bp.training.causes.moment import Hypothesis, Moment, Updated
from manual_bp.training.causes.rows import Rows, bare, of_rows
from manual_bp.training.clipping import clip_by_norm
from manual_bp.training.engine import StepRecord

MOST_RUNS = 128
"""Of pieces, where their gradients are not made of those of examples: so many have all sizes of 32 together."""
NEAR = 0.01
"""Gradients that are to be those shown are nearer to them by so much than what is due, or are not looked at."""


def wrong_pieces(rows: Rows) -> Iterator[Hypothesis]:
    if rows.each is not None:
        yield from _alone(rows)
        yield from _clipped(rows)
    yield from _averaged(rows)
    yield from _added(rows)


def _ends(size: int, n: int) -> list[int]:
    return [min(end, n) for end in range(size, n + size, size)]


def _alone(rows: Rows) -> Iterator[Hypothesis]:
    """As where gradients are set to zero in the loop over the pieces, or the loop is left early."""
    assert rows.each is not None
    losses, gradients = rows.each
    n = rows.n
    for size in range(1, n):
        number = -(-n // size)
        last = n - size * (number - 1)  # the last piece may be shorter
        for words, some in ((f"the first {size}", slice(0, size)), (f"the last {last}", slice(n - last, n))):
            mean = gradients[some].mean(0)
            for by, also in ((1, ""), (number, f", and their mean is divided by {number}, the number of such pieces")):
                if by == number and n % size == 0 and size == n - size and some.start == 0:
                    continue  # the same as for the last
                counts = "counts" if some.stop - some.start == 1 else "count"
                said = f"{words} of the {n} examples of the batch alone {counts}{also}"
                yield from _of_loss(rows, said, mean / by, losses[some].mean() / by)
                if rows.is_penalised and by > 1:
                    divided = mean / by - (1 - 1 / by) * rows.penalties
                    yield from _of_loss(rows, f"{said}, the penalty too", divided, losses[some].mean() / by)


def _of_loss(rows: Rows, words: str, flat: Tensor, loss: Tensor, is_clipped: bool = False) -> Iterator[Hypothesis]:
    """Gradients with what may be shown for their loss, where they are near to those that are shown."""
    if not _is_near(rows, flat):
        return
    now = rows.now
    for also, shown in (
        ("", loss + rows.penalty[0]),
        ("; the loss that is shown is right, and its gradient is not", now.due.loss),
        ("; the loss that is shown is another", now.shown.loss.detach().cpu().double()),
    ):

        def made(shown: Tensor = shown) -> StepRecord:
            found = replace(rows.record(flat, loss), loss=shown)
            return _as_it_is(rows, found) if is_clipped else found

        yield words + ("" if is_clipped and shown is now.due.loss else also), made


def _as_it_is(rows: Rows, record: StepRecord) -> StepRecord:
    """With the parameters that its gradients make which are not clipped once more."""
    params = replace(rows.step, clip_norm=None).update(rows.state, record.gradients, {}).params
    return Updated(**{**vars(record), "params": params})


def _is_near(rows: Rows, flat: Tensor) -> bool:
    if (wanted := rows.shown) is None:
        return True
    return float((flat - wanted).norm()) <= NEAR * float((rows.flat(rows.whole.gradients) - wanted).norm())


def _clipped(rows: Rows) -> Iterator[Hypothesis]:
    """Each by itself, or what has been added up behind each; the mean of each is divided before, or their sum after."""
    limit = rows.step.clip_norm
    if limit is None:
        return
    due = rows.now.due.loss - rows.penalty[0]
    for size in range(1, rows.n):
        ends = _ends(size, rows.n)
        _, means = rows.pieces(ends)
        number = len(ends)
        shares = torch.tensor([end - start for start, end in zip((0, *ends), ends, strict=False)]) / rows.n
        what = "example" if size == 1 else f"of the {number} pieces of {size}"
        alone = f"the gradient of each {what} is clipped by itself"
        so_far = f"what is added up is clipped behind each {what}"
        for also, by, after in (
            ("", torch.full((number,), 1 / number), 1.0),
            ("", shares, 1.0),
            (", of a cost that is not divided", torch.ones(number), 1.0),
            (", and their mean is taken then", torch.ones(number), 1 / number),
        ):
            total = running = torch.zeros_like(means[0])
            for piece in (means + rows.penalties) * by[:, None]:  # a penalty is in the cost of each
                total, running = total + _shortened(piece, limit), _shortened(running + piece, limit)
            due_is = f"{also}, where clipping of their sum is due"
            yield from _of_loss(rows, alone + due_is, after * total - rows.penalties, due, is_clipped=True)
            if after == 1.0:
                yield from _of_loss(rows, so_far + due_is, running - rows.penalties, due, is_clipped=True)


def _shortened(gradient: Tensor, limit: float) -> Tensor:
    return clip_by_norm({"": gradient}, limit)[0][""]


def stepped(rows: Rows) -> Iterator[Hypothesis]:
    """Each piece makes an update of its own, and the next one begins there."""
    n = rows.n
    for size in [size for size in range(n - 1, 0, -1) if n % size == 0]:
        number = n // size
        if number > MOST_RUNS // 4:
            continue
        for by, also in ((number, ""), (1, ", whose costs are not divided")):
            words = (
                f"the optimiser makes a step for each of the {number} pieces of {size}{also}, where one of all is due"
            )
            made: list[StepRecord] = []  # computed once, if it is asked for

            def of_pieces(size: int = size, by: int = by, made: list[StepRecord] = made) -> StepRecord:
                if not made:
                    made.append(_stepped(rows, size, by))
                return made[0]

            yield words, of_pieces
            yield (
                f"{words}; the loss that is shown is another",
                lambda of_pieces=of_pieces: replace(of_pieces(), loss=rows.now.shown.loss),  # type: ignore[misc]
            )


def _stepped(rows: Rows, size: int, by: int) -> StepRecord:
    state, losses, gradients, step = rows.state, list[Tensor](), dict[str, Tensor](), rows.penalising
    for start in range(0, rows.n, size):
        record = bare(of_rows(step, replace(rows.now, state=state), slice(start, start + size), rows.run_penalised))
        gradients = {name: g / by for name, g in record.gradients.items()}
        after = step.update(state, gradients, state.buffers)
        state = replace(after, buffers=state.buffers, steps=state.steps)
        losses.append(record.loss)
    return Updated(torch.stack(losses).mean(), gradients=gradients, params=state.params)


def _averaged(rows: Rows) -> Iterator[Hypothesis]:
    n, runs = rows.n, 0
    for size in range(n - 1, 0, -1):
        runs += -(-n // size)
        if n % size == 0 or (rows.each is None and (rows.step.model.masks or runs > MOST_RUNS)):
            continue
        words = f"it is the mean of the means of pieces of {size}, the last of which is shorter: its rows count more"
        if rows.each is not None:
            losses, gradients = rows.pieces(_ends(size, n))
            yield from _of_loss(rows, words, gradients.mean(0), losses.mean())
            continue
        for also, with_loss in (("", True), (", in the gradients alone", False)):
            yield words + also, lambda size=size, with_loss=with_loss: _mean_of_pieces(rows, size, with_loss)  # type: ignore[misc]


def _mean_of_pieces(rows: Rows, size: int, with_loss: bool) -> StepRecord:
    pieces = _pieces(rows, size)
    found = bare(StepRecord.combine(lambda *tensors: sum(tensors) / len(tensors), *pieces))
    value, penalties = rows.penalty
    gradients = {n: g + penalties[n] for n, g in found.gradients.items()}
    return replace(found, loss=found.loss + value if with_loss else rows.now.due.loss, gradients=gradients)


def _added(rows: Rows) -> Iterator[Hypothesis]:
    """As many pieces as the shown loss, or the gradients, are times what is due; a penalty counts once, or in each."""
    n, whole, now = rows.n, rows.whole, rows.now
    penalised = rows.is_penalised
    for number in sorted(_numbers(whole, now)):
        for size in [s for s in range(2, n) if -(-n // s) == number][: max(1, MOST_RUNS // number)]:
            equal = n % size == 0
            made: list[list[StepRecord]] = []  # computed once, if it is asked for

            def pieces(size: int = size, made: list[list[StepRecord]] = made) -> list[StepRecord]:
                if not made:
                    made.append(_pieces(rows, size))
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


def _pieces(rows: Rows, size: int) -> list[StepRecord]:
    """Without penalties."""
    if rows.each is None:
        return [rows.of(slice(k, k + size)) for k in range(0, rows.n, size)]
    losses, gradients = rows.pieces(_ends(size, rows.n))
    return [StepRecord(loss, gradients=rows.named(g)) for loss, g in zip(losses, gradients, strict=True)]
