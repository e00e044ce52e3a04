"""Early stopping: `candidate(losses, patience=, min_delta=) -> (epochs, best)`.

losses: the validation losses, one for each epoch. epochs: how many are run before it stops, all if it never does.
best: the epoch (from 1) whose parameters are kept; None if there is none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from manual_bp.curves.early_stopping import EarlyStopping
from manual_bp.oracle.practice.judged import Program, Situation

NAMES = ("epochs", "best")
TIES = ("first", "last")

_NAN = math.nan
CURVES: dict[str, tuple[float, ...]] = {
    "falls to the end": (5, 4, 3, 2, 1),
    "turns": (5, 4, 3, 4, 5, 6, 7, 8, 9),
    "turns, and gets better after some waiting": (5, 3, 4, 4.5, 2, 3, 3.5, 1.5, 4, 5, 6, 7, 8),
    "as good again": (3, 2, 2, 2, 2.5, 2, 3, 3, 3, 3, 3),
    "improves by less than before": (4, 3, 2.75, 2.625, 2.5, 2.46875, 2.4375, 2.40625, 2.4, 2.39, 2.38),
    "small steps that add up": (1, 0.9375, 0.875, 0.8125, 0.75, 0.6875, 0.625, 0.5625, 0.5),
    "large losses, small steps": (100, 99.5, 99, 98.5, 98, 97.5, 97, 96.5, 96),
    "a zigzag": (5, 6, 4.5, 6, 5.5, 6, 5.25, 6, 5, 6, 5, 6),
    "NaN in one epoch": (5, 4, _NAN, 3, 4, 4, 4, 4, 4, 4),
    "NaN first": (_NAN, 5, 4, 5, 5, 5, 5, 5),
    "NaN from one epoch on": (5, 4, 3, _NAN, _NAN, _NAN, _NAN, _NAN, _NAN),
    "negative losses": (-1, -2, -3, -2.5, -2.5, -2.5, -2.5, -2.5),
    "rises from the beginning": (1, 2, 3, 4, 5, 6, 7, 8),
    "one epoch": (1,),
}
SETTINGS = ((1, 0.0), (2, 0.0), (3, 0.0), (2, 0.125), (3, 0.25), (5, 0.03125))


def situations(deltas: bool) -> Iterator[Situation]:
    """deltas: whether other values of min_delta than 0 are tried."""
    for name, losses in CURVES.items():
        for patience, delta in SETTINGS:
            if deltas or not delta:
                words = f"{name}, patience {patience}" + (f", min_delta {delta}" if delta else "")
                yield Situation(words, {"losses": tuple(map(float, losses)), "patience": patience, "min_delta": delta})


def due(tie: str) -> Program:
    """The right program; tie: whether a loss as low as the lowest counts as better ("last")."""
    if tie == "last":
        return _program(lambda loss, best, delta: loss <= best - delta)

    def right(losses: Sequence[float], patience: int, min_delta: float = 0.0) -> tuple[Any, ...]:
        rule = EarlyStopping(patience, min_delta)
        state = rule.start()
        for epoch, loss in enumerate(losses, 1):
            state = rule.observe(state, epoch, loss)
            if state.stop:
                return epoch, state.best_epoch
        return len(losses), state.best_epoch

    return right


Better = Callable[[float, float, float], bool]
"""loss, the best so far, min_delta"""


def _strictly(loss: float, best: float, delta: float) -> bool:
    return loss < best - delta


def _program(
    better: Better = _strictly,
    more: int = 0,
    keeps: str = "best",
    anew: bool = True,
    base: int = 1,
    former: bool = False,
    at_nan: str = "waits",
    start: float = math.inf,
) -> Program:
    """A rule for stopping, with what people get wrong for options."""

    def run(losses: Sequence[float], patience: int, min_delta: float = 0.0) -> tuple[Any, ...]:
        best, kept, waited, previous = start, None, 0, start
        made = 0
        for epoch, loss in enumerate(losses, 1):
            made = epoch
            if better(loss, previous if former else best, min_delta):
                best, kept = loss, epoch
                waited = 0 if anew else waited
            elif not (math.isnan(loss) and at_nan == "skips"):
                waited += 1
            previous = loss
            if waited >= patience + more or (math.isnan(loss) and at_nan == "stops"):
                break
        answer = {"best": kept, "last": made, "before": max(made - patience, 1)}[keeps]
        return made, None if answer is None else answer - 1 + base

    return run


WRONG: tuple[tuple[str, Program], ...] = (
    ("patience is one too long: it stops after patience + 1 epochs without an improvement", _program(more=1)),
    ("patience is one too short: it stops after patience − 1 epochs without an improvement", _program(more=-1)),
    ("the best epoch is not restored: the parameters of the last one are kept", _program(keeps="last")),
    ("the epoch that is kept is that before the waiting by its number, and not the best", _program(keeps="before")),
    (
        "a loss that is as good as the best counts as an improvement; if that is meant: conventions={'tie': 'last'}",
        _program(lambda loss, best, delta: loss <= best - delta),
    ),
    ("epochs are counted from 0: the best one is due from 1", _program(base=0)),
    ("min_delta is ignored: every smaller loss counts as an improvement", _program(lambda a, best, delta: a < best)),
    (
        "min_delta has the wrong sign: losses that are higher by less than it count as improvements",
        _program(lambda loss, best, delta: loss < best + delta),
    ),
    (
        "min_delta is taken as a share of the best loss, and not as a difference",
        _program(lambda loss, best, delta: loss < best - abs(best) * delta if best < math.inf else loss < best),
    ),
    (
        "min_delta is taken as a share of the best loss, by a product that negative losses turn round",
        _program(lambda loss, best, delta: loss < best * (1 - delta)),
    ),
    (
        "an improvement by just min_delta counts, where more than that is due",
        _program(lambda loss, best, delta: loss <= best - delta if delta else loss < best),
    ),
    ("the waiting does not begin anew at an improvement: all epochs without one are counted", _program(anew=False)),
    ("each loss is compared with that of the epoch before, and not with the best", _program(former=True)),
    ("a NaN counts as an improvement: no comparison with NaN holds", _program(lambda a, best, d: not a >= best - d)),
    ("a NaN stops the training at once, where it is an epoch without an improvement", _program(at_nan="stops")),
    ("an epoch with NaN is not counted among those waited", _program(at_nan="skips")),
    (
        "a higher loss counts as better, as of an accuracy",
        _program(lambda loss, best, delta: loss > best + delta, start=-math.inf),
    ),
    (
        "the first loss is compared with 0: losses above it never are an improvement",
        _program(start=0.0),
    ),
)
