"""Examples that count otherwise than they are to, or whose targets are others: read off the gradient.

Where examples do not meet one another the gradient is a sum over them.  By how much each of them counts in one that was
shown follows by least squares; what is told is what these shares have in common, and only if the step with them is what
was shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import torch
from torch import Tensor

from manual_bp.training.causes.moment import Hypothesis
from manual_bp.training.causes.rows import Rows, bare
from manual_bp.training.causes.wrong_losses import outputs_of
from manual_bp.training.engine import StepRecord
from manual_bp.wording import counted

# Shares are told of numbers that are so many times as many: a few would be fitted by any.
NUMBERS = 3
MOST_RUNS = 256
"""Of one example each, for one search."""
SAME = 0.02
"""By how much shares that are one and the same may differ: what is told is then asked exactly."""
MOST_LISTED = 6


def wrong_shares(rows: Rows) -> Iterator[Hypothesis]:
    n, wanted, now = rows.n, rows.shown, rows.now
    if wanted is None or rows.numbers < NUMBERS * n or rows.each is None or not bool(wanted.isfinite().all()):
        return
    losses, gradients = rows.each

    def made(shares: Tensor, loss: Tensor | None) -> StepRecord:
        found = rows.record(shares @ gradients / n, shares @ losses / n)
        return found if loss is None else replace(found, loss=loss)

    step, target = rows.step, now.target
    classes = target.tolist() if step.loss.takes_classes and target.ndim == 1 else None
    for words, shares in _named(_solved(gradients, wanted, n), classes):
        for also, loss in (
            ("", None),
            ("; the loss that is shown is right, and its gradient is not", now.due.loss),
            ("; the loss that is shown is another", now.shown.loss),
        ):
            yield words + also, lambda s=shares, loss=loss: made(s, loss)  # type: ignore[misc]
    number = outputs_of(step, now) if classes else 0
    if number and n * number <= MOST_RUNS and rows.numbers >= NUMBERS * n * number:
        pairs = torch.stack(
            [
                rows.flat(rows.of(slice(row, row + 1), torch.full_like(target, c)).gradients)
                for row in range(n)
                for c in range(number)
            ]
        )
        found = _solved(pairs, wanted, n, number).view(n, number)
        if bool((found.max(1).values > 0.5).all()):
            own = found.argmax(1)
            words = _of_targets(own.tolist(), target.tolist())
            yield words, lambda: _of_target(rows, own.to(target))


def _of_target(rows: Rows, target: Tensor) -> StepRecord:
    found = bare(rows.run(target=target))
    return rows.record(rows.flat(found.gradients), found.loss)


def _solved(gradients: Tensor, wanted: Tensor, n: int, number: int = 0) -> Tensor:
    """How often each row counts in what is wanted, the mean over n of them; so many together count once, if number."""
    columns = gradients.T / n
    if number:  # else the gradients of one example's classes, each times its probability, are 0 together
        once = torch.eye(n, dtype=torch.float64).repeat_interleave(number, 1) * float(columns.norm()) / n
        columns, wanted = torch.cat([columns, once]), torch.cat([wanted, once.sum(1) / number])
    found: Tensor = torch.linalg.lstsq(columns, wanted[:, None], driver="gelsd").solution
    return found.flatten()


def _named(shares: Tensor, classes: Sequence[int] | None) -> Iterator[tuple[str, Tensor]]:
    """What shares that are not all one and the same have in common, and what they then are exactly."""
    n, each = len(shares), shares.tolist()
    if _alike(each):
        return
    used = [row for row, w in enumerate(each) if abs(w) > SAME]
    if used and len(used) < n and _alike([each[row] for row in used]):
        for by, also in ((n / len(used), ""), (1.0, f", and are divided by {n} still")):
            exact = torch.zeros_like(shares)
            exact[used] = by
            yield f"{_some(used, n)} of the batch alone {'counts' if len(used) == 1 else 'count'}{also}", exact
    pieces = _pieces(each)
    if 1 < len(pieces) < n:
        sizes = " and ".join(map(str, pieces))
        exact = torch.cat([torch.full((size,), n / (len(pieces) * size), dtype=shares.dtype) for size in pieces])
        yield f"it is the mean of the means of pieces of {sizes} examples: those of a shorter one count more", exact
    if classes:
        own = {c: [w for w, other in zip(each, classes, strict=True) if other == c] for c in sorted(set(classes))}
        if len(own) > 1 and all(map(_alike, own.values())):
            least = min(abs(sum(some)) / len(some) for some in own.values()) or 1.0
            ratio = {c: float(f"{sum(some) / len(some) / least:.2g}") for c, some in own.items()}
            weights = torch.tensor([ratio[c] for c in classes], dtype=shares.dtype)
            listed = ", ".join(f"{ratio[c]:g} of class {c}" for c in own)
            for by, also in ((n / float(weights.sum()), ""), (1.0, f", and are divided by {n}")):
                yield f"the classes have weights: an example counts {listed}{also}", by * weights
    listed = ", ".join(f"{w:.3g}" for w in each[:MOST_LISTED]) + (", ..." if n > MOST_LISTED else "")
    yield f"the examples do not count alike: {listed} times each, where each counts once", shares


def _alike(shares: Sequence[float]) -> bool:
    return max(shares) - min(shares) <= SAME * max(1.0, *map(abs, shares))


def _some(rows: Sequence[int], n: int) -> str:
    if rows == [*range(len(rows))]:
        return f"the first {len(rows)} of the {n} examples"
    if rows == [*range(n - len(rows), n)]:
        return f"the last {len(rows)} of the {n} examples"
    listed = ", ".join(str(row + 1) for row in rows[:MOST_LISTED])
    return f"examples {listed}{' and others' if len(rows) > MOST_LISTED else ''} of the {n}"


def _pieces(shares: Sequence[float]) -> list[int]:
    """The lengths of runs of equal shares, if each of them counts as much as every other in all."""
    n, rest = len(shares), list(shares)
    runs = [len(list(same)) for _, same in groupby(float(f"{w:.1e}") for w in shares)]
    of_each = [sum(rest[sum(runs[:k]) : sum(runs[: k + 1])]) for k in range(len(runs))]
    return runs if _alike([len(runs) / n * each for each in of_each]) else []


def _of_targets(own: list[int], due: list[int]) -> str:
    if Counter(own) == Counter(due):
        return "examples and targets come in different orders: the rows of one were shuffled, and not the other's"
    other = [row for row, (a, b) in enumerate(zip(own, due, strict=True)) if a != b]
    listed = ", ".join(f"{own[row]} in place of {due[row]} (example {row + 1})" for row in other[:3])
    return f"the targets of {counted(len(other), 'example')} are others: {listed}{', ...' if len(other) > 3 else ''}"
