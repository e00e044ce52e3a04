"""What an audit found, as data, as JSON, as text, as a picture and as a notebook shows it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from manual_bp.foreign import readable
from manual_bp.oracle.audit.picture import COLOURS, save
from manual_bp.oracle.audit.sizes import KINDS, SIZES
from manual_bp.oracle.reports.notebook import Table, fragment
from manual_bp.oracle.reports.report import plain
from manual_bp.oracle.words import counted, cut, some

SCHEMA = 1
# Of a kind so many programs that pass are named in the table, and a line is cut at so many characters.
NAMED, LINE = 2, 118
PASSED, REJECTED, UNSEEN, UNTRIED = "X", ".", "~", " "
HEADS = ("wrong programs", "rejected", "such as these pass")
# In a notebook; what explains most of what passes comes first.
CAUSES = 5
LEGEND = "X passes; ~ passes, but all that it was shown was right; . rejected; empty: no error beside rounding"


@dataclass
class Outcome:
    """What a checker said of one program.

    kind, name, argument, size: of the program (see `programs.Program`).
    how, words: the verdict (see `verdicts.Verdict`).
    calls: how often the checker called the program.
    shown: the largest error that it was shown, as a fraction of the largest number due; 0 if all that it was shown was
        right.
    shows: the name of a case at which the program is wrong.
    why: why it passes although it is wrong, where that can be shown.
    """

    kind: str
    name: str
    argument: str
    size: float | None
    is_right: bool
    how: str
    words: str = ""
    calls: int = 0
    shown: float = 0.0
    shows: str = ""
    why: str = ""

    @property
    def accepted(self) -> bool:
        return self.how == "accepted"

    @property
    def passes(self) -> bool:
        """Whether it is wrong and was accepted."""
        return self.accepted and not self.is_right

    @property
    def rejected(self) -> bool:
        return self.how in ("rejected", "raised")


@dataclass
class AuditReport:
    """The result of `audit`.

    passed: it accepts every right program and rejects every wrong one, but for what is allowed.
    outcomes: what it said of each program.
    reasons: why wrong programs pass, in sentences, those that explain most first.
    findings: what is wrong with the checker as a whole (it crashes, is random, hangs, cannot fail), worst first.
    facts: what it does, in words: how often it calls a program, and with what.
    untried: names of programs for which there was no time.
    values: whether y is ever asked for alone.
    allow, smallest: kinds of wrong programs, and sizes of error, that it need not see.
    """

    checker: str
    rule: str
    dtype: str
    outcomes: list[Outcome] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    untried: list[str] = field(default_factory=list)
    allow: tuple[str, ...] = ()
    smallest: float = 0.0
    values: bool = False
    seconds: float = 0.0

    @property
    def wrong(self) -> list[Outcome]:
        """What it said of wrong programs."""
        return [o for o in self.outcomes if not o.is_right]

    @property
    def right(self) -> list[Outcome]:
        return [o for o in self.outcomes if o.is_right]

    @property
    def lets_pass(self) -> list[Outcome]:
        """Wrong programs that it accepted, but for what is allowed."""
        return [o for o in self.wrong if o.accepted and not self._is_allowed(o)]

    @property
    def refuses(self) -> list[Outcome]:
        """Right programs that it did not accept."""
        return [o for o in self.right if not o.accepted]

    @property
    def passed(self) -> bool:
        return bool(self.outcomes) and not (
            self.findings or self.untried or self.refuses or self.lets_pass or self._without_verdict
        )

    @property
    def _without_verdict(self) -> list[Outcome]:
        return [o for o in self.wrong if not o.accepted and not o.rejected]

    def _is_allowed(self, outcome: Outcome) -> bool:
        return outcome.kind in self.allow or (outcome.size is not None and outcome.size < self.smallest)

    @property
    def kinds(self) -> list[str]:
        """The kinds of wrong programs, in order."""
        return list(dict.fromkeys(o.kind for o in self.wrong))

    def of_kind(self, kind: str) -> list[Outcome]:
        return [o for o in self.wrong if o.kind == kind]

    def smallest_seen(self, argument: str, kind: str | None = None) -> float | None:
        """The smallest size from which every error of an argument that was tried is rejected, of one kind, or else of
        factors and of each side; None if even the largest passes."""
        seen = [
            _seen_from([o for o in self.of_kind(k) if o.argument == argument]) for k in ((kind,) if kind else KINDS)
        ]
        known = [s for s in seen if s is not None]
        return min(known) if known else None

    def __str__(self) -> str:
        return self.text()

    def text(self, verbose: bool = False) -> str:
        """The report as text.  verbose: with every program that passes."""
        blocks = [
            [self.headline],
            [f"  {line}" for line in (*self.findings, *self.facts)],
            *([["why:", *(f"  - {reason}" for reason in self.reasons)]] if self.reasons else []),
            self._refused(),
            self._table(verbose),
            self._chart(),
            [f"not tried, for want of time: {some(self.untried, 5)}"] if self.untried else [],
        ]
        return readable("\n\n".join("\n".join(block) for block in blocks if block))

    @property
    def headline(self) -> str:
        """The verdict in one line."""
        if not any(o.accepted or o.rejected for o in self.outcomes):
            return f"{self._of}: NO VERDICT on any program"
        right, wrong = len(self.right), len(self.wrong)
        lets = f"lets {len(self.lets_pass)} of {counted(wrong, 'wrong program')} pass"
        refuses = f"refuses {len(self.refuses)} of {counted(right, 'right one')}"
        allowed = sum(o.accepted and self._is_allowed(o) for o in self.wrong)
        more = f"; {allowed} more that pass are allowed" if allowed else ""
        return f"{self._of}: {'passes; ' if self.passed else ''}{lets}, {refuses}{more} ({self.seconds:.1f} s)"

    @property
    def _of(self) -> str:
        return f"{self.checker} against {self.rule} ({self.dtype})"

    def _refused(self) -> list[str]:
        if not self.refuses:
            return []
        names: dict[str, list[str]] = {}
        for o in self.refuses:
            names.setdefault(f"{o.how}: {cut(o.words, LINE)}", []).append(o.name)
        if len(names) > len(self.refuses) // 2:
            lines = [f"  {o.name}: {cut(o.words, LINE)}" for o in self.refuses]
        else:
            lines = [f"  {some(these, NAMED)}: {said}" for said, these in names.items()]
        return ["right programs that it does not accept:", *lines]

    def _table(self, verbose: bool) -> list[str]:
        if not self.wrong:
            return []
        rows = [HEADS]
        for kind in self.kinds:
            of_kind = self.of_kind(kind)
            passing = [o.name for o in of_kind if o.accepted]
            allowed = " (allowed)" if kind in self.allow else ""
            rejected = sum(o.rejected for o in of_kind)
            shown = passing if verbose else passing[:NAMED]
            more = len(passing) - len(shown)
            names = "; ".join([*shown, *([f"{more} more"] if more else [])])
            rows.append((kind + allowed, f"{rejected} of {len(of_kind)}", names))
        widths = [max(len(row[i]) for row in rows) for i in range(2)]
        return [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c}".rstrip() for a, b, c in rows]

    def chart(self) -> list[tuple[str, list[str]]]:
        """Kinds of error of each result against their sizes (SIZES): a mark each.

        PASSED; REJECTED; UNSEEN: it passes, and all that the checker was shown was right; UNTRIED: too small to be
        wrong beside rounding, or not tried.
        """
        rows = []
        for argument in dict.fromkeys(o.argument for o in self.wrong if o.kind in KINDS):
            for kind in KINDS:
                by_size = {o.size: o for o in self.of_kind(kind) if o.argument == argument}
                if by_size:
                    rows.append((f"{argument}: {kind}", [_mark(by_size.get(size)) for size in SIZES]))
        return rows

    def _chart(self) -> list[str]:
        rows = self.chart()
        if not rows:
            return []
        width = max(len(name) for name, _ in rows)
        head = f"{'size of the error':<{width}}  " + " ".join(f"{size:>5g}" for size in SIZES)
        legend = f"({PASSED} passes, {REJECTED} rejected, {UNSEEN} passes and shows at none of its numbers)"
        return [head, *(f"{name:<{width}}  " + " ".join(f"{m:>5}" for m in marks) for name, marks in rows), legend]

    def to_json(self) -> str:
        """One JSON document; infinities are written as strings."""
        document = {
            "schema": SCHEMA,
            "passed": self.passed,
            **asdict(self),
            "by_kind": {k: [sum(o.rejected for o in self.of_kind(k)), len(self.of_kind(k))] for k in self.kinds},
        }
        return json.dumps(plain(document), allow_nan=False)

    def picture(self, path: str | Path) -> None:
        """Write a picture of kinds of error against their sizes: SVG, PNG or PDF, as the name ends.

        Raises ImportError if matplotlib is not installed (manual-bp[plots]), and ValueError for another name, or if no
        wrong program was tried.
        """
        save(self.chart(), self._of, Path(path))

    def _repr_html_(self) -> str:
        kinds = [
            (
                kind,
                f"{sum(o.rejected for o in self.of_kind(kind))} of {len(self.of_kind(kind))}",
                "; ".join([o.name for o in self.of_kind(kind) if o.accepted][:2]),
            )
            for kind in self.kinds
        ]
        chart = [(name, *(mark.strip() for mark in marks)) for name, marks in self.chart()]
        return fragment(
            str(self),
            symbol="✔" if self.passed else "✘",
            tone="good" if self.passed else "bad",
            headline=self.headline,
            causes=[*self.findings, *self.reasons][:CAUSES],
            tables=[
                Table("By kind", HEADS, kinds, numbers=(1,), is_open=True),
                Table(
                    "By size of the error",
                    ("size of the error", *(f"{size:g}" for size in SIZES)),
                    chart,
                    fills=COLOURS,
                    is_open=True,
                ),
            ],
            lists={"More reasons": [*self.findings, *self.reasons][CAUSES:], "What it does": self.facts},
            legend=LEGEND if chart else "",
        )


def _mark(outcome: Outcome | None) -> str:
    if outcome is None or not (outcome.accepted or outcome.rejected):
        return UNTRIED
    if outcome.rejected:
        return REJECTED
    return PASSED if outcome.shown > 0 else UNSEEN


def _seen_from(outcomes: Sequence[Outcome]) -> float | None:
    """The smallest size from which on all are rejected."""
    sized = [(o.size, o) for o in outcomes if o.size is not None]
    seen = None
    for size, outcome in sorted(sized, key=lambda pair: -pair[0]):
        if not outcome.rejected:
            break
        seen = size
    return seen


def side_by_side(reports: Sequence[AuditReport]) -> list[str]:
    """Several checkers of one rule beside each other: % rejected of each kind, and of right programs."""
    kinds = list(dict.fromkeys(kind for report in reports for kind in report.kinds))
    rows = [("rejected, %", *(report.checker for report in reports))]
    rows.append(("right programs", *(_share(r.right, lambda o: not o.accepted) for r in reports)))
    rows += [(kind, *(_share(r.of_kind(kind), lambda o: o.rejected) for r in reports)) for kind in kinds]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    first, *others = widths
    return [
        f"{row[0]:<{first}}  " + "  ".join(f"{c:>{w}}" for c, w in zip(row[1:], others, strict=True)) for row in rows
    ]


def _share(outcomes: Iterable[Outcome], counts: Callable[[Outcome], bool]) -> str:
    each = [counts(o) for o in outcomes]
    return f"{100 * sum(each) / len(each):.0f}" if each else ""
