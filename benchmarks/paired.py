"""Paired timing: contestants take turns in one process, and what is quoted is the median of their ratios.

On a machine that does other things too a time means little by itself: clock rates and neighbours change from second to
second.  They change for all contestants alike if these run by turns, a sample each: A B C, C B A, A B C, ...  So each
round gives one ratio of any two contestants, and the median over the rounds is quoted with a confidence interval that
assumes nothing about the distribution of the noise.
"""

from __future__ import annotations

import gc
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from filelock import FileLock

# One sample calls a contestant so often that it lasts this long: a thousand times the clock's resolution and the cost
# of reading it, and longer than a scheduler's interruption is.
SAMPLE_SECONDS = 1e-3
# A contestant runs untimed for this long before each sample.  The threads of the one before it spin for a while after
# their last parallel region, and caches and thread pools are not yet its own.
SETTLE_SECONDS = 2e-3
# With fewer rounds than six no two samples enclose the median with 95 % confidence.
MIN_ROUNDS = 7
MAX_ROUNDS = 41
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Contestant:
    """What is timed: `call` does the work once and may be called any number of times.

    threads: torch's threads while it runs; by default as many as torch uses already.
    wait: returns when all calls are done, if they may return before and torch does not know of it.
    """

    name: str
    call: Callable[[], object]
    threads: int | None = None
    wait: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Interval:
    """A median, and two order statistics that enclose it with 95 % confidence."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Timings:
    """Seconds per call, by contestant, one entry per round; and the calls that each sample made."""

    seconds: dict[str, list[float]]
    calls: dict[str, int]
    others: float | None = None
    """The share of the machine's processor time that other programs took meanwhile; None where it cannot be told.

    Threads that wait for one another at every barrier suffer most from a neighbour, so a busy machine is not fair even
    to contestants that take turns.
    """

    def time(self, name: str) -> Interval:
        return interval(self.seconds[name])

    def ratio(self, name: str, to: str) -> Interval:
        """The time of one contestant over that of another in the same round: below 1, the first is faster."""
        return interval([ours / theirs for ours, theirs in zip(self.seconds[name], self.seconds[to], strict=True)])

    def fastest(self, names: Sequence[str]) -> str:
        return min(names, key=lambda name: statistics.median(self.seconds[name]))


def interval(values: Sequence[float]) -> Interval:
    """The median of independent values, and the narrowest pair of order statistics around it that encloses the true
    median with at least 95 % probability; of fewer than six values, the smallest and the largest.

    How many of n values lie below the true median is binomial with p = ½, whatever their distribution.  With k values
    left out on either side it is missed if at most k lie below it, or at most k above.
    """
    n, ordered = len(values), sorted(values)
    left_out = 0
    for k in range((n - 1) // 2):
        missed = 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n
        if missed <= 1 - CONFIDENCE:
            left_out = k
    return Interval(statistics.median(ordered), ordered[left_out], ordered[n - 1 - left_out])


class Clock(Protocol):
    """Seconds that `calls` calls of a contestant take."""

    def __call__(self, contestant: Contestant, calls: int) -> float: ...


def host_clock(contestant: Contestant, calls: int) -> float:
    call = contestant.call
    began = time.perf_counter()
    for _ in range(calls):
        call()
    contestant.wait()
    return time.perf_counter() - began


def cuda_clock(contestant: Contestant, calls: int) -> float:
    """Between two events on the device: what the calls take there, or what launching them takes if that is longer."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    call = contestant.call
    torch.cuda.synchronize()
    start.record()  # type: ignore[no-untyped-call]
    for _ in range(calls):
        call()
    contestant.wait()
    end.record()  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1000  # type: ignore[no-untyped-call]


def clock_of(device: str) -> Clock:
    return cuda_clock if device.startswith("cuda") else host_clock


def measure(
    contestants: Sequence[Contestant], *, clock: Clock = host_clock, seconds: float = 10.0, rounds: int | None = None
) -> Timings:
    """Time all contestants in turns.

    seconds: about how long this may take, which decides the number of rounds between MIN_ROUNDS and MAX_ROUNDS.
    rounds: or their number.
    Raises ValueError if two contestants have one name.
    """
    if len({c.name for c in contestants}) < len(contestants):
        raise ValueError(f"contestants must have names of their own; came {[c.name for c in contestants]}.")
    found: dict[str, list[float]] = {c.name: [] for c in contestants}
    with _alone(), _without_gc(), _threads_restored() as default:

        def settle(c: Contestant) -> None:
            torch.set_num_threads(c.threads or default)
            took = 0.0
            while took < SETTLE_SECONDS:
                took += clock(c, 1)

        calls = {}
        for c in contestants:
            settle(c)
            calls[c.name] = _calls_per_sample(c, clock)
        busy_before = _processor_seconds()
        began = time.perf_counter()
        wanted, done = rounds or MAX_ROUNDS, 0
        while done < wanted:
            for c in contestants if done % 2 == 0 else reversed(contestants):
                settle(c)
                found[c.name].append(clock(c, calls[c.name]) / calls[c.name])
            done += 1
            if rounds is None:
                affordable = int(seconds * done / (time.perf_counter() - began))
                wanted = min(MAX_ROUNDS, max(MIN_ROUNDS, affordable))
            gc.collect(0)  # between rounds it strikes nobody
        busy_after = _processor_seconds()
    return Timings(found, calls, _share_of_others(busy_before, busy_after))


def _processor_seconds() -> tuple[float, float, float] | None:
    """Processor time so far of the whole machine, idle included; of all programs; and of this one.  Linux only."""
    try:
        first = Path("/proc/stat").read_text().partition("\n")[0].split()
    except OSError:
        return None
    # user, nice, system, idle, iowait, irq, softirq, steal: the first eight columns of proc(5), in ticks.
    ticks = [int(column) for column in first[1:9]]
    per_second = os.sysconf("SC_CLK_TCK")
    idle = ticks[3] + ticks[4]
    return sum(ticks) / per_second, (sum(ticks) - idle) / per_second, time.process_time()


def _share_of_others(
    before: tuple[float, float, float] | None, after: tuple[float, float, float] | None
) -> float | None:
    if before is None or after is None:
        return None
    whole, busy, own = (b - a for a, b in zip(before, after, strict=True))
    return max(busy - own, 0.0) / whole if whole > 0 else None


def _calls_per_sample(contestant: Contestant, clock: Clock) -> int:
    calls = 1
    while (took := clock(contestant, calls)) < SAMPLE_SECONDS:
        # Aim a little beyond, but never grow by more than a factor of ten on one short reading.
        calls = min(10 * calls, math.ceil(1.2 * calls * SAMPLE_SECONDS / max(took, 1e-9)))
    return calls


@contextmanager
def _alone() -> Iterator[None]:
    """Nothing else is timed on this machine meanwhile, if it is timed by this function."""
    with FileLock(Path(tempfile.gettempdir()) / "manual_bp_timing"):
        yield


@contextmanager
def _without_gc() -> Iterator[None]:
    """Python's cycle collector would strike one contestant for the garbage of another."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def _threads_restored() -> Iterator[int]:
    """The number of threads that torch uses, which is what its user gets, and again at the end."""
    before = torch.get_num_threads()
    try:
        yield before
    finally:
        torch.set_num_threads(before)
