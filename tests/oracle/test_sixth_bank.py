"""The sixth bank: what its author, who had not read the oracle, says of a program is what compare says, in float32."""

from __future__ import annotations

import warnings

import pytest

from manual_bp.oracle import compare
from tests.oracle.sixth_bank import ENTRIES


@pytest.mark.exhaustive
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_a_verdict_is_the_label(entry):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of infinities
        report = compare(entry.vjp, entry.reference, diagnose=0, **entry.options)
    assert report.passed == entry.right, f"{entry.cause}: {report}"
