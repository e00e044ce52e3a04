"""What a process waits for a busy machine does not count against its limit, as far as the system tells."""

import os
import subprocess
import sys
import time

import pytest

import manual_bp as bp
from manual_bp.oracle.audit.handed import Handed
from manual_bp.oracle.audit.programs import steady
from manual_bp.oracle.audit.verdicts import ask
from manual_bp.oracle.calling import isolation, time_limit
from manual_bp.oracle.calling.isolation import CandidateEnded, Talk
from manual_bp.oracle.calling.time_limit import MOST, Limit, waited, worked

PYTHON = (sys.executable, "-S", "-c")


@pytest.fixture
def waiting(monkeypatch):
    """Every process is said to have waited for nine tenths of the time."""
    for module in (time_limit, isolation):
        monkeypatch.setattr(module, "waited", lambda process: 0.9 * time.monotonic())


def asked_of_a_sleeping_checker(seconds, timeout):
    program = steady("right", "itself", lambda case, right: right)
    return ask(lambda handed: time.sleep(seconds), Handed(bp.RULES["relu"], program), timeout).how


def test_a_checker_that_waits_for_the_machine_is_not_late(waiting) -> None:
    assert asked_of_a_sleeping_checker(0.3, timeout=0.2) == "accepted"


def test_one_that_takes_too_long_is_late_whatever_it_waits(waiting) -> None:
    begin = time.monotonic()
    assert asked_of_a_sleeping_checker(60, timeout=0.1) == "late"
    assert MOST * 0.1 <= time.monotonic() - begin < 30


def test_one_that_sleeps_is_late() -> None:
    assert asked_of_a_sleeping_checker(60, timeout=0.1) == "late"


def until_ended(timeout):
    """Seconds after which a candidate that never answers is ended."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [*PYTHON, "import time; time.sleep(60)"]
    with subprocess.Popen(command, start_new_session=True, **pipes) as process:
        talk, begin = Talk(process, timeout), time.monotonic()
        with pytest.raises(CandidateEnded, match=f"did not return within {timeout} s"):
            talk.ask({"how": "load"})
        return time.monotonic() - begin


def test_a_candidate_that_waits_for_the_machine_has_its_time(waiting) -> None:
    assert MOST * 0.2 <= until_ended(0.2) < 30


@pytest.mark.skipif(sys.platform != "linux", reason="no other system tells how long a process waited")
def test_the_system_tells() -> None:
    """Two that never rest share one processor, and another one rests."""
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(processors)})
    commands = ("while True: pass", "while True: pass", "import time; time.sleep(60)")
    processes = [subprocess.Popen([*PYTHON, command]) for command in commands]
    os.sched_setaffinity(0, processors)
    end = time.monotonic() + 30
    while min(waited(process.pid) for process in processes[:2]) < 0.1 and time.monotonic() < end:
        time.sleep(0.05)
    spun, rested = waited(processes[0].pid), waited(processes[2].pid)
    for process in processes:
        process.kill()
        process.wait()
    assert spun > 0.1
    assert rested < spun
    assert waited(processes[0].pid) == 0.0  # it has ended


def test_waiting_is_left_out_up_to_a_limit() -> None:
    assert worked(10.0, 0.0) == 10.0
    assert worked(10.0, 4.0) == 6.0
    assert worked(10.0, 10.0) == 10.0 / MOST


def test_a_limit_that_is_over_is_below_0() -> None:
    assert 59 < Limit(60.0, os.getpid()).left() < 60
    assert Limit(0.0, os.getpid()).left() < 0
