"""What sort of error it is, where the sorts are easily confused."""

from __future__ import annotations

import pytest
import torch

import manual_bp as bp
from manual_bp.oracle import Case, compare


def relu_through(scale):
    """ReLU whose cotangent is multiplied by `scale` on the way, and divided by it again."""

    def candidate(inputs, dy):
        y, (dx,) = bp.relu.vjp(inputs, dy)
        return y, (dx * scale / scale,)

    return candidate


@pytest.mark.parametrize(("dtype", "passes"), [(torch.float16, False), (torch.float32, True)], ids=str)
def test_an_overflow_of_moderate_numbers_is_no_lost_digits(dtype, passes):
    report = compare(relu_through(2**16), "relu", dtype=dtype)
    assert report.passed is passes, str(report)


def test_a_mask_times_an_infinite_cotangent_is_a_note():
    def candidate(inputs, dy):
        return torch.relu(inputs[0]), ((inputs[0] > 0).to(dy.dtype) * dy,)

    report = compare(candidate, "relu")
    assert report.passed, str(report)
    assert any("infinity or 0 is due" in note for note in report.notes)


def test_nan_that_an_infinite_cotangent_of_another_element_makes_is_wrong():
    def candidate(inputs, dy):
        y, (dx,) = bp.relu.vjp(inputs, dy)
        return y, (dx + 0 * dy.sum(),)

    case = Case((torch.tensor([-1.0, 2.0, -3.0]),), torch.tensor([1.0, float("inf"), 1.0]))
    report = compare(candidate, "relu", cases=[case])
    assert [m.kind for m in report.mismatches] == ["wrong"]


def test_a_number_in_place_of_an_infinite_cotangent_is_wrong():
    def candidate(inputs, dy):
        y, (dx,) = bp.relu.vjp(inputs, dy)
        return y, (torch.where(dy.isinf(), 5, dx),)

    assert not compare(candidate, "relu").passed
