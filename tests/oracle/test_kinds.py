"""What sort of error it is, where the sorts are easily confused."""

from __future__ import annotations

import pytest
import torch

from manual_bp.oracle import Case, compare
from tests.pages import PAGES

KEPT = PAGES["kept"]


def through(scale):
    """dx is multiplied by `scale` on the way, and divided by it again."""

    def candidate(inputs, dy):
        y, (dx, _) = KEPT.vjp(inputs, dy)
        return y, (dx * scale / scale, None)

    return candidate


@pytest.mark.parametrize(("dtype", "passes"), [(torch.float16, False), (torch.float32, True)], ids=str)
def test_an_overflow_of_moderate_numbers_is_no_lost_digits(dtype, passes):
    report = compare(through(2**16), KEPT, dtype=dtype, diagnose=0)
    assert report.passed is passes, str(report)


def test_a_mask_times_an_infinite_cotangent_is_a_note():
    def candidate(inputs, dy):
        x, mask = inputs
        return KEPT.forward(x, mask)[0], (mask.to(dy.dtype) * (2 * dy), None)

    report = compare(candidate, KEPT, diagnose=0)
    assert report.passed, str(report)
    assert any("infinity or 0 is due" in note for note in report.notes)


def test_nan_that_an_infinite_cotangent_of_another_element_makes_is_wrong():
    def candidate(inputs, dy):
        y, (dx, _) = KEPT.vjp(inputs, dy)
        return y, (dx + 0 * dy.sum(), None)

    mask = torch.tensor([False, True, False])
    case = Case((torch.tensor([-1.0, 2.0, -3.0]), mask), torch.tensor([1.0, float("inf"), 1.0]))
    report = compare(candidate, KEPT, cases=[case], diagnose=0)
    assert [m.kind for m in report.mismatches] == ["wrong"]


def test_a_number_in_place_of_an_infinite_cotangent_is_wrong():
    def candidate(inputs, dy):
        y, (dx, _) = KEPT.vjp(inputs, dy)
        return y, (torch.where(dy.isinf(), 5, dx), None)

    assert not compare(candidate, KEPT, diagnose=0).passed
