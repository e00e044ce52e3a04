"""The fourth bank: what its author, who had not read the oracle, says of a program is what compare says, in float32."""

from __future__ import annotations

import warnings

import pytest

from manual_bp.oracle import compare
from tests.oracle.fourth_bank import ENTRIES

# Right by their label, and refused: torch and the page give NaN, these a number.
NAN = {
    "cross_entropy_in_blocks_of_rows": "weights of classes that add up to 0",
    "cross_entropy_in_place": "weights of classes that add up to 0",
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_a_verdict_is_the_label(entry):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of infinities, and of complex numbers whose imaginary part is dropped
        report = compare(entry.vjp, entry.reference, diagnose=0, **entry.options)
    assert report.passed == (entry.right and entry.name not in NAN), f"{entry.cause}: {report}"
