"""Starts the process of a candidate, watches what it and all that it starts take, and ends every one of them.

A script of its own (`python -I -S keeper.py ...`), with nothing but the standard library and none of the candidate's
folders on its path.  It ends everything when the first process ends, when too much is taken, and when the pipe from the
judge is closed, as it is when the judge ends, however that came about.

On Linux it adopts what is left behind by processes that end, so that a process in a session of its own is ended too,
and it adds up memory; elsewhere it ends the group of the first process, and each process alone has its memory limited.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
# How often one looks, and how long one tries to end what starts new processes faster than they end, in seconds.
GLANCE = 0.02
ENDING = 5.0
KIB = 1024


def keep(told: int, tell: int, memory: int, processes: int, command: list[str]) -> None:
    """Run a command until it ends or is ended.

    told: a pipe whose other end the judge closes to have everything ended; tell: a pipe for what is to be said, one
    JSON document a line: first {"first": its process}, last {"status": its status as a shell has it, or None} and
    {"why": ...}, if it was ended.  memory: bytes that all processes may hold together, and each for itself.
    processes: how many there may be at once.
    """
    _adopt()
    for descriptor in (told, tell):
        os.set_inheritable(descriptor, False)
    first = os.fork()
    if first == 0:
        os.setpgid(0, 0)
        _limit(memory)
        os.execv(command[0], command)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # the first process's alone: that they are closed says that it has ended
        os.dup2(nowhere, stream)
    _say(tell, {"first": first})
    status, why = None, ""
    while status is None and not why:
        ready, _, _ = select.select([told], [], [], GLANCE)
        if ready:
            break
        status = _status(first)
        why = why or _excess(memory, processes)
    _say(tell, {"status": status, "why": why})
    _end_all(first)


def _adopt() -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def _limit(memory: int) -> None:
    """Of one process what it may allocate, whatever it shares with others or reads from files; and no core dump."""
    for limit, value in ((resource.RLIMIT_DATA, memory), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(ValueError, OSError):  # a lower limit is in force
            resource.setrlimit(limit, (value, value))


def _say(tell: int, words: dict[str, object]) -> None:
    with contextlib.suppress(OSError):
        os.write(tell, json.dumps(words).encode() + b"\n")


def _status(first: int) -> int | None:
    """Its status if it has ended; what was adopted and has ended is let go."""
    found = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == first:
                found = os.waitstatus_to_exitcode(ended[1])
    return found


def _excess(memory: int, processes: int) -> str:
    """What is too much, in words; "" if nothing is."""
    every = list(_descendants(os.getpid()))
    if len(every) > processes:
        return f"ran more than {processes} processes at once"
    # What processes share is counted once, which takes time; so that is done only where it would matter.
    if sum(map(_resident, every)) > memory and sum(map(_proportional, every)) > memory:
        return f"held more than {memory // KIB**2} MiB of memory"
    return ""


def _descendants(process: int) -> Iterator[int]:
    for file in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, file.read_text().split()):
                yield child
                yield from _descendants(child)


def _resident(process: int) -> int:
    """Bytes of memory that a process holds, files apart."""
    return _bytes(f"/proc/{process}/status", ("RssAnon:", "RssShmem:"))


def _proportional(process: int) -> int:
    """The same, with what n processes share counted as 1/n of it."""
    return _bytes(f"/proc/{process}/smaps_rollup", ("Pss_Anon:", "Pss_Shmem:"))


def _bytes(file: str, names: tuple[str, ...]) -> int:
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return sum(int(line.split()[1]) * KIB for line in lines if line.startswith(names))


def _end_all(first: int) -> None:
    """End the group of the first process at once, and then what was adopted, until there is none."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(first, signal.SIGKILL)
    end = time.monotonic() + ENDING
    while time.monotonic() < end:
        for child in _descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(child, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(GLANCE / 10)


if __name__ == "__main__":
    told, tell, memory, processes = map(int, sys.argv[1:5])
    keep(told, tell, memory, processes, sys.argv[5:])
