"""Wrong inputs: in another order, on another scale, or mixed with each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from manual_bp.arithmetic.perturbed import wide
from manual_bp.losses import Loss, RuleVjp
from manual_bp.rule import Rule
from manual_bp.training.causes.moment import Hypothesis, Moment
from manual_bp.training.causes.nearest import DIGITS, nearest, nearest_of_several
from manual_bp.training.engine import StepRecord
from manual_bp.training.step import Step

BYTE = 255.0
"""The largest number of an image's bytes, by which they are divided once, twice or never."""
# Beside a variance, as in batch norm: programs differ, and what a sum of squares far above it makes of it is not seen.
EPS = 1e-5

Run = Callable[..., StepRecord]


def wrong_inputs(step: Step, now: Moment, run: Run) -> Iterator[Hypothesis]:
    if not now.x.is_floating_point():
        return
    x = now.x.double()
    for axis in range(1, x.ndim):
        yield (
            f"the inputs are in reverse order along axis {axis}",
            lambda axis=axis: run(x=x.flip(axis)),  # type: ignore[misc]
        )
    if x.ndim > 2 and x.shape[-1] == x.shape[-2]:
        yield "the last two axes of the inputs are exchanged", lambda: run(x=x.transpose(-1, -2).contiguous())
    yield from _standardised(x, run)
    yield from _mixed(step, now, run)
    yield from _scaled(now, run)


def _standardised(x: Tensor, run: Run) -> Iterator[Hypothesis]:
    """To mean 0 and variance 1, of what the batch itself or an example says."""
    groups: dict[str, Sequence[int]] = {"each feature, over the batch": (0,), "each example": range(1, x.ndim)}
    if x.ndim > 2:
        groups["each channel, over the batch"] = (0, *range(2, x.ndim))
    for what, axes in groups.items():
        centred = x - x.mean(tuple(axes), keepdim=True)
        for correction in (0, 1):
            variance = x.var(tuple(axes), correction=correction, keepdim=True)
            for width in ((variance + EPS).sqrt(), variance.sqrt() + EPS, variance.sqrt()):
                yield (
                    f"the inputs are normalised: {what}, to mean 0 and variance 1",
                    lambda own=centred / width: run(x=own),  # type: ignore[misc]
                )


def _mixed(step: Step, now: Moment, run: Run) -> Iterator[Hypothesis]:
    """Mixup with the batch in an order that is known beforehand; of one that is drawn nothing tells the order."""
    orders: dict[str, Callable[[Tensor], Tensor]] = {
        "in reverse order": lambda t: t.flip(0),
        "shifted by one row": lambda t: t.roll(1, 0),
        "shifted back by one row": lambda t: t.roll(-1, 0),
    }
    for words, order in orders.items():

        def mixed(c: float, order: Callable[[Tensor], Tensor] = order) -> StepRecord:
            x = c * now.x.double() + (1 - c) * order(now.x.double())
            if now.target.is_floating_point():
                return run(x=x, target=c * now.target.double() + (1 - c) * order(now.target.double()))
            return run(replace(step, loss=_OfTwo(step.loss.name, step.loss.hyper, c, order)), x=x)

        c = nearest(lambda c, mixed=mixed: _flat(mixed(c), now), _shown(now), 0.75)  # type: ignore[misc]
        if c is not None:
            yield (
                f"examples are mixed (mixup): {c:.{DIGITS}g} of each and {1 - c:.{DIGITS}g} of the batch {words}",
                lambda c=c, mixed=mixed: mixed(c),  # type: ignore[misc]
            )


def _scaled(now: Moment, run: Run) -> Iterator[Hypothesis]:
    x = now.x.double()
    for factor, words in ((BYTE, "multiplied"), (1 / BYTE, "divided")):
        yield f"the inputs are {words} by 255", lambda factor=factor: run(x=factor * x)  # type: ignore[misc]
    mean, width = float(x.mean()), float(x.std())
    starts = [(1.0, 0.0), *([(1 / width, -mean / width)] if width else [])]
    for start in starts:
        found = nearest_of_several(lambda c: _flat(run(x=c[0] * x + c[1]), now), _shown(now), start)
        if found is None:
            continue
        a, b = found
        # As people write it, (x − m) / s: twice, say.
        said = f", as (x − {-b / a:.{DIGITS}g}) / {1 / a:.{DIGITS}g}" if a else ""
        words = f"the inputs are {a:.{DIGITS}g} x {'−' if b < 0 else '+'} {abs(b):.{DIGITS}g}{said}"
        yield f"{words}: scaled or shifted once more, or never", lambda a=a, b=b: run(x=a * x + b)  # type: ignore[misc]


def _shown(now: Moment) -> Tensor:
    return _flat(now.shown, now)


def _flat(record: StepRecord, now: Moment) -> Tensor:
    """The loss and the gradients that are shown, as one vector."""
    names = [n for n in now.due.gradients if n in now.shown.gradients]
    return torch.cat([t.flatten() for t in wide({"": record.loss, **{n: record.gradients[n] for n in names}}).values()])


@dataclass(frozen=True)
class _OfTwo(Loss):
    """A loss of the targets, and of the targets in another order, by their shares."""

    share: float = 1.0
    order: Callable[[Tensor], Tensor] = lambda t: t

    def vjp(self, y: Tensor, target: Tensor, vjp: RuleVjp = Rule.vjp) -> tuple[Tensor, Tensor]:
        cost, dy = super().vjp(y, target, vjp)
        other, other_dy = super().vjp(y, self.order(target), vjp)
        return self.share * cost + (1 - self.share) * other, self.share * dy + (1 - self.share) * other_dy
