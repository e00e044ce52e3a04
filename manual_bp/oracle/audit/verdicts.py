"""Asking a checker: what it says of one program, and in what way it says it."""

from __future__ import annotations

import contextlib
import io
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from manual_bp.foreign import named, readable
from manual_bp.oracle.audit.handed import Handed, TookTooLong
from manual_bp.oracle.calling.time_limit import Limit, own_limit
from manual_bp.oracle.words import cut

Checker = Callable[[Any], Any]
"""Somebody's acceptance test: it is given a program and returns True, False or None, or raises."""

How = Literal["accepted", "rejected", "raised", "late", "unclear"]

# Of what a checker says so many characters are kept.
LONGEST = 300
# An interrupt that a checker swallowed comes again after so many seconds.
AGAIN = 1.0


@dataclass(frozen=True)
class Verdict:
    """What a checker said.

    how: "accepted" (it returned True, None or a report that passed), "rejected" (False, or an assertion failed),
        "raised" (another exception: a rejection too), "late" (it did not return in time), "unclear" (it returned
        something else, or skipped).
    words: why, in its own words.
    """

    how: How
    words: str = ""

    @property
    def accepts(self) -> bool | None:
        """None where there is no verdict."""
        return {"accepted": True, "rejected": False, "raised": False}.get(self.how)


def ask(checker: Checker, program: Handed, timeout: float) -> Verdict:
    """The verdict of a checker on a program, for which it has `timeout` seconds (calling/time_limit.py).  What it
    prints is not shown.

    A checker that does not return is interrupted: by a signal where this is the main thread of a Unix process, and else
    when it next calls the program.  Code outside Python that never comes back cannot be.
    """
    program.limit = limit = own_limit(timeout)
    silent = io.StringIO()
    try:
        with (
            contextlib.redirect_stdout(silent),
            contextlib.redirect_stderr(silent),
            warnings.catch_warnings(),
            _interrupted_after(limit),
        ):
            warnings.simplefilter("ignore")
            said = checker(program)
    except TookTooLong:
        return Verdict("late", f"no verdict within {timeout:g} s")
    except KeyboardInterrupt:  # it is the user's
        raise
    except BaseException as error:  # SystemExit, and what pytest.fail raises
        return _of_exception(error)
    return _of_value(said)


def _of_exception(error: BaseException) -> Verdict:
    words = cut(readable(f"{named(error)}: {error}"), LONGEST)
    if named(error) == "Skipped":  # pytest.skip
        return Verdict("unclear", f"it was skipped: {words}")
    is_assertion = isinstance(error, AssertionError) or named(error) == "Failed"  # pytest.fail
    return Verdict("rejected" if is_assertion else "raised", words)


def _of_value(said: Any) -> Verdict:
    if isinstance(said, Tensor | np.ndarray) and said.ndim == 0:
        said = said.item()
    if said is None or (isinstance(said, bool | np.bool_) and said):
        return Verdict("accepted")
    if isinstance(said, bool | np.bool_):
        return Verdict("rejected", "False")
    if isinstance(passed := getattr(said, "passed", None), bool):  # a report
        return Verdict("accepted") if passed else Verdict("rejected", cut(readable(str(said)), LONGEST))
    what = f"it returned a {named(said)}, {cut(readable(_shown(said)), 60)}"
    if isinstance(said, int | float | Tensor | np.number):
        return Verdict("unclear", f"{what}, which is no verdict: return whether it is below a limit")
    return Verdict("unclear", f"{what}, which is no verdict: return True, False or None, or raise")


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except Exception:
        return "which cannot be shown"


@contextlib.contextmanager
def _interrupted_after(limit: Limit) -> Iterator[None]:
    """Raises TookTooLong inside, when the limit is over, where a signal can."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(*_: object) -> None:
        if (left := limit.left()) > 0:  # the machine was busy
            signal.setitimer(signal.ITIMER_REAL, left, AGAIN)
        else:
            raise TookTooLong

    begin = time.monotonic()
    handler = signal.signal(signal.SIGALRM, late)
    left, interval = signal.setitimer(signal.ITIMER_REAL, limit.seconds, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:  # somebody else's alarm, such as a time limit of the whole test; 0 would switch it off
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - begin), 1e-3), interval)
