"""Saturation of every activation, by hand."""

from __future__ import annotations

import doctest
import math

import pytest
import torch

import manual_bp as bp
from manual_bp.chain import activation, batch_norm, chain, fits_activation, linear, residual
from manual_bp.models import mlp, residual_mlp
from manual_bp.training import saturation as page
from manual_bp.training.saturation import FLAT, saturation

ACTIVATIONS = [name for name, rule in bp.RULES.items() if fits_activation(rule)]


def of(name, z, **hyper):
    """One activation layer alone, over z (examples, units)."""
    found = saturation(chain(one=activation(name, **hyper)), {}, {}, torch.tensor(z, dtype=torch.float64))
    return found.layers["one"], found.verdict


def test_the_docstring():
    assert doctest.testmod(page) == (0, 6)


@pytest.mark.parametrize(
    ("name", "where"),
    [("sigmoid", math.log(39 + math.sqrt(39**2 - 1))), ("tanh", math.atanh(math.sqrt(1 - FLAT)))],
)
def test_flat_begins_where_the_slope_is_a_twentieth(name, where):
    """4 s (1 − s) = 1/20 is cosh z = 39; 1 − t² = 1/20 is t = √(19/20)."""
    just = 1 + 1e-9  # far beyond rounding, far below what the docstring says
    found, _ = of(name, [[where / just, -where / just, 0.0], [where * just, -where * just, 0.0]])
    assert found.both_sides
    assert (found.flat, found.stuck, found.dead) == (2 / 6, 0.0, 0)


def test_relu_is_lost_only_where_it_is_closed_for_every_example():
    found, verdict = of("relu", [[-1.0, 1.0, -1.0, 0.0], [-2.0, -1.0, 1.0, -0.0]])
    assert (found.units, found.flat, found.stuck, found.dead, found.share) == (4, 6 / 8, 2 / 4, 2, 2 / 4)
    assert verdict == "one (relu): 2 of 4 units are dead, without gradient from any of 2 examples"


def test_half_a_relu_layer_closed_is_as_it_should_be():
    found, verdict = of("relu", [[-1.0, 1.0], [1.0, -1.0]])
    assert (found.flat, found.share) == (0.5, 0.0)
    assert verdict == "no saturation, which of relu would be dead units: each gets a gradient from some of 2 examples"


@pytest.mark.parametrize(
    ("name", "hyper", "lost"),
    [
        ("sigmoid", {}, "saturated values"),
        ("relu", {}, "dead units"),
        ("elu", {}, "units stuck in the flat part"),
        ("leaky_relu", {}, "units stuck in the flat part"),
        ("leaky_relu", {"negative_slope": 0.0}, "dead units"),
        ("maxout", {"pieces": 2}, "pieces that never win"),
    ],
)
def test_what_is_lost_is_called_what_it_is(name, hyper, lost):
    assert of(name, [[1.0, 2.0], [3.0, 2.0]], **hyper)[0].lost == lost


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if not bp.RULES[name].elementwise])
def test_units_that_share_inputs_are_dead_or_have_losing_pieces(name):
    hyper = bp.RULES[name].ordinary
    width = activation(name, **hyper).inputs_for(2)
    assert of(name, [[1.0] * width], **hyper)[0].lost == ("dead units" if width == 2 else "pieces that never win")


def test_one_is_singular():
    assert of("relu", [[-1.0, 1.0]])[1] == "one (relu): 1 of 2 units is dead, without gradient from any of 1 example"


def test_elu_far_to_the_left_is_stuck_and_alive():
    found, verdict = of("elu", [[-4.0, -4.0, 1.0], [-5.0, -6.0, -4.0]])
    assert (found.stuck, found.dead) == (2 / 3, 0)
    assert verdict == "one (elu) is saturated: 67 % of its units are flat for all of 2 examples"
    assert of("elu", [[-2.9], [-2.9]])[0].flat == 0
    # with alpha = 4 the steepest slope is 4, so that flat begins where 4 e^z is 4/20, and the right side has 1
    assert of("elu", [[-2.9, -3.1, 1.0]], alpha=4.0)[0].flat == 1 / 3


