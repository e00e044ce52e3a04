"""What a comparison found, as data, as JSON, as text and as a notebook shows it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from manual_bp.foreign import readable, shortened
from manual_bp.oracle.reports.mismatch import Mismatch, Worst
from manual_bp.oracle.reports.notebook import ROWS, Table, fragment
from manual_bp.oracle.reports.tables import HEADS, Verdict, arguments_of, row_of, verdict_of
from manual_bp.oracle.words import counted, cut, grouped, listed, without_frames

# 2: `diagnoses` holds causes alone, `patterns` what wrong values share where no cause was found, and cases are counted
# as failed, raised, malformed and left out beside those judged.
SCHEMA = 2


# More is not read at first; the verbose text and the JSON document hold all.
SHOWN = 3
# So many names of cases, and notes.
NAMED, NOTES_SHOWN = 3, 5
# What is longer than so many characters is cut: a note, and what one has to know.
SHORT, LONG = 200, 500
NOT_SOUGHT = "no cause was sought"
ALL = "all of it: report.text(verbose=True), or --verbose"


@dataclass
class Report:
    """The result of `compare`.

    passed: nothing is wrong and every argument was tested.
    cases, failed: how many cases were judged, and how many of them are wrong.
    raised, malformed, left_out: how many more were not judged, since the candidate raised, or returned no (y, grads),
        or since there is nothing to judge by, or no way to call it so.
    mismatches: what is wrong.
    findings: traps that fired, with their words.
    not_tested: what could not be judged, and why.
    diagnoses: why it is wrong; plain sentences, best first.
    patterns: where no cause was found, what the wrong values of an argument have in common.
    search: what is to be said of the search for the cause, if it was cut short.
    notes: right, but worth knowing; mismatches under strict.
    worst: per argument, the largest error, and its distribution over the cases.
    untested_arguments, untested_hyper: why it does not pass although nothing is wrong: arguments that no case tells
        from one that nobody computed, and hyperparameters that the candidate does not take (see
        `manual_bp.oracle.cases.declared`).
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
    failed: int = 0
    raised: int = 0
    malformed: int = 0
    left_out: int = 0
    untested_hyper: list[str] = field(default_factory=list)
    patterns: list[str] = field(default_factory=list)
    search: str = ""

    @property
    def passed(self) -> bool:
        return self.cases > 0 and not (self.mismatches or self.untested_arguments or self.untested_hyper)

    @property
    def loose(self) -> list[str]:
        """Arguments whose allowance is loose by more than 100x, in words."""
        return [
            f"{argument}: its largest error is {worst.error_over_allowance:.2g} of the allowance"
            for argument, worst in self.worst.items()
            if worst.loose
        ]

    # ------------------------------------------------------------------------------------------------------ in words

    def text(self, verbose: bool = False) -> str:
        """Headline, causes, a few mismatches, and the rest in short; verbose: all of it."""
        return _joined([self.headline, *self._causes(), *self._mismatches(verbose), *self._rest(verbose)])

    def __str__(self) -> str:
        return self.text()

    def opening(self, verbose: bool = False) -> str:
        """What is known before a cause is sought: headline and mismatches.  `closing` is the rest of `text`."""
        return _joined([self.headline, *self._mismatches(verbose)])

    def closing(self, verbose: bool = False) -> str:
        """Causes, findings, what was not tested, notes; "" if there is nothing to say."""
        return _joined([*self._causes(), *self._rest(verbose)])

    @property
    def headline(self) -> str:
        """The verdict, in one line."""
        return f"{self.rule} ({self.dtype}, {self.device}): {self.verdict}"

    @property
    def verdict(self) -> str:
        """Whether it passed, with the counts of cases."""
        judged = counted(self.cases, "case")
        unjudged = [("raised", self.raised), ("returned no (y, grads)", self.malformed)]
        more = [(words, number) for words, number in unjudged if number]
        if self.passed:
            said = [f"agrees in {judged}"]
        elif not self.mismatches:
            untested = listed([*self.untested_arguments, *self.untested_hyper]) or "anything"
            found = f"nothing is wrong in {judged}" if self.cases else "no case could be judged"
            said = [f"NOT TESTED: {found}, and it is not known whether {untested} is right"]
        elif self.failed:
            said = [f"FAILS in {self.failed} of {judged}", *(f"{words} in {number} more" for words, number in more)]
        else:
            came = listed([f"{words} in {counted(number, 'case')}" for words, number in more])
            said = [f"FAILS: {came}" if came else "FAILS", f"agrees in {judged}" if self.cases else "none was judged"]
        if self.left_out:
            said.append(f"{counted(self.left_out, 'case')} left out")
        return "; ".join(said)

    def _causes(self) -> list[str]:
        lines = [f"  diagnosis: {text}" for text in self.diagnoses]
        label = NOT_SOUGHT if self.search == NOT_SOUGHT else "no cause was found"
        lines += [f"  {label}: {text}" for text in grouped(self.patterns, NAMED)]
        return lines + ([f"  {self.search}"] if self.search not in ("", NOT_SOUGHT) else [])

    def _mismatches(self, verbose: bool) -> list[str]:
        shown = list(map(str, self.mismatches if verbose else self._telling(SHOWN)))
        left = len(self.mismatches) - len(shown)
        return [f"  {m if verbose else cut(m, LONG)}" for m in shown] + ([f"  ... and {left} more"] if left else [])

    def _rest(self, verbose: bool) -> list[str]:
        remarks = findings, not_tested, notes = self.findings, self.not_tested, self.notes
        if not verbose:
            findings = [cut(without_frames(text), LONG) for text in findings]
            not_tested = [cut(text, LONG) for text in grouped(not_tested, NAMED)]
            left = len(notes) - NOTES_SHOWN
            notes = [cut(text, SHORT) for text in notes[:NOTES_SHOWN]] + ([f"... and {left} more"] if left > 0 else [])
        lines = [f"  finding: {text}" for text in findings]
        lines += [f"  not tested: {text}" for text in not_tested]
        lines += [f"  note: {text}" for text in notes]
        lines += [f"  loose allowance: {text}" for text in self.loose]
        is_short = not verbose and (len(self.mismatches) > SHOWN or remarks != (findings, not_tested, notes))
        return lines + ([f"  ({ALL})"] if is_short else [])

    def _telling(self, number: int) -> list[Mismatch]:
        """At most so many mismatches, in order: of each argument one, then of other patterns, then other values."""
        ranks = []
        arguments, patterns = set(), set()
        for m in self.mismatches:
            key = m.kind, m.argument
            is_same = (*key, m.where) in patterns
            ranks.append(0 if key not in arguments else 1 if not is_same else 2 if m.index is not None else None)
            arguments.add(key)
            patterns.add((*key, m.where))
        order = sorted((rank, i) for i, rank in enumerate(ranks) if rank is not None)  # what is no value is said once
        return [self.mismatches[i] for i in sorted(i for _, i in order[:number])]

    def to_json(self) -> str:
        """One JSON document; NaN and infinities are written as strings."""
        document = {"schema": SCHEMA, "passed": self.passed, **asdict(self), "loose": self.loose}
        return json.dumps(plain(document), allow_nan=False)

    # ------------------------------------------------------------------------------------------------------ in tables

    @property
    def told(self) -> Verdict:
        """The verdict in a word and a sentence."""
        untested = [*self.untested_arguments, *self.untested_hyper]
        return verdict_of(self.passed, self.cases, self.mismatches, untested, self.verdict)

    @property
    def arguments(self) -> list[tuple[str, int, str, str, str, str]]:
        """Per argument: name, cases judged, largest errors, and the verdict as symbol and word."""
        return arguments_of(self.worst, self.mismatches, self.untested_arguments)

    def _repr_html_(self) -> str:
        verdict = self.told
        arguments = [
            (name, f"{symbol} {word}", str(n), ulps, ratio) for name, n, ulps, ratio, symbol, word in self.arguments
        ]
        mismatches = [tuple(row_of(m).values()) for m in self.mismatches[:ROWS]]
        return fragment(
            str(self),
            symbol=verdict.symbol,
            tone=verdict.tone,
            headline=f"{self.rule}, {self.dtype} on {self.device}. {verdict.sentence}",
            causes=self.diagnoses[:1] or self.patterns[:1],
            tables=[
                Table(
                    "Every argument",
                    ("argument", "verdict", "cases judged", "largest error, ulp", "over allowance"),
                    arguments,
                    numbers=(2, 3, 4),
                    is_open=True,
                ),
                Table(f"Mismatches ({len(self.mismatches)})", HEADS, mismatches, numbers=(3, 4, 5, 6, 7)),
            ],
            lists={
                "More diagnoses": self.diagnoses[1:],
                "Findings": self.findings,
                "Not tested": self.not_tested,
                "Notes": self.notes,
                "Loose allowances": self.loose,
            },
        )

    def clean(self) -> None:
        """Shorten the words that came from the candidate, and spell out what a terminal would obey."""
        for name in ("findings", "not_tested", "diagnoses", "notes"):
            setattr(self, name, [readable(shortened(text)) for text in getattr(self, name)])
        self.mismatches = [replace(m, detail=readable(shortened(m.detail))) for m in self.mismatches]


def _joined(lines: list[str]) -> str:
    """Lines of a report; no text of several lines looks like more of them."""
    return "\n".join(line.replace("\n", "\n    | ") for line in lines)


def plain(value: Any) -> Any:
    """`value` with what JSON cannot write replaced by strings."""
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float) and not (abs(value) < float("inf")):
        return str(value)
    return value
