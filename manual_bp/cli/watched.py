"""A command that calls a stranger's code in its own process, watched by another one.

That code may end the process with status 0 (os._exit, an exec, a crash in C that exits), and nothing inside the process
could then say that there was no verdict.  So the command runs in a fork, tells its verdict through a pipe, and the
process that the user started says so where none came.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from manual_bp.interruption import INTERRUPTED

PASSED_ON = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")
# A terminal sends its interrupt to both processes; after so many seconds it was sent to this one alone.
PATIENCE = 0.5
PR_SET_PDEATHSIG = 1


def watched(run: Callable[[], Any]) -> int:
    """The exit status of `run`, or 1, with words, if its process ended before it came to one."""
    if not hasattr(os, "fork"):  # Windows: the command is not watched there
        return _status(run)
    sys.stdout.flush()
    sys.stderr.flush()
    told, tell = os.pipe()  # which what is started or put in the place of the process does not inherit
    child = os.fork()
    if child == 0:
        os.close(told)
        _end_with_the_parent()
        own = os.getpid()
        status = _status(run)
        if os.getpid() == own:  # and not a process that the candidate forked
            os.write(tell, b"%d." % status)
        return status
    os.close(tell)
    came: list[int] = []

    def pass_on(number: int, _: object) -> None:
        came.append(number)
        if number == signal.SIGINT:
            time.sleep(PATIENCE)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    for name in PASSED_ON:
        signal.signal(getattr(signal, name), pass_on)
    _, ended = os.waitpid(child, 0)
    os.set_blocking(told, False)  # a process that the candidate left behind may hold the other end
    with contextlib.suppress(BlockingIOError):
        verdict = os.read(told, 10)
        if verdict.endswith(b"."):
            return int(verdict[:-1])
    return INTERRUPTED if signal.SIGINT in came else _no_verdict(os.waitstatus_to_exitcode(ended))


def _status(run: Callable[[], Any]) -> int:
    """The status with which `run` would exit."""
    try:
        code = run()
    except SystemExit as exit_:
        code = exit_.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    if code is None or isinstance(code, int):
        return code or 0
    print(code, file=sys.stderr)
    return 1


def _no_verdict(status: int) -> int:
    from manual_bp.foreign import signal_name

    ended = f"with status {status}" if status >= 0 else f"by the signal {signal_name(-status)}"
    more = "; with --isolate more can be said" if sys.argv[1:2] == ["check"] else ""
    is_document = "-" in sys.argv or "--json=-" in sys.argv  # then the output is for it alone
    where = sys.stderr if is_document else sys.stdout
    print(f"finding: the process ended {ended} before there was a verdict{more}", file=where)
    return 1


def _end_with_the_parent() -> None:
    """Linux: the process ends when its parent does, however that ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
