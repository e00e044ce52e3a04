"""What an edge of the page cannot hold: there torch's own gradient writes beside the tensor."""

from __future__ import annotations

import pytest
import torch

import manual_bp as bp


@pytest.mark.parametrize(("length", "stride"), [(1, 2), (2, 1)])
def test_a_window_whose_taps_all_stand_outside_is_refused(length, stride):
    with pytest.raises(ValueError, match=r"every window must have a tap in x; came .*, dilation 3"):
        bp.max_pool.forward(torch.ones(1, 1, length), kernel=2, stride=stride, padding=1, dilation=3, ceil_mode=True)


def test_taps_that_are_as_far_apart_as_x_is_long_meet_it():
    y, _ = bp.max_pool.forward(torch.tensor([[[1.0, 2.0, 3.0]]]), kernel=2, stride=1, padding=1, dilation=3)
    assert y.tolist() == [[[3.0, 1.0]]]
