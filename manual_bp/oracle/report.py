"""What a comparison found, as data, as JSON and as text."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

SCHEMA = 1


@dataclass(frozen=True)
class Mismatch:
    """One place where the candidate is not what it should be.

    kind: "wrong" (a value beyond its allowance), "convention" (a valid subgradient at a kink or tie, and not the
        declared one), "trap" (shape, dtype, device, None, an exception, an overwritten argument); under strict also
        "digits" (lost digits) and "16-bit" (right for arithmetic in 16 bits).
    argument: "y" or the name of a cotangent, such as "dweight".
    index: of the worst element, or None where the mismatch is not about an element.
    ulps: error in units of the last place of the expected value.
    pattern: where the wrong elements of this argument lie, in words (see `manual_bp.oracle.pattern`).
    """

    kind: str
    argument: str
    case: str
    detail: str = ""
    index: tuple[int, ...] | None = None
    expected: float | None = None
    got: float | None = None
    ulps: float | None = None
    error_over_allowance: float | None = None
    pattern: str = ""

    @property
    def where(self) -> str:
        """The kind of the pattern alone, such as "a column": without indices."""
        return self.pattern.partition(":")[0].rstrip("0123456789 ()of")

    def __str__(self) -> str:
        where = f"{self.argument}{list(self.index) if self.index else ''} in case {self.case!r}"
        if self.expected is None:
            return f"{self.kind}: {where}: {self.detail}"
        return (
            f"{self.kind}: {where}: expected {self.expected:.9g}, got {self.got:.9g}; {self.ulps:.3g} ulp, "
            f"{self.error_over_allowance:.3g} times the allowance"
            f"{'; ' + self.pattern if self.pattern else ''}{'; ' + self.detail if self.detail else ''}"
        )


# A longer list is not read; the JSON document holds all.
SHOWN = 10
# An allowance whose largest error in so many cases is below 1/100 of it says little about what it lets pass.
LOOSE = 0.01
CASES_TO_JUDGE_LOOSENESS = 10


@dataclass
class Worst:
    """The largest error of one argument over all cases, and in each of them."""

    ulps: float = 0.0
    error_over_allowance: float = 0.0
    by_case: list[float] = field(default_factory=list)

    def note(self, ratio: float, ulps: float) -> None:
        """Take in the largest error over allowance, and the largest error in ulp, of one more case."""
        self.ulps = max(self.ulps, ulps)
        self.error_over_allowance = max(self.error_over_allowance, ratio)
        self.by_case.append(ratio)

    @property
    def loose(self) -> bool:
        """Whether the allowance is more than a hundred times every error seen.  Exact results say nothing about it."""
        return len(self.by_case) >= CASES_TO_JUDGE_LOOSENESS and 0 < self.error_over_allowance < LOOSE


@dataclass
class Report:
    """The result of `compare`.

    passed: nothing is wrong and every argument was tested.
    mismatches: what is wrong.
    findings: traps that fired, with their words.
    not_tested: what could not be judged, and why.
    diagnoses: plain sentences, best first.
    notes: right, but worth knowing; mismatches under strict.
    worst: per argument, the largest error, and its distribution over the cases.
    """

    rule: str
    dtype: str
    device: str
    cases: int = 0
    mismatches: list[Mismatch] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    not_tested: list[str] = field(default_factory=list)
    diagnoses: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    worst: dict[str, Worst] = field(default_factory=dict)
    untested_arguments: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return self.cases > 0 and not self.mismatches and not self.untested_arguments

    @property
    def loose(self) -> list[str]:
        """Arguments whose allowance is loose by more than 100x, in words."""
        return [
            f"{argument}: its largest error is {worst.error_over_allowance:.2g} of the allowance"
            for argument, worst in self.worst.items()
            if worst.loose
        ]

    def _telling(self, number: int) -> list[Mismatch]:
        """So many mismatches, in order: each pattern of each argument once, and then the first."""
        kinds: dict[tuple[str, str, str], int] = {}
        for position, m in enumerate(self.mismatches):
            kinds.setdefault((m.kind, m.argument, m.where), position)
        chosen = list(kinds.values())[:number]
        others = [i for i in range(len(self.mismatches)) if i not in set(chosen)]
        return [self.mismatches[i] for i in sorted(chosen + others[: number - len(chosen)])]

    def to_json(self) -> str:
        """One JSON document; NaN and infinities are written as strings."""
        document = {"schema": SCHEMA, "passed": self.passed, **asdict(self), "loose": self.loose}
        return json.dumps(plain(document), allow_nan=False)

    def __str__(self) -> str:
        verdict = "agrees" if self.passed else "FAILS"
        lines = [f"{self.rule} ({self.dtype}, {self.device}): {verdict} in {self.cases} cases"]
        shown = self._telling(SHOWN)
        lines += [f"  {m}" for m in shown]
        if len(self.mismatches) > len(shown):
            lines.append(f"  ... and {len(self.mismatches) - len(shown)} more")
        lines += [f"  finding: {text}" for text in self.findings]
        lines += [f"  diagnosis: {text}" for text in self.diagnoses]
        lines += [f"  not tested: {text}" for text in self.not_tested]
        lines += [f"  note: {text}" for text in self.notes]
        lines += [f"  loose allowance: {text}" for text in self.loose]
        return "\n".join(lines)


def plain(value: Any) -> Any:
    """`value` with what JSON cannot write replaced by strings."""
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float) and not (abs(value) < float("inf")):
        return str(value)
    return value
