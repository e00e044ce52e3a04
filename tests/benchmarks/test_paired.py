"""The timing core, on a clock that the contestants themselves advance."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time

import pytest
import torch

from benchmarks.paired import (
    CONFIDENCE,
    MAX_ROUNDS,
    MIN_ROUNDS,
    SAMPLE_SECONDS,
    Contestant,
    cuda_clock,
    host_clock,
    interval,
    measure,
)


class FakeTime:
    """Seconds that pass when a contestant says so; the speed of the machine changes from sample to sample."""

    def __init__(self, speeds=(1.0,)):
        self.now, self.speeds, self.samples, self.order = 0.0, speeds, 0, []

    def contestant(self, name, seconds, threads=None):
        def call():
            self.now += seconds * self.speeds[self.samples % len(self.speeds)]
            self.order.append(name)

        return Contestant(name, call, threads)

    def clock(self, contestant, calls):
        began = self.now
        for _ in range(calls):
            contestant.call()
        contestant.wait()
        return self.now - began


def test_ratio_is_that_of_the_times():
    fake = FakeTime()
    timings = measure([fake.contestant("a", 2.0), fake.contestant("b", 4.0)], clock=fake.clock, rounds=7)
    assert timings.ratio("a", to="b").median == 0.5
    assert timings.time("b").median == 4.0
    assert timings.fastest(["a", "b"]) == "a"


def test_ratios_are_of_one_round():
    """Times whose machine slows down from round to round differ; their ratios do not."""
    fake = FakeTime()
    contestants = [fake.contestant("a", 2.0), fake.contestant("b", 4.0)]

    def clock(contestant, calls):
        if calls and len(fake.order) % 8 == 0:
            fake.samples += 1
        return FakeTime.clock(fake, contestant, calls)

    fake.speeds = (1.0, 1.0, 2.0, 4.0)
    timings = measure(contestants, clock=clock, rounds=8)
    assert len(set(timings.seconds["a"])) > 1
    assert timings.ratio("b", to="a").low == timings.ratio("b", to="a").high == 2.0


def test_contestants_take_turns():
    fake = FakeTime()
    names = ["a", "b", "c"]
    measure([fake.contestant(name, 1.0) for name in names], clock=fake.clock, rounds=3)
    turns = [name for before, name in zip([None, *fake.order], fake.order, strict=False) if name != before]
    # Each settles and is calibrated, then rounds there and back; one that ends a round begins the next.
    assert "".join(turns) == "abc" + "abc" + "ba" + "bc"


def test_a_sample_lasts_long_enough():
    fake = FakeTime()
    timings = measure([fake.contestant("fast", SAMPLE_SECONDS / 300)], clock=fake.clock, rounds=2)
    assert timings.calls["fast"] >= 300


def test_garbage_is_not_collected_meanwhile():
    seen = []
    measure([Contestant("a", lambda: seen.append(gc.isenabled()))], rounds=2)
    assert not any(seen)
    assert gc.isenabled()


def test_threads_are_the_contestants_own_and_restored():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        seen = {"one": set(), "default": set()}
        contestants = [
            Contestant("one", lambda: seen["one"].add(torch.get_num_threads()), 1),
            Contestant("default", lambda: seen["default"].add(torch.get_num_threads())),
        ]
        measure(contestants, rounds=2)
        assert seen == {"one": {1}, "default": {3}}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_rounds_fit_the_time_that_is_allowed():
    quick = measure([Contestant("a", lambda: None)], seconds=0.0)
    assert len(quick.seconds["a"]) == MIN_ROUNDS
    assert len(measure([Contestant("a", lambda: None)], seconds=1e6).seconds["a"]) == MAX_ROUNDS


def test_interval_covers_the_median_as_often_as_it_says():
    generator = torch.Generator().manual_seed(0)
    trials = 2000
    for n in (MIN_ROUNDS, 20, MAX_ROUNDS):
        # Skewed, as times are; the median of exp(normal) is 1.
        found = [interval(torch.randn(n, generator=generator).exp().tolist()) for _ in range(trials)]
        covered = sum(i.low <= 1 <= i.high for i in found) / trials
        standard_error = (CONFIDENCE * (1 - CONFIDENCE) / trials) ** 0.5
        assert covered >= CONFIDENCE - 4 * standard_error


def test_interval_is_not_wider_than_it_must_be():
    ordered = [float(k) for k in range(20)]
    # Binomial(20, ½): at most 5 below has probability 2.07 %, at most 6 has 5.77 %.
    assert (interval(ordered).low, interval(ordered).high) == (5.0, 14.0)
    assert (interval([3.0, 1.0]).low, interval([3.0, 1.0]).high) == (1.0, 3.0)


@pytest.mark.exhaustive
def test_other_programs_are_noticed():
    """A process that keeps a core busy takes its share; without it there is room for less."""
    command = "import os, time\nparent = os.getppid()\nwhile os.getppid() == parent: pass"
    idle = [Contestant("sleeps", lambda: time.sleep(0.05))]
    if measure(idle, rounds=1).others is None:
        pytest.skip("this system does not tell")
    neighbour = subprocess.Popen([sys.executable, "-c", command])
    try:
        others = measure(idle, rounds=10).others
    finally:
        neighbour.kill()
        neighbour.wait()
    # It has one of the cores, unless other tests run too: then it has a part of one, and they have the rest.
    assert others > 0.5 / os.cpu_count()


def test_names_must_differ():
    with pytest.raises(ValueError, match="names of their own"):
        measure([Contestant("a", lambda: None)] * 2)


def test_host_clock_counts_all_calls():
    seen = []
    assert host_clock(Contestant("a", lambda: seen.append(0)), 5) > 0
    assert len(seen) == 5


def test_what_calls_leave_to_be_done_counts():
    slow = Contestant("returns at once", lambda: None, wait=lambda: time.sleep(0.05))
    assert host_clock(slow, 2) >= 0.05


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU that torch can use")
def test_cuda_clock_waits_for_the_device():
    x = torch.randn(4096, 4096, device="cuda")
    multiply = Contestant("multiply", lambda: x @ x)
    few, many = cuda_clock(multiply, 2), cuda_clock(multiply, 20)
    assert many > few > 0
