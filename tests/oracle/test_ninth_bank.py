"""The ninth bank: backwards with one fault are refused for that alone, and the first sentence about one names it."""

from __future__ import annotations

import pytest

from tests.oracle.ninth_bank import ENTRIES
from tests.oracle.one_fault import assert_it_is_named, assert_it_is_the_fault, assert_whole, marked


@pytest.mark.exhaustive
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_it_is_wrong_as_it_stands_and_right_once_mended(entry):
    assert_it_is_the_fault(entry)


# Of which the first sentence holds none of the words that were written down before anything had been told of them: it
# names the cause by others.  One that is named is to be struck out.
OTHERWISE = {
    "convolution_transpose_dweight_flipped",
    "gelu_tanh_inner_slope_of_the_cube",
    "kl_div_dtarget_without_the_one",
    "l2_normalize_dot_with_x",
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("entry", marked(ENTRIES, OTHERWISE))
def test_the_first_sentence_names_the_cause(entry):
    assert_it_is_named(entry)


def test_the_bank_is_whole():
    assert_whole(ENTRIES, 40)
