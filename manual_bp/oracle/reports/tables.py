"""A verdict, arguments and mismatches in the words of tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from manual_bp.oracle.reports.mismatch import Mismatch, Worst
from manual_bp.oracle.words import beside_one, counted, listed, number, told_apart

# Which kind of several names an argument's verdict; the others lie between.
SERIOUS = {"wrong": 2, "convention": 0}
HEADS = ("kind", "argument", "case", "index", "expected", "got", "ulp", "over allowance", "pattern", "detail")
"""Of the columns of a table of mismatches, in the order of `row_of`."""


@dataclass(frozen=True)
class Verdict:
    """The verdict in a word, a symbol, a tone (for the colour) and a sentence."""

    word: str
    symbol: str
    tone: str
    sentence: str


def verdict_of(
    passed: bool, cases: int, mismatches: Sequence[Mismatch], untested: Sequence[str], sentence: str
) -> Verdict:
    """Passed, Failed, Convention (nothing but conventions differ) or Undecided (nothing wrong, not all tested).

    cases: how many were judged. untested: arguments and hyperparameters. sentence: `Report.verdict`.
    """
    judged = counted(cases, "case")
    if passed:
        return Verdict("Passed", "✔", "good", f"The value and every gradient agree in {judged}.")
    if not mismatches:
        known = f"Nothing wrong was found in {judged}, and {listed(list(untested)) or 'anything'} could not be tested."
        return Verdict("Undecided", "?", "warn", known)
    arguments = listed(list(dict.fromkeys(m.argument for m in mismatches)))
    counts = sentence.removeprefix("FAILS")
    if all(m.kind == "convention" for m in mismatches):
        differs = f"{arguments}: another valid convention, not declared{counts}."
        return Verdict("Convention", "≠", "warn", differs)
    return Verdict("Failed", "✘", "bad", f"{arguments}: not what is due{counts}.")


def arguments_of(
    worst: Mapping[str, Worst], mismatches: Sequence[Mismatch], untested: Sequence[str]
) -> list[tuple[str, int, str, str, str, str]]:
    """Per argument: name, cases judged, largest errors, and the verdict as symbol and word."""
    rows = []
    for name, most in worst.items():
        kinds = [m.kind for m in mismatches if m.argument == name]
        symbol, word = ("✔", "agrees") if most.by_case else ("–", "not judged")
        if name in untested:
            symbol, word = "?", "not tested"
        if kinds:
            word = max(kinds, key=lambda kind: SERIOUS.get(kind, 1))
            symbol = "≠" if word == "convention" else "✘"
        ulps, ratio = (number(most.ulps), number(most.error_over_allowance)) if most.by_case else ("–", "–")
        rows.append((name, len(most.by_case), ulps, ratio, symbol, word))
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
