"""Processes of somebody's code: started, watched for what they take, and ended, every one of them.

`kept` starts them and is what the judge uses.  What does the work is this file as a script (`python -I -S keeper.py`),
a process of its own with nothing but the standard library and none of the candidate's folders on its path.  It ends
everything when the first process ends, when too much is taken, and when the pipe from the judge is closed, as it is
when the judge ends, however that came about.

On Linux it adopts what is left behind by processes that end, so that a process in a session of its own is ended too,
and it adds up memory; elsewhere it ends the group of the first process, and each process alone has its memory limited.

No module of manual_bp is imported here, so that a process can begin to start before anything else does.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

PR_GET_DUMPABLE, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 3, 4, 36
# How often one looks, and how long one tries to end what starts new processes faster than they end, in seconds.
GLANCE = 0.02
ENDING = 5.0
KIB = 1024
# An interpreter with torch has 220 MiB; below this nothing could be called.
LEAST_MEMORY = 512
SERVE = "from manual_bp.oracle.grading.called import serve; serve({})"


class Limits(NamedTuple):
    """timeout: seconds that the import of a candidate and all of its calls may take together, but for what it waits for
    a busy machine (oracle/calling/time_limit.py).  memory: MiB that all of its processes may hold together, and each
    of them allocate.  processes: how many there may be at once."""

    timeout: float = 60.0
    memory: int = 4096
    processes: int = 128

    def check(self) -> None:
        """Raises ValueError for what nothing could be called in."""
        for name, value in self._asdict().items():
            if not isinstance(value, int | float):
                raise ValueError(f"{name} must be a number; came {value!r:.60}.")
        if not self.timeout > 0:
            raise ValueError(f"timeout must be seconds, more than 0; came {self.timeout}.")
        if self.memory < LEAST_MEMORY:
            raise ValueError(f"memory must be MiB, {LEAST_MEMORY} or more, as torch takes 220; came {self.memory}.")
        if self.processes < 1:
            raise ValueError(f"processes must be 1 or more; came {self.processes}.")


class Started(NamedTuple):
    """process: the keeper's, which stands before that of the candidate: its pipes are that one's.  to_keeper: closed to
    have everything ended; from_keeper: what the keeper says.  lent: a file that both sides reach."""

    limits: Limits
    process: subprocess.Popen[bytes]
    to_keeper: IO[bytes]
    from_keeper: IO[bytes]
    lent: IO[bytes]


@contextmanager
def kept(limits: Limits) -> Iterator[Started]:
    """A process that serves a candidate (manual_bp.oracle.grading.called) under a keeper, ended with all that it has
    started when the block ends, or this process does.  Raises ValueError for limits in which nothing could be called,
    and on a system that cannot fork."""
    limits.check()
    if not hasattr(os, "fork"):
        raise ValueError("a candidate under a keeper needs a system that can fork, such as Linux or macOS.")
    before = _prctl(PR_GET_DUMPABLE)
    told, to_keeper = os.pipe()
    from_keeper, tell = os.pipe()
    with (
        tempfile.TemporaryFile() as lent,
        os.fdopen(to_keeper, "wb", buffering=0) as closed_at_end,
        os.fdopen(from_keeper, "rb", buffering=0) as heard,
    ):
        process = subprocess.Popen(
            [
                *(sys.executable, "-I", "-S", str(Path(__file__).resolve())),
                *map(str, (told, tell, limits.memory * KIB**2, limits.processes)),
                *(sys.executable, "-u", "-c", SERVE.format(lent.fileno())),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(told, tell, lent.fileno()),
            start_new_session=True,  # an interrupt at the terminal is for the judge, which ends the others
        )
        for descriptor in (told, tell):
            os.close(descriptor)
        # Linux: other processes of this user can neither read nor write the memory of such a process.
        _prctl(PR_SET_DUMPABLE, 0)
        try:
            yield Started(limits, process, closed_at_end, heard, lent)
        finally:
            end(process, closed_at_end)
            _prctl(PR_SET_DUMPABLE, before)


def end(process: subprocess.Popen[bytes], to_keeper: IO[bytes]) -> None:
    """Have a keeper end everything, and wait for it."""
    to_keeper.close()
    try:
        process.wait(2 * ENDING)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# --------------------------------------------------------------------------------------------------- the keeper's side


def keep(told: int, tell: int, memory: int, processes: int, command: list[str]) -> None:
    """Run a command until it ends or is ended.

    told: a pipe whose other end the judge closes to have everything ended; tell: a pipe for what is to be said, one
    JSON document a line: first {"first": its process}, last {"status": its status as a shell has it, or None} and
    {"why": ...}, if it was ended.  memory: bytes that all processes may hold together, and each for itself.
    processes: how many there may be at once.
    """
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    _prctl(PR_SET_DUMPABLE, 0)
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


def _prctl(option: int, value: int = 0) -> int:
    """What the system says of this process; 0 where there is no such call."""
    return int(ctypes.CDLL(None).prctl(option, value, 0, 0, 0)) if sys.platform == "linux" else 0


def _limit(memory: int) -> None:
    """Of one process what it may allocate, whatever it shares with others or reads from files; and no core dump."""
    import resource  # which only some systems have

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
