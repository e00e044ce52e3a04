"""The blind bank of training code: wrong entries are rejected and named by foreseen words, right ones pass."""

from __future__ import annotations

import inspect

import pytest

from manual_bp.oracle import compare, compare_optimizer, from_functions
from manual_bp.oracle.reports.report import Report
from tests.oracle.optimizers.bank import ENTRIES

# What nobody reads is the time that a cause took: other programs may run beside.
SECONDS = 120.0


def situated(candidate):
    """Of early stopping: epochs that are run and the one that is kept, of a candidate that says None for no stop."""

    def stopping(losses, patience, min_delta=0.0):
        stop, kept = candidate(list(losses), patience, min_delta)
        return len(losses) if stop is None else stop, kept

    return stopping


def judged(entry) -> Report:
    options = dict(entry.options)
    if entry.kind == "optimizer":
        # What an entry says of its 8 bits in words is said as a share: the second moment's root is off by 1/127.
        declared = {"state_error": 2 / 127} if options.pop("declared", "") else {}
        return compare_optimizer(entry.candidate, entry.reference, **options, **declared, diagnose=SECONDS)
    if entry.kind == "dropout":
        pair = from_functions(entry.candidate.forward, entry.candidate.backward)
        return compare(pair, entry.reference, mask="own", **options, diagnose=SECONDS)
    if entry.kind == "early stopping":
        return compare(situated(entry.candidate), "early_stopping", **options)
    return compare(entry.candidate, entry.reference, **options, diagnose=SECONDS)


@pytest.mark.thinned(12)
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_what_is_true_of_it_is_said(entry):
    report = judged(entry)
    if entry.right:
        assert report.passed, str(report)
        return
    assert not report.passed
    said = (report.diagnoses or [str(report)])[0].lower()
    assert any(all(word in said for word in words) for words in entry.keywords), f"{entry.cause}: {report}"


def test_the_bank_is_whole():
    assert len({entry.name for entry in ENTRIES}) == len(ENTRIES)
    assert all(entry.right or entry.keywords for entry in ENTRIES)
    assert all(inspect.isroutine(entry.candidate) or inspect.isclass(entry.candidate) for entry in ENTRIES)
