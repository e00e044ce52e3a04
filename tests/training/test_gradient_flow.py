"""Vanishing, exploding, underflow: on deltas made by hand and on networks."""

from __future__ import annotations

import doctest
import math

import pytest
import torch

from manual_bp.chain import trace
from manual_bp.models import mlp
from manual_bp.training import gradient_flow as page
from manual_bp.training.gradient_flow import gradient_flow, norm
from tests.allowed import assert_agrees


def deltas(*sizes, dtype=torch.float64):
    """A trace of one-unit layers whose δ are `sizes`, from input to output, with an activation between each."""
    traced = {}
    for index, size in enumerate(sizes, 1):
        traced[f"linear{index}"] = {"delta": torch.tensor([[size]], dtype=dtype)}
        traced[f"activation{index}"] = {"a": torch.ones(1, 1, dtype=dtype)}
    return traced


def test_the_docstring():
    assert doctest.testmod(page) == (0, 13)


def test_the_factor_is_the_geometric_mean():
    flow = gradient_flow(deltas(2.0**-18, 2.0**-3, 2.0**-2))
    assert flow.norms == {"linear1": 2.0**-18, "linear2": 2.0**-3, "linear3": 2.0**-2}
    assert flow.factor == 2.0**-8
    assert flow.underflow is None
    assert flow.verdict == (
        "the gradient vanishes: from linear3 back to linear1 δ shrinks from 0.25 to 3.8e-06, by 0.0039 per layer"
    )


def test_the_norm_is_torch_s():
    delta = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert_agrees(lambda t: ((t * t).sum().sqrt(),), (delta,), (torch.tensor(norm(delta), dtype=torch.float64),))


@pytest.mark.parametrize("size", [2.0**-1060, 2.0**1000])
def test_the_norm_of_what_cannot_be_squared(size):
    assert norm(torch.tensor([3 * size, 4 * size], dtype=torch.float64)) == 5 * size


@pytest.mark.parametrize(
    ("sizes", "start"),
    [
        ((1.0, 1.0, 1.0), "the gradient arrives: from linear3 back to linear1 δ goes from 1 to 1, by 1 per layer"),
        ((2e-3, 1.0), "the gradient arrives"),
        ((5e-4, 1.0), "the gradient vanishes"),
        ((5e2, 1.0), "the gradient arrives"),
        ((5e3, 1.0), "the gradient explodes: from linear2 back to linear1 δ grows from 1 to 5e+03, by 5e+03 per"),
        ((1e200, 1e-200), "the gradient explodes"),
        ((1.0,), "one layer: δ is 1"),
        ((0.0, 1.0), "the gradient vanishes: from linear2 back to linear1 δ shrinks from 1 to 0; from linear1 on it is "
                     "0 in float64, and was not on its way there: look for dead units"),
        ((0.0, 1e-300, 1.0), "the gradient vanishes: from linear3 back to linear1 δ shrinks from 1 to 0; from linear1 "
                             "on it is 0 in float64"),
        ((0.0, 0.0), "no gradient: δ is 0 already at the last layer, linear2"),
        ((1e-310, 1e-300, 1.0), "the gradient vanishes: from linear3 back to linear1 δ shrinks from 1 to 1e-310, by "
                                "1e-155 per layer; from linear1 on it is subnormal in float64"),
        ((math.inf, 1.0, 1.0), "the gradient is not finite: on its way back, δ is first inf at linear1"),
        ((math.nan, math.nan, 1.0), "the gradient is not finite: on its way back, δ is first nan at linear2"),
    ],
)  # fmt: skip
def test_verdicts(sizes, start):
    assert gradient_flow(deltas(*sizes)).verdict.startswith(start)


def test_underflow_on_the_way_is_not_called_cut_off():
    assert "dead units" not in gradient_flow(deltas(0.0, 1e-300, 1.0)).verdict


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_underflow_is_the_dtype_s(dtype):
    tiny = torch.finfo(dtype).smallest_normal
    assert gradient_flow(deltas(tiny / 2, tiny, 1.0, dtype=dtype)).underflow == "linear1"
    assert gradient_flow(deltas(tiny, tiny, 1.0, dtype=dtype)).underflow is None


def test_one_normal_element_is_no_underflow():
    traced = {"linear1": {"delta": torch.tensor([0.0, 1e-300, 1.0], dtype=torch.float64)}}
    assert gradient_flow(traced).underflow is None


def of(activation, depth=20):
    network = mlp([16] * (depth + 1), activation)
    generator = torch.Generator().manual_seed(0)
    params, state = network.init(generator)
    x, target = torch.randn(2, 32, 16, generator=generator)
    return gradient_flow(trace(network, params, state, x, target))


def test_a_deep_sigmoid_network_s_gradient_vanishes_and_relu_s_arrives():
    assert of("sigmoid").verdict.startswith("the gradient vanishes")
    assert of("sigmoid").factor <= 1 / 4
    assert of("relu").verdict.startswith("the gradient arrives")


def test_a_sigmoid_network_deep_enough_underflows():
    flow = of("sigmoid", depth=100)
    assert flow.underflow is not None
    assert "in float32" in flow.verdict


def test_no_layer():
    with pytest.raises(ValueError, match=r"a layer must have a δ; came \['activation1'\]\. Pass what chain.trace"):
        gradient_flow({"activation1": {"a": torch.ones(1)}})
    with pytest.raises(ValueError, match="came no layer"):
        gradient_flow({})


def test_no_example():
    assert (
        gradient_flow({"linear1": {"delta": torch.ones(0, 3)}, "linear2": {"delta": torch.ones(0, 2)}}).factor is None
    )
