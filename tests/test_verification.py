"""Verification notices what no single comparison can: a page wrong in both directions, an edge that falls silent."""

from __future__ import annotations

import pytest
import torch

import manual_bp as bp
from manual_bp.oracle.cases import generated
from manual_bp.verification import parts_of, verify_rules


def test_progress_and_the_places_of_the_largest_differences():
    ticks = []
    (found,) = verify_rules(["sigmoid"], [torch.float32], progress=lambda: ticks.append(1))
    assert len(ticks) == parts_of(bp.sigmoid, torch.float32) > len(bp.sigmoid.mistakes)
    place = found.torch_truth.where["backward"]
    assert place.their_ulps == found.torch_truth.backward
    assert place.page_ulps < 1
    x = torch.tensor(place.inputs["x"], dtype=torch.float64)
    case = next(c for c in generated(bp.sigmoid, torch.float32, "cpu") if c.name == place.case)
    assert float(case.inputs[0][place.index]) == float(x)
    due = float(case.dy[place.index].double() * torch.sigmoid(x) * torch.sigmoid(-x))
    assert place.due == pytest.approx(due, rel=1e-9)
    assert "torch loses all of its 6.9 decimal digits, the page keeps them" in str(place)


def test_where_0_is_due_torchs_noise_is_no_measure():
    """A difference is in ulp of what is due: of torch's own rounding errors around 0 it would be any number."""
    found = verdict("max_norm")
    assert found.against_torch.backward < 100


def verdict(rule, dtype=torch.float64):
    (found,) = verify_rules([rule], [dtype], mistakes=False)
    return found


def test_a_rule_passes_and_is_measured():
    found = verdict("tanh")
    assert found.passed, found.report
    assert found.truth.backward < 5 < 1e6 < found.torch_truth.backward


def test_forward_and_backward_that_are_wrong_in_the_same_way(monkeypatch):
    """Certified truth comes from the page's own forward; torch does not."""
    page = bp.tanh.page
    forward, backward = page.forward, page.backward
    monkeypatch.setattr(page, "forward", lambda x: (forward(x / 2)[0], page.Residuals(x)))
    monkeypatch.setattr(page, "backward", lambda r, dy: (backward(page.Residuals(r.x / 2), dy)[0] / 2,))
    found = verdict("tanh")
    assert not found.passed
    assert "the page's forward is not torch's function: y[" in found.report


@pytest.mark.parametrize("rule", ["batch_norm_inference", "tanh", "relu"])
def test_a_forward_that_is_a_little_off(monkeypatch, rule):
    page = getattr(bp, rule).page
    forward = page.forward

    def shifted(*inputs, **hyper):
        y, residuals = forward(*inputs, **hyper)
        return y + 1e-3, residuals

    monkeypatch.setattr(page, "forward", shifted)
    found = verdict(rule)
    assert not found.passed
    assert "the page's forward is not torch's function: y" in found.report


def test_an_edge_that_must_raise_and_does_not(monkeypatch):
    monkeypatch.setattr(bp.dropout.page, "require", lambda *_: None)
    found = verdict("dropout")
    assert not found.passed
    assert "negative p" in found.report or "p above 1" in found.report


def test_a_page_that_crashes_is_named(monkeypatch):
    def crashes(residuals, dy):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(bp.elu.page, "backward", crashes)
    found = list(verify_rules(["elu", "relu"], [torch.float64], mistakes=False))
    assert [v.passed for v in found] == [False, True]
    assert "elu (torch.float64): raised RuntimeError: no such kernel" in found[0].report


def test_no_twin(monkeypatch):
    monkeypatch.setattr("manual_bp.verification.candidate", lambda name: lambda rule: None)
    assert verdict("elu").report == "elu: no twin; write torch_ref/twins/elu.py"
