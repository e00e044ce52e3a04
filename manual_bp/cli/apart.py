"""An audit in a process of its own: a checker that dies, hangs or takes all memory ends in a finding.

The other process has the checker and the programs; it tells of each one before it is tried and after, and at the end
sends the report.  Where it ends before that, the report here has what was told, and says at which program it ended.
It is no sandbox: the checker runs as the user, and could tell of verdicts that it never gave.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import IO, Any

from manual_bp.foreign import LONGEST_NAME, readable, shortened, signal_name
from manual_bp.oracle.audit.report import AuditReport, Outcome
from manual_bp.oracle.calling.time_limit import Limit

SERVE = "from manual_bp.cli.apart import serve; serve()"
# Seconds for the imports and for the programs to be made, and beyond the time of one program until it is ended.
STARTING, PATIENCE = 60.0, 5.0
MIB = 2**20
# A line tells of one program, or of all: a hundred thousand programs would not fill this.
LONGEST = 2**26
CHUNK = 2**16


def audit_apart(
    target: str,
    against: str,
    *,
    inputs: str | None = None,
    hyper: Mapping[str, Any] | None = None,
    memory: int = 4096,
    on_progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> AuditReport:
    """What an acceptance test lets pass, told from a process of its own.

    target, against, inputs, hyper: as `manual-bp audit` takes them.  memory: MiB that it may allocate.
    options: dtype (by its name), timeout, seconds, smallest and allow, as for `audit`.
    Raises ValueError as `audit` does, and as the command does for what cannot be found.
    """
    question = {"target": target, "against": against, "inputs": inputs, "hyper": dict(hyper or {}), "memory": memory}
    timeout = float(options.get("timeout", 20.0))
    report = AuditReport(target, against, str(options.get("dtype", "float32")))
    asked = ""
    patience = [STARTING + PATIENCE]
    read, write = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-u", "-c", SERVE, str(write), json.dumps({**question, "options": options})],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(write,),
        start_new_session=True,
    ) as process:
        os.close(write)
        try:
            with os.fdopen(read, "rb", buffering=0) as pipe:
                for came in _told(pipe, lambda: Limit(patience[0], process.pid)):
                    if "usage" in came:
                        raise ValueError(str(came["usage"]))
                    if "report" in came:
                        return _report(came["report"])
                    if "asking" in came:
                        asked, patience[0] = str(came["asking"]), timeout + PATIENCE
                    elif "progress" in came:
                        if on_progress is not None:
                            on_progress(*came["progress"])
                    else:
                        report.outcomes.append(Outcome(**came["outcome"]))
            report.findings.append(_ending(process, asked, memory))
        except TimeoutError:
            report.findings.append(
                f"it hangs and could not be interrupted: {readable(shortened(asked or 'no program', LONGEST_NAME))!r} "
                f"had no verdict within {timeout:g} s; programs after it were not tried"
            )
        except (TypeError, KeyError, json.JSONDecodeError):
            report.findings.append("it disturbed what is told of it; programs after that were not tried")
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # nothing of it is left
                getattr(os, "killpg", os.kill)(process.pid, signal.SIGKILL)
    return report


def _told(pipe: IO[bytes], patience: Callable[[], Limit]) -> Iterator[dict[str, Any]]:
    """What is told, line by line.  Raises TimeoutError where nothing comes for so long."""
    left = b""
    while len(left) < LONGEST:
        limit = patience()
        while not select.select([pipe], [], [], max(limit.left(), 0))[0]:
            if limit.left() <= 0:
                raise TimeoutError
        if not (chunk := pipe.read(CHUNK)):
            return
        *lines, left = (left + chunk).split(b"\n")
        for line in lines:
            yield json.loads(line)


def _ending(process: subprocess.Popen[bytes], asked: str, memory: int) -> str:
    """What is to be said of a process that told no more."""
    try:
        status = process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        return "it closed the pipe to the audit; programs after that were not tried"
    how = f"with status {status}" if status >= 0 else f"by the signal {signal_name(-status)}"
    where = (
        f"when it was given {readable(shortened(asked, LONGEST_NAME))!r}"
        if asked
        else "before it was given any program"
    )
    return f"it ended its process {how} {where} (it had {memory} MiB); programs after it were not tried"


def _report(came: dict[str, Any]) -> AuditReport:
    outcomes = [Outcome(**each) for each in came.pop("outcomes")]
    return AuditReport(**{**came, "outcomes": outcomes, "allow": tuple(came["allow"])})


# ---------------------------------------------------------------------------------------------------- the other process


def serve() -> None:
    """Audit what is asked on the command line, and tell of it."""
    with os.fdopen(int(sys.argv[1]), "w", buffering=1) as pipe:
        question = json.loads(sys.argv[2])

        def tell(**words: Any) -> None:
            pipe.write(json.dumps(words) + "\n")

        with contextlib.suppress(ImportError):  # where a system has no such limits
            import resource

            resource.setrlimit(resource.RLIMIT_DATA, (question["memory"] * MIB,) * 2)
        try:
            tell(report=asdict(_audited(question, tell)))
        except ValueError as error:
            tell(usage=str(error))


def _audited(question: dict[str, Any], tell: Callable[..., None]) -> AuditReport:
    from manual_bp.cli.check import reference_of
    from manual_bp.cli.shared import chosen_dtypes
    from manual_bp.loading import load
    from manual_bp.oracle.audit.auditing import audit

    options = question["options"]
    (dtype,) = chosen_dtypes(options.pop("dtype", "float32"))
    rule = reference_of(question["against"], question["inputs"], question["hyper"])
    target = question["target"]
    checker = load(target) if ":" in target else target
    return audit(
        checker,
        rule,
        dtype=dtype,
        on_progress=lambda *numbers: tell(progress=numbers),
        on_program=lambda name: tell(asking=name),
        on_outcome=lambda outcome: tell(outcome=asdict(outcome)),
        **options,
    )
