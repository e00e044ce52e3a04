"""The seventh bank: no program passes, and what is said of where it is wrong is so."""

from __future__ import annotations

import re
import warnings

import pytest

from manual_bp.oracle import compare
from tests.oracle.seventh_bank import ENTRIES

# Where it is said to be wrong; the words up to the evidence.
WHERE = re.compile(r"(?:, where|only where|elements where|wrong where|right up to) (?P<condition>[^;]*)")


# On a machine that others keep busy, too.
SECONDS = 10.0


@pytest.mark.exhaustive
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_where_it_is_said_to_be_wrong_it_is(entry):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of means of nothing
        report = compare(entry.vjp, entry.reference, diagnose=SECONDS, **entry.options)
    assert not report.passed, entry.cause
    first = report.diagnoses[0].lower() if report.diagnoses else ""
    for found in WHERE.finditer(first):
        # How far it is right is said in brackets.
        clauses = re.split(r",? and (?!no multiple)", re.sub(r"\([^)]*\)", "", found["condition"]))
        false = [c for c in clauses if not any(all(w in c for w in words) for words in entry.keywords)]
        assert not false, f"{entry.cause}: {first}"
