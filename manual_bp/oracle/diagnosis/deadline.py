"""The time that a search for a cause may take."""

from __future__ import annotations

import math
import time

# On a machine that others keep busy the search gets its time later, but nobody waits for ever: so many times as long.
PATIENCE = 3
# How long this thread has computed is asked of the system, which takes a while: so seldom, in seconds.
SELDOM = 0.02


class TimeIsUp(BaseException):
    """The search has taken its time.  It is no Exception: a hypothesis may raise one where it is not defined, and what
    catches that must let this pass."""


class Deadline:
    """seconds: that this thread computes from now on, so that what is found depends little on what else runs; and
    so many times as many of wall clock, for a candidate that waits."""

    def __init__(self, seconds: float = math.inf, patience: float = PATIENCE) -> None:
        self.seconds = seconds
        self._end = time.thread_time() + seconds
        self._asked = time.monotonic()
        self._latest = self._asked + patience * seconds

    @property
    def left(self) -> float:
        """Seconds of computing."""
        return max(self._end - time.thread_time(), 0.0)

    def check(self) -> None:
        """Raise TimeIsUp if it is."""
        now = time.monotonic()
        if now < self._asked + SELDOM:
            return
        self._asked = now
        if now > self._latest or time.thread_time() > self._end:
            raise TimeIsUp
