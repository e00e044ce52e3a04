"""The tenth bank: backwards with one fault are refused for that alone, and the first sentence about one names it."""

from __future__ import annotations

import pytest

from tests.oracle.one_fault import assert_it_is_named, assert_it_is_the_fault, assert_whole, marked
from tests.oracle.tenth_bank import ENTRIES


@pytest.mark.exhaustive
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_it_is_wrong_as_it_stands_and_right_once_mended(entry):
    assert_it_is_the_fault(entry)


# Of which the first sentence holds none of the words that were written down before anything had been told of them.  One
# that is named is to be struck out.  It names the cause by others:
OTHERWISE = {
    "adamw_count_of_the_step_before",  # as "t from 0", which is 0/0 at the first step, where this one is right
    "alibi_mask_off_by_one",
    "batch_norm_backward_by_the_unbiased_variance",
    "cross_entropy_with_z_half_of_its_slope",
    "focal_loss_factor_held_constant",
    "group_norm_mean_of_all_groups",
    "low_rank_dx_past_the_adapter",
    "swiglu_silu_recovered_by_division",
    "clamped_glu_dup_beyond_the_limit",  # as what passes everywhere, and not only where up is within the limits
    "upsample_drops_what_is_behind_the_last",  # as what lies beyond the ends of an axis
}

# It says nothing, or where it is wrong and not why:
UNNAMED = {
    "convolution_dweight_pads_with_the_border",
    "lstm_gates_packed_in_another_order",
    "squared_relu_glu_slope_of_negative_gates",
    "sink_attention_normalised_without_the_sink",
}

# It is named in one run and not in the next, of 40 s too.
AT_TIMES = {"attention_causal_in_place_of_the_mask", "gru_keeps_the_other_share"}

ALWAYS = [entry for entry in ENTRIES if entry.name not in AT_TIMES]


@pytest.mark.exhaustive
@pytest.mark.parametrize("entry", marked(ALWAYS, OTHERWISE | UNNAMED))
def test_the_first_sentence_names_the_cause(entry):
    assert_it_is_named(entry)


def test_the_bank_is_whole():
    assert_whole(ENTRIES, 36)
