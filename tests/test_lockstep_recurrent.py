"""Recurrent networks in lockstep: allowances over many steps of time, and what is wrong is named."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import manual_bp as bp
from manual_bp.lockstep import lockstep
from manual_bp.models import recurrent
from manual_bp.oracle.calling.candidates import engine_factory
from manual_bp.training import adamw, training_step
from manual_bp.training.engine import ManualEngine, allowance_of
from manual_bp.training.text import BYTES, Text

VOCABULARY = 5


def windows(context):
    tokens = torch.randint(VOCABULARY, (2 * context + 1,), generator=torch.Generator().manual_seed(0))
    return Text("made up", tokens, BYTES[:VOCABULARY]).windows(context)


@pytest.mark.exhaustive  # 12 CPU seconds
def test_over_many_steps_of_time_the_allowance_holds_and_is_no_licence():
    """The bound multiplies up with each step, to 24 times a gradient here; stochastic arithmetic takes its place."""
    context = 64
    model = recurrent(VOCABULARY, context, 16)
    step = training_step(model, "softmax_cross_entropy", optimizer=adamw(1e-3))
    state, data = step.init(torch.Generator().manual_seed(0)), windows(context)
    allowed = allowance_of(step, state, data.x, data.labels, torch.float32, seed=0).gradients
    exact = replace(state, params={name: p.double() for name, p in state.params.items()})
    found, truth = (ManualEngine(step).step(each, data.x, data.labels).gradients for each in (state, exact))
    for name, right in truth.items():
        assert ((found[name] - right).abs() <= allowed[name]).all(), name
        assert (allowed[name] < 1e-2 * right.abs().max()).all(), name


@pytest.mark.parametrize("ours", [True, False], ids=["ours", "torch's"])
def test_a_layer_that_runs_backwards_is_named(monkeypatch, ours):
    """Of either engine, in forward."""
    if ours:
        page = bp.gru.page
        right = page.forward

        def forward(x, *given, **how):
            y, residuals = right(x.flip(0), *given, **how)
            return y._replace(y=y.y.flip(0)), residuals

        monkeypatch.setattr(page, "forward", forward)
    else:
        layer = torch.nn.GRU.forward
        monkeypatch.setattr(torch.nn.GRU, "forward", lambda self, x: (layer(self, x.flip(0))[0].flip(0), None))
    data = windows(4)
    model = recurrent(data.classes, 4, 3, cell="gru")
    report = lockstep(model, data, engine=engine_factory("torch"), steps=1, batch_size=2, free=False)
    assert not report.passed
    assert report.disagreements[0].layer == "layer1", report.verdict
    assert "the forward of gru" in report.verdict


def test_states_that_are_carried_on_are_named(monkeypatch):
    """A module that begins where it ended: y of the first layer differs."""
    layer = torch.nn.LSTM.forward

    def carried(self, x):
        _, last = layer(self, x)
        return layer(self, x, last)

    monkeypatch.setattr(torch.nn.LSTM, "forward", carried)
    data = windows(4)
    report = lockstep(recurrent(data.classes, 4, 3), data, engine=engine_factory("torch"), steps=1, batch_size=2)
    assert report.disagreements[0].layer == "layer1", report.verdict
    assert report.disagreements[0].quantity == "y"
