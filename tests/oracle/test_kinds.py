"""What sort of error it is, where the sorts are easily confused."""

from __future__ import annotations

import pytest
import torch

import manual_bp as bp
from manual_bp.oracle import compare


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
