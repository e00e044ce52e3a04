"""What is asked of banks whose programs have one fault each, and are right once it is mended."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from typing import Any

import pytest

from manual_bp.oracle import Report, compare
from tests.oracle.eighth_bank.entry import Entry

# On a machine that others keep busy, too.
SECONDS = 10.0


def judged(vjp: Any, entry: Entry, diagnose: float) -> Report:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of means of nothing
        return compare(vjp, entry.reference, diagnose=diagnose, **entry.options)


def assert_it_is_the_fault(entry: Entry) -> None:
    assert not judged(entry.vjp, entry, 0).passed, entry.cause
    mended = judged(entry.mended(), entry, 0)
    assert mended.passed, f"{entry.cause}: {mended}"


def marked(entries: Sequence[Entry], unnamed: Collection[str]) -> list[Any]:
    """Entries as parameters of a test that their causes are named.  Those of which they are not are left out, since
    their searches take all the time they have; `pytest --runxfail` asks them too, and tells which are named by now."""
    return [pytest.param(e, id=e.name, marks=[pytest.mark.xfail(run=False)] * (e.name in unnamed)) for e in entries]


def assert_it_is_named(entry: Entry) -> None:
    report = judged(entry.vjp, entry, SECONDS)
    first = report.diagnoses[0].lower() if report.diagnoses else ""
    assert any(word in first for word in entry.keywords), f"{entry.cause}: {first or 'nothing is said'}"


def assert_whole(entries: Sequence[Entry], number: int) -> None:
    assert len({entry.name for entry in entries}) == len(entries) == number
    for entry in entries:
        assert entry.keywords
        assert entry.mended() is not entry.vjp
