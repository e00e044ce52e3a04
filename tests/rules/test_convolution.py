"""What sizes alone decide in convolution."""

from __future__ import annotations

import pytest
import torch

from manual_bp.rules.convolution import _correlation, convolution


@pytest.mark.parametrize("groups", [1, 2])
def test_the_cotangent_of_a_weight_from_parts_of_the_batch(groups, monkeypatch):
    """Parts of which the last is shorter than the others; what is a product of small integers has no rounding."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randint(-4, 5, shape, generator=generator) for shape in ((7, 4, 6, 5), (2, 4 // groups, 3, 2))]
    y, residuals = convolution.forward(*(t.double() for t in drawn), stride=2, padding=1, groups=groups)
    dy = torch.randint(-4, 5, y.shape, generator=generator).double()
    _, at_once, _ = convolution.backward(residuals, dy)
    monkeypatch.setattr(_correlation, "AT_ONCE", 0)
    monkeypatch.setattr(_correlation, "PART", 3)
    monkeypatch.setattr(_correlation, "FEWEST", 0)
    calls = []
    part_of = _correlation._compared
    monkeypatch.setattr(_correlation, "_compared", lambda *p: calls.append(len(p[0])) or part_of(*p))
    _, in_parts, _ = convolution.backward(residuals, dy)
    assert calls == [3, 3, 1]
    assert torch.equal(in_parts, at_once)
