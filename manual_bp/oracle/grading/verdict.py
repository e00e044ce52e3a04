"""The verdict on a program that nobody trusts: one document."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from manual_bp.oracle.reports.mismatch import Mismatch
from manual_bp.oracle.reports.report import plain

SCHEMA = 1
# Of more mismatches the first are told; `mismatch_count` says how many there are.
TOLD = 20


@dataclass(frozen=True)
class FirstFailing:
    """Where it failed first.  family: the family of inputs in words; case: its name, as a report has it; argument: what
    is wrong there ("dx", "y"), "" if nothing came."""

    family: str
    case: str
    argument: str = ""


@dataclass
class Verdict:
    """The result of `grade`.

    passed: nothing is wrong, and everything was tested.
    first_failing: None if it passed, or nothing could be called.
    diagnosis: what is wrong, in one sentence; "" if nothing is.  diagnoses: all that was found, best first.
    mismatches: the first of them (`manual_bp.oracle.Mismatch`).  not_tested: why it did not pass, if nothing is wrong.
    notes: right, but worth knowing; what its own process says it uses, which it may hide.
    cases: how many were judged.
    seconds: of everything, and of the candidate alone, in its process.
    seed: all inputs were drawn from it, so that the same seed gives the same verdict.
    limits: seconds, MiB and processes that it might take.
    printed: the end of what the candidate printed.
    """

    passed: bool
    candidate: str
    against: str
    dtype: str
    device: str
    seed: int
    first_failing: FirstFailing | None = None
    diagnosis: str = ""
    diagnoses: list[str] = field(default_factory=list)
    mismatches: list[Mismatch] = field(default_factory=list)
    mismatch_count: int = 0
    findings: list[str] = field(default_factory=list)
    not_tested: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    cases: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)
    printed: str = ""

    def document(self) -> dict[str, Any]:
        """As JSON can write it: NaN and infinities are words."""
        found: dict[str, Any] = plain({"schema": SCHEMA, **asdict(self)})
        return found

    def to_json(self) -> str:
        """One JSON document."""
        return json.dumps(self.document(), indent=1, allow_nan=False)

    def __str__(self) -> str:
        head = f"{self.against} ({self.dtype}, {self.device}), seed {self.seed}"
        if self.passed:
            return f"{head}: {self.candidate} passes in {self.cases} cases"
        where = f" at {self.first_failing.family}" if self.first_failing else ""
        return f"{head}: {self.candidate} FAILS{where}: {self.diagnosis}"
