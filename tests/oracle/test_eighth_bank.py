"""The eighth bank: kernels with a bug are refused for that bug alone, and the first sentence about one names it."""

from __future__ import annotations

import pytest

from tests.oracle.eighth_bank import ENTRIES
from tests.oracle.one_fault import assert_it_is_named, assert_it_is_the_fault, assert_whole, marked


@pytest.mark.exhaustive
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_it_is_wrong_as_it_stands_and_right_once_mended(entry):
    assert_it_is_the_fault(entry)


# Of which no cause is told, or that of another edit, in any time; one that is named is to be struck out.  What they
# should be called was written down before anything had been told of them: so many of 40 the diagnosis does not find.
OTHERWISE = {
    "attention_reads_d_by_head",
    "causal_conv_flips_the_kernel",
    "cross_entropy_forgets_the_offset",
    "cross_entropy_smooths_by_the_targets_weight",
    "embedding_never_writes_the_last_run",
    "gated_attention_gates_twice",
    "huber_branches_on_x",
    "prelu_channels_last",
    "scan_starts_each_chunk_from_zero",
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("entry", marked(ENTRIES, OTHERWISE))
def test_the_first_sentence_names_the_cause(entry):
    assert_it_is_named(entry)


def test_the_bank_is_whole():
    assert_whole(ENTRIES, 40)
