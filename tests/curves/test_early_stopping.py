"""Early stopping on hand-made curves."""

from __future__ import annotations

import math

import pytest

from manual_bp.curves.early_stopping import Stopping
from manual_bp.training import EarlyStopping

NAN, INF = math.nan, math.inf


def observed(losses, patience=2, min_delta=0.0):
    """The state after each epoch, counted from 1."""
    rule = EarlyStopping(patience, float(min_delta))
    stopping, states = rule.start(), []
    for epoch, loss in enumerate(losses, 1):
        stopping = rule.observe(stopping, epoch, float(loss))
        states.append(stopping)
    return states


@pytest.mark.parametrize(
    ("losses", "patience", "min_delta", "stops_at", "best_epoch"),
    [
        ([3, 2, 1, 1, 1], 2, 0, 5, 3),
        ([3, 2, 2.5, 1, 2, 2], 2, 0, 6, 4),
        ([3, 3, 3], 1, 0, 2, 1),
        ([3, 2, 1, 0], 1, 0, None, 4),
        ([3, 2.75, 2.5, 2.25], 3, 0.5, None, 4),
        ([3, 2.75, 2.5, 2.25], 2, 1.0, 3, 1),
        ([3, 2.5, 2.5], 2, 0.5, 3, 1),
        ([NAN, NAN, NAN], 2, 0, 2, None),
        ([NAN, 1, NAN, NAN], 2, 0, 4, 2),
        ([INF, 1, 2, 2], 2, 0, 4, 2),
        ([2, NAN, 1, NAN], 2, 0, None, 3),
    ],
    ids=str,
)
def test_curve(losses, patience, min_delta, stops_at, best_epoch):
    states = observed(losses, patience, min_delta)
    stopped = [epoch for epoch, state in enumerate(states, 1) if state.stop]
    assert (stopped[0] if stopped else None) == stops_at
    state = states[(stops_at or len(states)) - 1]
    assert state.best_epoch == best_epoch
    assert state.best == (losses[best_epoch - 1] if best_epoch else INF)


def test_improved_is_said_of_the_epoch_that_improved():
    assert [state.improved for state in observed([3, 2, 2, 1])] == [True, True, False, True]
    assert not EarlyStopping(1).start().improved


def test_a_state_that_was_saved_goes_on():
    rule = EarlyStopping(3)
    saved = observed([2, 3], patience=3)[-1]
    assert rule.observe(Stopping(saved.best, saved.best_epoch, saved.waited), 3, 3.0) == rule.observe(saved, 3, 3.0)


@pytest.mark.parametrize(("patience", "min_delta"), [(0, 0.0), (1, -0.1), (1, NAN)])
def test_bad_arguments(patience, min_delta):
    with pytest.raises(ValueError, match="patience must be at least 1"):
        EarlyStopping(patience, min_delta)
