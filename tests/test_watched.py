"""A command that ends without a verdict does not end with status 0."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from manual_bp.cli import main
from manual_bp.cli.watched import PASSED_ON, watched

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the command is watched where a process can fork")
TEST = os.getpid()


def ends_with(code):
    """A command, in the watched process."""

    def run():
        raise SystemExit(code)

    return run


def prints_and_exits():
    print("all holds", flush=True)
    os._exit(0)


def leaves_a_copy():
    """The copy lives on for a while, and holds the pipe."""
    if os.fork() == 0:
        time.sleep(5)
    os._exit(0)


@pytest.fixture(autouse=True)
def _one_process():
    handlers = {name: signal.getsignal(getattr(signal, name)) for name in PASSED_ON}
    yield
    for name, handler in handlers.items():
        signal.signal(getattr(signal, name), handler)


def status(run):
    found = watched(run)
    if os.getpid() != TEST:  # the watched process, which in life ends with this status
        os._exit(found)
    return found


@pytest.mark.parametrize(("code", "due"), [(0, 0), (None, 0), (1, 1), (2, 2), ("words", 1)])
def test_a_verdict_is_handed_on(code, due):
    assert status(ends_with(code)) == due


def test_an_exception_of_the_command_is_not_the_candidates(capfd):
    assert status(lambda: 1 / 0) == 1
    said = capfd.readouterr()
    assert "ZeroDivisionError" in said.err
    assert not said.out


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (prints_and_exits, "with status 0"),
        (lambda: os.execvp("true", ["true"]), "with status 0"),
        (lambda: os._exit(7), "with status 7"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "by the signal SIGKILL"),
        (leaves_a_copy, "with status 0"),
    ],
    ids=["_exit(0)", "exec", "_exit(7)", "kill", "a copy is left"],
)
def test_an_end_without_a_verdict_is_said_and_is_no_success(run, words, capfd):
    assert status(run) == 1
    assert f"the process ended {words} before there was a verdict" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "forks"), [(["check"], True), (["check", "--isolate"], False), (["rules"], False)]
)
def test_what_calls_a_strangers_code_here_is_watched(monkeypatch, arguments, forks):
    monkeypatch.setattr(sys, "argv", ["manual-bp", *arguments])
    with pytest.raises(SystemExit) as ended:
        main(lambda: 0 if os.getpid() == TEST else os._exit(0))
    assert ended.value.code == (1 if forks else 0)
