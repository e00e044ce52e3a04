"""Time limits of somebody's code, which leave out what it waited for a busy machine.

Linux tells how long each thread was ready to run while others ran (/proc/PID/task/TID/schedstat, the second number, in
nanoseconds).  Elsewhere, and of a process that has ended, nothing is left out.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

NANOSECOND = 1e-9
# No more than so many times its limit passes, whatever a process waits: one that fills the machine itself, or starts
# what does, gains no more.
MOST = 4.0


def waited(process: int) -> float:
    """Seconds that a process has waited to run since it began: the longest of its threads."""
    most = 0
    for file in Path(f"/proc/{process}/task").glob("*/schedstat"):
        with suppress(OSError, IndexError):  # the thread has ended, or the system does not tell
            most = max(most, int(file.read_text().split()[1]))
    return NANOSECOND * most


def worked(passed: float, waiting: float) -> float:
    """Seconds that count against a limit, of those that have passed, where a process waited to run for some of them."""
    return max(passed - waiting, passed / MOST)


class Limit:
    """So many seconds of a process, from now on."""

    def __init__(self, seconds: float, process: int) -> None:
        self.seconds, self._process = seconds, process
        self._begin, self._before = time.monotonic(), waited(process)

    def left(self) -> float:
        """Seconds that are left, below 0 if it is over."""
        passed = time.monotonic() - self._begin
        if passed <= self.seconds:  # nearly always, and to ask the system takes longer
            return self.seconds - passed
        return self.seconds - worked(passed, waited(self._process) - self._before)


def own_limit(seconds: float) -> Limit:
    """So many seconds of this process."""
    return Limit(seconds, os.getpid())
