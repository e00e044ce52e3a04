"""Over-fitting: `candidate(training, validation) -> (found, epoch)`, of losses of which nobody doubts what they say.

found: whether the run over-fits (False or None where that cannot be said); epoch: of the lowest validation loss, from
1, asked for where there is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from manual_bp.curves.overfitting import overfitting
from manual_bp.oracle.practice.judged import Program, Situation

NAMES = ("found", "epoch")
EPOCHS = 40


def situations() -> Iterator[Situation]:
    falling = [1 / k for k in range(1, EPOCHS + 1)]
    turning = [0.5 + 0.01 * abs(k - 10) for k in range(1, EPOCHS + 1)]
    curves = {
        "the validation loss turns, the training loss falls": (falling, turning),
        "the same with noise": (_noisy(falling, 0.0005, 0), _noisy(turning, 0.005, 1)),
        "both fall": (falling, [v + 0.1 for v in falling]),
        "both fall, with a gap": ([0.2 * v for v in falling], [v + 1.0 for v in falling]),
        "both fall, the training loss (with dropout) above": ([v + 0.3 for v in falling], [v + 0.1 for v in falling]),
        "the validation loss is flat and noisy after its turn": (
            falling,
            _noisy([max(0.5, 1 - 0.05 * k) for k in range(EPOCHS)], 0.02, 2),
        ),
        "one spike at the end": (falling, [*[1 / k + 0.2 for k in range(1, EPOCHS)], 0.9]),
        "one spike amid a fall": (falling, [(3.0 if k == 20 else 1 / k + 0.2) for k in range(1, EPOCHS + 1)]),
        "both rise: it diverges": (
            [0.3 + 0.02 * abs(k - 5) for k in range(EPOCHS)],
            [0.5 + 0.02 * abs(k - 5) for k in range(EPOCHS)],
        ),
        "the validation loss rises, and the training loss is flat and noisy": (
            _noisy([max(0.3, 1 - 0.1 * k) for k in range(EPOCHS)], 0.01, 3),
            turning,
        ),
        "too few epochs": ([3.0, 2.0, 1.0], [3.0, 2.0, 2.5]),
        "the turn is a few epochs ago": (falling, [1 / k + 0.2 for k in range(1, EPOCHS - 2)] + [0.24, 0.25, 0.26]),
    }
    for name, (training, validation) in curves.items():
        known = overfitting(training, validation)
        yield Situation(name, {"training": training, "validation": validation}, () if known.epoch is not None else (1,))


def _noisy(values: Sequence[float], size: float, seed: int) -> list[float]:
    noise = torch.randn(len(values), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return [v + size * float(n) for v, n in zip(values, noise, strict=True)]


def due(training: Sequence[float], validation: Sequence[float]) -> tuple[Any, ...]:
    found = overfitting(training, validation)
    return bool(found.found), found.epoch


def _turn(losses: Sequence[float]) -> int:
    return min(range(len(losses)), key=losses.__getitem__) + 1


def _program(found: Any, epoch: Any = lambda t, v: _turn(v)) -> Program:
    def run(training: Sequence[float], validation: Sequence[float]) -> tuple[Any, ...]:
        return bool(found(training, validation)), epoch(training, validation)

    return run


def _right(t: Sequence[float], v: Sequence[float]) -> bool:
    return bool(overfitting(t, v).found)


def _training_ignored(t: Sequence[float], v: Sequence[float]) -> bool:
    return _right([-float(k) for k in range(len(v))], v)


WRONG: tuple[tuple[str, Program], ...] = (
    ("epochs are counted from 0: the turn is due from 1", _program(_right, lambda t, v: _turn(v) - 1)),
    (
        "the turn is that of the training loss, where the validation loss is lowest is due",
        _program(_right, lambda t, v: _turn(t)),
    ),
    ("the turn is the last epoch, and not that of the lowest validation loss", _program(_right, lambda t, v: len(v))),
    (
        "the training loss is ignored: a validation loss that rises is over-fitting only while the training loss falls",
        _program(_training_ignored),
    ),
    ("it never finds any", _program(lambda t, v: False)),
    ("it finds some in every run", _program(lambda t, v: True)),
    ("any rise above the lowest validation loss counts, noise and spikes too", _program(lambda t, v: v[-1] > min(v))),
    ("a gap between the losses counts: it is there without over-fitting too", _program(lambda t, v: v[-1] > t[-1])),
    ("the last two epochs alone are compared, so noise and spikes count", _program(lambda t, v: v[-1] > v[-2])),
    ("the last validation loss is compared with the first", _program(lambda t, v: v[-1] > v[0])),
    (
        "the last two epochs alone are compared, so noise and spikes count",
        _program(lambda t, v: v[-1] > v[-2] and t[-1] < t[-2]),
    ),
)
