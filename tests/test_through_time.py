"""What reaches the states of each step: against the rule over the steps that are left, and what is said of it."""

from __future__ import annotations

import pytest
import torch

from manual_bp.axes import shape_of
from manual_bp.chain import trace
from manual_bp.models import recurrent
from manual_bp.registry import RULES
from manual_bp.through_time import carried, states
from manual_bp.training.gradient_flow import gradient_flow
from tests.allowed import assert_agrees

RECURRENT = [name for name, rule in RULES.items() if states(rule)]
TIME, BATCH, FEATURES, HIDDEN = 4, 2, 3, 2


def drawn(rule):
    """Inputs and the cotangent of y, which the cost reads up to the step before the last."""
    generator = torch.Generator().manual_seed(0)
    sizes = {"time": (TIME,), "batch": (BATCH,), "in": (FEATURES,), "hidden": (HIDDEN,)}
    shapes = [shape_of(rule.annotation(name), sizes, rule.check_hyper({})) for name in (*rule.inputs, "y.y")]
    *inputs, dy = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    dy[-1] = 0
    return inputs, dy


@pytest.mark.parametrize("name", RECURRENT)
def test_each_step_s_cotangent_is_that_of_the_sequence_that_begins_there(name):
    rule = RULES[name]
    (x, *others), dy = drawn(rule)
    expected = []
    for t in range(TIME - 1):
        steps, given = x[t : TIME - 1], [x, *others]
        if t:
            ends, _ = rule.forward(x[:t], *others)
            given = [getattr(ends, states(rule).get(key, ""), old) for key, old in zip(rule.inputs, given, strict=True)]
        zero = torch.zeros(BATCH, HIDDEN, dtype=torch.float64)
        last = torch.cat([torch.zeros_like(dy[t : TIME - 2]), dy[TIME - 2 : TIME - 1]])
        _, grads = rule.vjp((steps, *given[1:]), (last, *[zero] * (len(rule.outputs) - 1)))
        expected.append([d for key, d in zip(rule.inputs, grads, strict=True) if key in states(rule)])
    due = [torch.stack(state) for state in zip(*expected, strict=True)]
    assert_agrees(lambda *given: [*carried(rule, given[:-1], given[-1]).values()], (x, *others, dy), due)


@pytest.mark.parametrize(("scale", "start"), [(0.1, "vanishes"), (40.0, "explodes")])
def test_a_trace_says_how_the_gradient_fares(scale, start):
    network = recurrent(3, 200, 2, cell="rnn", nonlinearity="relu")
    params, state = network.init(torch.Generator().manual_seed(0), dtype=torch.float64)
    # on the diagonal nothing mixes, and with positive inputs no unit is dead: the gradient is multiplied by the scale
    params["layer1.weight_hh_l0"] = torch.eye(2, dtype=torch.float64) * scale
    params = {key: p.abs() if key != "layer1.weight_hh_l0" else p for key, p in params.items()}
    text = torch.zeros(1, 100, dtype=torch.int64)
    flow = gradient_flow(trace(network, params, state, text, text, "softmax_cross_entropy"))
    assert flow.verdict.startswith(f"layer1 through time: the gradient {start}: from step 100 back to step 1 ∂J/∂s")
    found = flow.through_time["layer1"]
    assert found.factor == pytest.approx(scale)
    assert list(found.norms) == [f"step {t}" for t in range(1, 101)]


def test_a_layer_without_states_has_no_flow_through_time():
    assert carried(RULES["linear"], [torch.ones(1, 1)], torch.ones(1, 1)) == {}
