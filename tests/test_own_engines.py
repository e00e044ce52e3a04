"""Engines of one's own: each wrong one is named with its cause in the first sentence, each right one passes."""

from __future__ import annotations

import pytest
import torch

from manual_bp.lockstep import lockstep
from manual_bp.training.data import Dataset
from manual_bp.training.text import BYTES, Text
from tests.own_bank import engines


def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(40, 5, generator=generator, dtype=torch.float64)
    return Dataset("made up", x, torch.randint(3, (40,), generator=generator), (1, 5))


def text():
    tokens = torch.randint(3, (61,), generator=torch.Generator().manual_seed(0))
    return Text("made up", tokens, BYTES[:3]).windows(5)


def run(engine, steps=2):
    is_text = engine.model == "gpt"
    return lockstep(
        engines.MODELS[engine.model](),
        text() if is_text else data(),
        engine=engine.make,
        against="mine",
        steps=steps,
        batch_size=2 if is_text else 8,
        free=False,
        **engine.options,
    )


@pytest.mark.thinned(3)
@pytest.mark.parametrize("name", engines.WRONG)
def test_a_wrong_engine_is_named(name):
    report = run(engines.WRONG[name])
    assert not report.passed
    for words in engines.WRONG[name].words:
        assert any(word in report.verdict for word in words.split("|")), (words, report.verdict)


@pytest.mark.thinned(3)
@pytest.mark.parametrize("name", engines.RIGHT)
def test_a_right_engine_passes(name):
    report = run(engines.RIGHT[name])
    assert report.passed, report.verdict


def test_what_a_bare_engine_does_not_show_is_said():
    report = run(engines.RIGHT["bare Adam"], steps=1)
    assert report.verdict == (
        "what mine shows agrees in 1 step; it does not show, so not judged were: layers, the optimiser's state"
    )
