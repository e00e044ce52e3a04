"""Pages that keep what their rounded mean has missed."""

import pytest
import torch

import manual_bp as bp
from tests.judging import ordinary

CENTRED = [
    rule for rule in bp.RULES.values() if "missed" in getattr(getattr(rule.page, "Residuals", None), "_fields", ())
]


@pytest.mark.parametrize("rule", CENTRED, ids=lambda rule: rule.name)
def test_a_mean_far_from_0_costs_no_digits(rule):
    """Without it 3 of 7 digits are lost here, and the page's own bound, by which it is judged, grows with the loss."""
    case = ordinary(rule, torch.float32)
    inputs = (case.inputs[0] + 1e4, *case.inputs[1:])
    y, (dx, *_) = rule.vjp(inputs, case.dy, **case.hyper)
    wide = tuple(None if t is None else t.double() for t in inputs)
    exact_y, (exact_dx, *_) = rule.vjp(wide, case.dy.double(), **case.hyper)
    for got, exact in ((y, exact_y), (dx, exact_dx)):
        assert (got - exact).abs().max() <= 1e-5 * exact.abs().max()
