"""The time that a search for a cause may take."""

from __future__ import annotations

import math
import time


class TimeIsUp(BaseException):
    """The search has taken its time.  It is no Exception: a hypothesis may raise one where it is not defined, and what
    catches that must let this pass."""


class Deadline:
    """seconds: of wall clock, from now on."""

    def __init__(self, seconds: float = math.inf) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds."""
        return max(self._end - time.monotonic(), 0.0)

    def check(self) -> None:
        """Raise TimeIsUp if it is."""
        if time.monotonic() > self._end:
            raise TimeIsUp