@pytest.mark.parametrize(("slope", "flat"), [(0.01, 0.5), (0.2, 0.0), (-0.01, 0.5), (-0.2, 0.0)])
def test_leaky_relu_is_flat_where_its_slope_is_small_and_never_dead(slope, flat):
    found, _ = of("leaky_relu", [[-1.0, 1.0]], negative_slope=slope)
    assert (found.flat, found.dead) == (flat, 0)


def test_maxout_is_never_flat_and_a_piece_that_never_wins_is_dead():
    found, verdict = of("maxout", [[1.0, 2.0, 0.0, 5.0, 1.0, 2.0], [3.0, 2.0, 0.0, 1.0, 2.0, 0.0]], pieces=3)
    assert (found.units, found.flat, found.dead, found.share) == (6, 0.0, 2, 2 / 6)
    assert verdict == ("one (maxout): 2 of 6 pieces never win: they are dead, without gradient from any of 2 examples")


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_is_judged_and_is_alive_near_0(name):
    z = torch.randn(64, 12, generator=torch.Generator().manual_seed(0)).tolist()
    found, verdict = of(name, z, **bp.RULES[name].ordinary)
    assert found.share < 0.1, verdict
    assert verdict.startswith("no saturation")


def test_what_enters_an_activation_is_what_is_judged():
    """Behind batch norm, behind a residual connection, and at the input."""
    layer = chain(
        first=activation("sigmoid"),
        block=residual(chain(linear=linear(3, 3), norm=batch_norm(3, prefix="n."), inner=activation("tanh"))),
        outer=activation("sigmoid"),
    )
    params = {
        "weight": torch.zeros(3, 3),
        "bias": torch.zeros(3),
        "n.weight": torch.zeros(3),
        "n.bias": torch.ones(3) * 9,
    }
    state = {"n.running_mean": torch.zeros(3), "n.running_var": torch.ones(3)}
    found = saturation(layer, params, state, 9 * torch.ones(5, 3)).layers
    assert {name: each.flat for name, each in found.items()} == {"first": 1.0, "block.inner": 1.0, "outer": 0.0}
    # 1 + tanh(9) = 2 enters the last one


def test_a_saturated_network_is_said_to_be():
    network = mlp([8, 16, 16, 2], "tanh")
    params, state = network.init(torch.Generator().manual_seed(0))
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(1))
    assert saturation(network, params, state, x).verdict.startswith("no saturation")
    found = saturation(network, {**params, "W2": 50 * params["W2"]}, state, x)
    assert "activation2 (tanh) is saturated" in found.verdict
    assert "activation1" not in found.verdict
    assert found.examples == 50


def test_dropout_masks_and_inference():
    model = residual_mlp(4, 1, "relu", True, 0.5, inputs=4, outputs=2)
    generator = torch.Generator().manual_seed(0)
    params, state = model.init(generator)
    x = torch.randn(6, 4, generator=generator)
    assert list(saturation(model.inference(), params, state, x).layers) == ["block1.activation"]
    assert list(saturation(model, params, {**state, **model.draw_masks(6, generator)}, x).layers) == [
        "block1.activation"
    ]


def test_nan_is_said():
    found, verdict = of("sigmoid", [[math.nan, 0.0]])
    assert found.undefined == 1
    assert verdict == "one (sigmoid) cannot be judged: 1 of its inputs is NaN"


def test_no_activation_and_no_unit():
    assert saturation(chain(), {}, {}, torch.ones(2, 3)).verdict == "there is no activation"
    assert saturation(chain(one=activation("relu")), {}, {}, torch.ones(2, 0)).layers["one"].share == 0


def test_no_example():
    with pytest.raises(ValueError, match=r"there must be an example; came x \(0, 3\)"):
        saturation(chain(), {}, {}, torch.ones(0, 3))
