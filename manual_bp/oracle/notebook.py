"""Reports as a notebook shows them: a fragment of HTML without script, made of notebook.html.jinja beside this file.

Without jinja2 (manual-bp[report]) it is the report's text.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from manual_bp.oracle.audit.sizes import SIZES
from manual_bp.oracle.foreign import readable
from manual_bp.oracle.tables import arguments_of, row_of, template, verdict_of

if TYPE_CHECKING:
    from manual_bp.lockstep import LockstepReport
    from manual_bp.oracle.audit.report import AuditReport
    from manual_bp.oracle.report import Report

FRAGMENT = "notebook.html.jinja"
# More rows of one table tell a reader nothing new; the JSON document holds all.
ROWS = 20
# Of an audit: what explains most of what passes comes first.
CAUSES = 5
WRONG = "#f4a39b"
# Of an audit's marks: told apart by lightness too, not by colour alone.
MARKS = {"X": "#b2182b", "~": "#f4a582", ".": "#92c5de"}
LEGEND = "X passes; ~ passes, but all that it was shown was right; . rejected; empty: no error beside rounding"


@dataclass(frozen=True)
class Table:
    """rows: of words, as many as heads.  numbers: columns that are numbers.  fills: the colour behind a cell, by what
    stands in it.  is_open: whether it is shown without being asked for."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[int] = ()
    fills: Mapping[str, str] = field(default_factory=dict)
    is_open: bool = False


def of_comparison(report: Report) -> str:
    """The fragment of what `compare` returns."""
    verdict = verdict_of(report)
    arguments = [
        (name, f"{symbol} {word}", str(cases), ulps, ratio)
        for name, cases, ulps, ratio, symbol, word in arguments_of(report)
    ]
    mismatches = [tuple(row_of(m).values()) for m in report.mismatches[:ROWS]]
    heads = ("kind", "argument", "case", "index", "expected", "got", "ulp", "over allowance", "pattern", "detail")
    return _fragment(
        str(report),
        symbol=verdict.symbol,
        tone=verdict.tone,
        headline=f"{report.rule}, {report.dtype} on {report.device}. {verdict.sentence}",
        causes=report.diagnoses[:1] or report.patterns[:1],
        tables=[
            Table(
                "Every argument",
                ("argument", "verdict", "cases judged", "largest error, ulp", "over allowance"),
                arguments,
                numbers=(2, 3, 4),
                is_open=True,
            ),
            Table(f"Mismatches ({len(report.mismatches)})", heads, mismatches, numbers=(3, 4, 5, 6, 7)),
        ],
        lists={
            "More diagnoses": report.diagnoses[1:],
            "Findings": report.findings,
            "Not tested": report.not_tested,
            "Notes": report.notes,
            "Loose allowances": report.loose,
        },
    )


def of_lockstep(report: LockstepReport) -> str:
    """The fragment of what `lockstep` returns: error over allowance of each tensor, a row for a layer."""
    quantities = list(dict.fromkeys(row.quantity for row in report.rows))
    worst = {(row.layer, row.quantity): row.error_over_allowance for row in report.rows}
    layers = dict.fromkeys(row.layer for row in report.rows)
    said = {ratio: f"{ratio:.2g}" for ratio in worst.values()}
    rows = [[layer, *(said.get(worst.get((layer, q), -1.0), "") for q in quantities)] for layer in layers]
    losses = [(str(step), f"{ours:.6g}", f"{theirs:.6g}") for step, (ours, theirs) in enumerate(report.losses, 1)]
    return _fragment(
        report.verdict,
        symbol="✔" if report.passed else "✘",
        tone="good" if report.passed else "bad",
        headline=f"{report.model} on {report.data}, {report.dtype}: {report.verdict}",
        causes=[],
        tables=[
            Table(
                "Largest error over allowance, by layer and tensor",
                ["layer", *(q.replace("delta", "δ") for q in quantities)],
                rows,
                numbers=range(1, len(quantities) + 1),
                fills={words: WRONG for ratio, words in said.items() if not ratio <= 1},
                is_open=True,
            ),
            Table(
                f"Disagreements ({len(report.disagreements)})",
                ("step", "layer", "tensor", "in words"),
                [(str(d.step), d.layer, d.quantity, d.sentence) for d in report.disagreements[:ROWS]],
            ),
            Table("Loss of each step", ("step", "by hand", report.against), losses, numbers=(0, 1, 2)),
        ],
        lists={},
    )


def of_audit(report: AuditReport) -> str:
    """The fragment of what `audit` returns: what passes, by kind and by size of the error."""
    kinds = [
        (
            kind,
            f"{sum(o.rejected for o in report.of_kind(kind))} of {len(report.of_kind(kind))}",
            "; ".join([o.name for o in report.of_kind(kind) if o.accepted][:2]),
        )
        for kind in report.kinds
    ]
    chart = [(name, *(mark.strip() for mark in marks)) for name, marks in report.chart()]
    return _fragment(
        str(report),
        symbol="✔" if report.passed else "✘",
        tone="good" if report.passed else "bad",
        headline=report.headline,
        causes=[*report.findings, *report.reasons][:CAUSES],
        tables=[
            Table("By kind", ("wrong programs", "rejected", "such as these pass"), kinds, numbers=(1,), is_open=True),
            Table(
                "By size of the error",
                ("size of the error", *(f"{size:g}" for size in SIZES)),
                chart,
                fills=MARKS,
                is_open=True,
            ),
        ],
        lists={"More reasons": [*report.findings, *report.reasons][CAUSES:], "What it does": report.facts},
        legend=LEGEND if chart else "",
    )


def _fragment(text: str, **content: Any) -> str:
    try:
        made = template(FRAGMENT).render({"legend": "", **content})
    except ImportError:
        made = f"<pre>{html.escape(text)}</pre>"
    return readable(made)
