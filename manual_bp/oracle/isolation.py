"""Candidates from the command line: loaded by name, and run in a process of their own if they are not trusted."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

# Of what a process prints, the last so many bytes are kept: far more than a report has.
KEPT = 2**16
CHUNK = 2**16


def load(target: str) -> Callable[..., Any]:
    """The callable that `package.module:name` means; modules of the current folder are found.

    Raises ValueError if there is no such module or name, or if it is not callable.
    """
    module_name, colon, name = target.partition(":")
    if not (module_name and colon and name):
        raise ValueError(f"a candidate is named MODULE:CALLABLE, as in kernels.elu:vjp; came {target!r}.")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever the module does while it is imported
        came = f"{type(error).__name__}: {error}"
        raise ValueError(f"{target}: the module {module_name!r} cannot be imported: {came}.") from error
    for part in name.split("."):
        if not hasattr(found, part):
            public = ", ".join(n for n in vars(found) if not n.startswith("_")) or "nothing"
            raise ValueError(f"{target}: {module_name!r} must hold {name!r}; it holds {public}.")
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(f"{target}: a function vjp(inputs, dy, **hyper) is due; came a {type(found).__name__}.")
    return found


@dataclass(frozen=True)
class Isolated:
    """What became of a check in a process of its own.

    printed: what it printed.
    document: its JSON document, None if it did not live to write one.
    finding: what ended it, in words; empty if it ended by itself.
    """

    printed: str
    document: str | None
    finding: str


def run_isolated(arguments: Sequence[str], timeout: float) -> Isolated:
    """`manual-bp check` with the arguments, in a process that is stopped after `timeout` seconds, with all that it
    started."""
    with tempfile.TemporaryDirectory() as folder:
        document = Path(folder) / "report.json"
        command = [sys.executable, "-m", "manual_bp.cli", "check", *arguments, "--json", str(document)]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        out, err = _Tail(process.stdout), _Tail(process.stderr)
        try:
            status: int | None = process.wait(timeout)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            _end(process)
        printed, complaints = out.text(), err.text()
        if status is None:
            return Isolated(printed, None, f"the candidate did not return within {timeout:g} s and was stopped")
        if document.exists():
            return Isolated(printed, document.read_text(), "")
        if status == 2:  # bad usage, said on stderr
            raise ValueError(complaints.strip().removeprefix("error: "))
        last = complaints.strip().splitlines()[-1:] or ["nothing on stderr"]
        ended = f"with status {status}" if status >= 0 else f"by the signal {signal.Signals(-status).name}"
        return Isolated(printed, None, f"the candidate ended the process {ended} ({last[0]})")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stop the process and whatever it has started, which would keep its pipes open."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # nothing of it is left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class _Tail:
    """Reads a pipe to its end and keeps the last of it: a candidate may print without end."""

    def __init__(self, pipe: IO[bytes] | None) -> None:
        assert pipe is not None
        self._pipe = pipe
        self._kept = b""
        self._left_out = 0
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while chunk := os.read(self._pipe.fileno(), CHUNK):
            self._kept += chunk
            if len(self._kept) > 2 * KEPT:
                self._left_out += len(self._kept) - KEPT
                self._kept = self._kept[-KEPT:]

    def text(self) -> str:
        self._thread.join()
        self._pipe.close()
        head = f"({self._left_out} bytes that the candidate printed are left out)\n" if self._left_out else ""
        return head + self._kept.decode(errors="replace")
