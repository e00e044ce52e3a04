"""Layers of everyday sizes: a contestant that computes something else is not timed."""

from __future__ import annotations

import pytest

from benchmarks.layers import Layer
from benchmarks.rules import manual_eager, torch_eager

SMALL = Layer("a small one", "rnn", {"time": 3, "batch": 2, "in": 4, "hidden": 5}, 1.0)


INDEXED = Layer("one with an index", "fused_linear_cross_entropy", {"rows": 6, "features": 4, "classes": 5}, 1.0)


@pytest.mark.parametrize("layer", [SMALL, INDEXED], ids=lambda layer: layer.name)
@pytest.mark.parametrize("contestant", [manual_eager, torch_eager])
def test_a_right_contestant_passes(contestant, layer):
    problem = layer.problem()
    problem.check("right", contestant(problem))


@pytest.mark.parametrize("place", range(8))
def test_a_result_that_is_one_per_mille_off_is_named(place):
    problem = SMALL.problem()
    (y, h_n), grads = manual_eager(problem)()
    results = [y, h_n, *grads]
    results[place] = results[place] * 1.001
    with pytest.raises(
        AssertionError, match=f"wrong of a small one: result {place} is 0.001 of its largest number off"
    ):
        problem.check("wrong", lambda: (tuple(results[:2]), tuple(results[2:])))
