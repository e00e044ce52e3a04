"""A report in the words of tables, and the templates that tables stand in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from manual_bp.oracle.heatmap import number
from manual_bp.oracle.words import beside_one, counted, listed, told_apart

if TYPE_CHECKING:
    from jinja2 import Template

    from manual_bp.oracle.report import Mismatch, Report

# Which kind of several names an argument's verdict; the others lie between.
SERIOUS = {"wrong": 2, "convention": 0}


@dataclass(frozen=True)
class Verdict:
    """The verdict in a word, a symbol, a tone (for the colour) and a sentence."""

    word: str
    symbol: str
    tone: str
    sentence: str


def verdict_of(report: Report) -> Verdict:
    """Passed, Failed, Convention (nothing but conventions differ) or Undecided (nothing wrong, not all tested)."""
    cases = counted(report.cases, "case")
    if report.passed:
        return Verdict("Passed", "✔", "good", f"The value and every gradient agree in {cases}.")
    if not report.mismatches:
        untested = listed([*report.untested_arguments, *report.untested_hyper]) or "anything"
        sentence = f"Nothing wrong was found in {cases}, and {untested} could not be tested."
        return Verdict("Undecided", "?", "warn", sentence)
    arguments = listed(list(dict.fromkeys(m.argument for m in report.mismatches)))
    counts = report.verdict.removeprefix("FAILS")
    if all(m.kind == "convention" for m in report.mismatches):
        sentence = f"{arguments}: another valid convention, not declared{counts}."
        return Verdict("Convention", "≠", "warn", sentence)
    return Verdict("Failed", "✘", "bad", f"{arguments}: not what is due{counts}.")


def arguments_of(report: Report) -> list[tuple[str, int, str, str, str, str]]:
    """Per argument: name, cases judged, largest errors, and the verdict as symbol and word."""
    rows = []
    for name, worst in report.worst.items():
        kinds = [m.kind for m in report.mismatches if m.argument == name]
        untested = name in report.untested_arguments
        symbol, word = ("?", "not tested") if untested else ("✔", "agrees") if worst.by_case else ("–", "not judged")
        if kinds:
            word = max(kinds, key=lambda kind: SERIOUS.get(kind, 1))
            symbol = "≠" if word == "convention" else "✘"
        ulps, ratio = (number(worst.ulps), number(worst.error_over_allowance)) if worst.by_case else ("–", "–")
        rows.append((name, len(worst.by_case), ulps, ratio, symbol, word))
    return rows


def row_of(m: Mismatch) -> dict[str, str]:
    """A mismatch in the words of a table."""
    both = ("", "") if m.expected is None or m.got is None else told_apart(m.expected, m.got)
    return {
        "kind": m.kind,
        "argument": m.argument,
        "case": m.case,
        "index": "" if m.index is None else str(list(m.index)),
        "expected": both[0],
        "got": both[1],
        "ulps": number(m.ulps),
        "ratio": "" if m.error_over_allowance is None else beside_one(m.error_over_allowance, 3),
        "pattern": m.pattern,
        "detail": m.detail,
    }


@cache
def template(name: str) -> Template:
    """The template of that name beside this file.  Raises ImportError if jinja2 is not installed."""
    try:
        import jinja2
    except ImportError:
        raise ImportError("the HTML page needs jinja2. Run: pip install 'manual-bp[report]'") from None
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(files("manual_bp.oracle").joinpath(name).read_text("utf-8"))
