"""Candidates from the command line: loaded by name, and run in a process of their own if they are not trusted."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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
    except Exception as error:  # whatever the module does while it is imported
        raise ValueError(f"{target}: the module {module_name!r} cannot be imported: {error}.") from error
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
    """`manual-bp check` with the arguments, in a process that is stopped after `timeout` seconds."""
    with tempfile.TemporaryDirectory() as folder:
        document = Path(folder) / "report.json"
        command = [sys.executable, "-m", "manual_bp.cli", "check", *arguments, "--json", str(document)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired as expired:
            printed = expired.stdout.decode() if isinstance(expired.stdout, bytes) else expired.stdout or ""
            return Isolated(printed, None, f"the candidate did not return within {timeout:g} s and was stopped")
        if document.exists():
            return Isolated(done.stdout, document.read_text(), "")
        if done.returncode == 2:  # bad usage, said on stderr
            raise ValueError(done.stderr.strip().removeprefix("error: "))
        last = done.stderr.strip().splitlines()[-1:] or ["nothing on stderr"]
        return Isolated(done.stdout, None, f"the candidate ended the process with status {done.returncode} ({last[0]})")
