"""The fourth to the sixth bank: what their authors, who had not read the oracle, say of a program is what compare
says, in float32."""

from __future__ import annotations

import pytest

from tests.oracle import fifth_bank, fourth_bank, sixth_bank
from tests.oracle.one_fault import judged

# Right by their label, and refused: torch and the page give NaN, these a number.
NAN = {
    "cross_entropy_in_blocks_of_rows": "weights of classes that add up to 0",
    "cross_entropy_in_place": "weights of classes that add up to 0",
}
ENTRIES = [*fourth_bank.ENTRIES, *fifth_bank.ENTRIES, *sixth_bank.ENTRIES]


@pytest.mark.exhaustive
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_a_verdict_is_the_label(entry):
    report = judged(entry.vjp, entry, 0)
    assert report.passed == (entry.right and entry.name not in NAN), f"{entry.cause}: {report}"
