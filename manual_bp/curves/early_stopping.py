"""Early stopping: end the training when the validation loss has not improved for some epochs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from manual_bp.arguments import is_finite, is_whole


@dataclass(frozen=True)
class Stopping:
    """How far the waiting is.

    best: the lowest validation loss so far; ∞ if there is none. best_epoch: its epoch, whose parameters to restore.
    waited: epochs since then.
    improved: whether the latest epoch was the best.
    stop: whether the patience is used up.
    """

    best: float = math.inf
    best_epoch: int | None = None
    waited: int = 0
    improved: bool = False
    stop: bool = False


@dataclass(frozen=True)
class EarlyStopping:
    """Stop after `patience` epochs in a row without an improvement by more than `min_delta`.

    Pure: the caller keeps the state, and the parameters of the best epoch.

    >>> rule = EarlyStopping(patience=2)
    >>> stopping = rule.start()
    >>> for epoch, loss in enumerate([3.0, 2.0, 2.5, 2.0], 1):
    ...     stopping = rule.observe(stopping, epoch, loss)
    >>> stopping
    Stopping(best=2.0, best_epoch=2, waited=2, improved=False, stop=True)

    Raises ValueError for a patience below 1 and a negative or infinite min_delta.
    Source: Goodfellow, Bengio & Courville, "Deep Learning" (2016), algorithm 7.1.
    """

    patience: int
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        if not (is_whole(self.patience, 1) and is_finite(self.min_delta) and self.min_delta >= 0):
            raise ValueError(
                "EarlyStopping: patience must be at least 1 and min_delta not negative, a whole and a finite number; "
                f"came patience={self.patience!r}, min_delta={self.min_delta!r}."
            )

    def start(self) -> Stopping:
        """Nothing observed yet."""
        return Stopping()

    def observe(self, stopping: Stopping, epoch: int, validation_loss: float) -> Stopping:
        """After one more epoch.  A NaN is never an improvement."""
        if validation_loss < stopping.best - self.min_delta:
            return Stopping(validation_loss, epoch, waited=0, improved=True)
        waited = stopping.waited + 1
        return Stopping(stopping.best, stopping.best_epoch, waited, stop=waited >= self.patience)
