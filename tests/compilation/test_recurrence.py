"""Steps along a sequence: one loop in a program, and not the step as often as there is time."""

from __future__ import annotations

import pytest
import torch

from manual_bp.compilation import program, tracing
from manual_bp.rules.recurrent._steps import over_time

DIRECTIONS = pytest.mark.parametrize("last_first", [False, True])


def halved_and_added(last_first):
    """A function whose states and results depend on the order of the steps."""

    def function(x, weights, h, c):
        def step(states, now):
            (h, c), (x_t, weight_t) = states, now
            c = h / 2 + x_t * weight_t
            h = c - h * weight_t
            return (h, c), (c, h)

        states, given = over_time(step, (h, c), (x, weights), last_first=last_first)
        return [*states, *given]

    return function


def given(time):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator) for shape in ((time, 3, 4), (time, 1, 1), (3, 4), (3, 4))]


def nodes_of(graph_module):
    return sum(len(m.graph.nodes) for m in graph_module.modules() if isinstance(m, torch.fx.GraphModule))


@DIRECTIONS
def test_the_order_of_the_steps(last_first):
    x, weights, h, c = given(3)
    after_h, after_c, every_c, every_h = halved_and_added(last_first)(x, weights, h, c)
    for t in (2, 1, 0) if last_first else (0, 1, 2):
        c = h / 2 + x[t] * weights[t]
        h = c - h * weights[t]
        assert torch.equal(every_c[t], c), t
        assert torch.equal(every_h[t], h), t
    assert torch.equal(after_h, h)
    assert torch.equal(after_c, c)


@DIRECTIONS
@pytest.mark.parametrize("time", [1, 5])
def test_a_program_takes_the_same_steps(last_first, time, built):
    function, flat = halved_and_added(last_first), given(time)
    for got, due in zip(program.build(function, flat).run(flat), function(*flat), strict=True):
        torch.testing.assert_close(got, due, rtol=1e-6, atol=1e-6)


def test_a_program_does_not_grow_with_the_number_of_steps():
    function = halved_and_added(last_first=True)
    few, many = (nodes_of(tracing.traced(function, given(time))) for time in (5, 500))
    assert few == many
