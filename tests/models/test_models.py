"""Models: names, shapes and initial values; and every layer against its twin, alone and in the chain."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import manual_bp as bp
from manual_bp.chain import activation as activation_layer
from manual_bp.chain import fits_activation, leaves, probe
from manual_bp.lockstep import visit_case
from manual_bp.models import mlp, residual_mlp
from manual_bp.models.initialization import suited_to
from manual_bp.oracle import compare
from manual_bp.training import sgd, training_step
from torch_ref.models import MODELS

ACTIVATIONS = [name for name, rule in bp.RULES.items() if fits_activation(rule)]
KINDS = ["mlp", "residual_mlp"]
FLOATS = [torch.float64, torch.float32, torch.bfloat16]


def hyper(activation):
    """What has no default."""
    rule = bp.RULES[activation]
    return {name: value for name, value in rule.ordinary.items() if name not in rule.defaults}


def build(kind, activation):
    if kind == "mlp":
        return mlp([5, 6, 4, 3], activation, **hyper(activation))
    return residual_mlp(4, 3, activation, True, 0.3, inputs=5, outputs=3, **hyper(activation))


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


EVERY = [
    (activation, kind, dtype)
    if (kind == KINDS[0] and dtype is torch.float32) or activation == ACTIVATIONS[0]
    else pytest.param(activation, kind, dtype, marks=pytest.mark.exhaustive)
    for activation, kind, dtype in itertools.product(ACTIVATIONS, KINDS, FLOATS)
]


@pytest.mark.parametrize(("activation", "kind", "dtype"), EVERY, ids=str)
def test_each_layer_alone(kind, activation, dtype, device):
    """Each layer judged by its own evidence at the inputs and the cotangent that it has within the chain."""
    model = build(kind, activation)
    generator = torch.Generator().manual_seed(1)
    params, state = model.init(generator, dtype=dtype, device=device)
    x = torch.randn(7, 5, generator=generator).to(device, dtype)
    probed, log = probe(model)
    y, residuals, _ = probed.forward(params, {**state, **model.draw_masks(7, generator, device)}, x)
    probed.backward(residuals, torch.randn(y.shape, generator=generator).to(device, dtype))
    assert list(log) == list(leaves(model))
    for name, visit in log.items():
        report = compare(None, visit.leaf.rule, dtype=dtype, device=device, cases=[visit_case(visit, name)])
        assert not report.mismatches, f"{name}: {report}"
        assert report.cases == 1


def test_counted_batches_are_the_module_s():
    model = residual_mlp(4, 2, "relu", inputs=5, outputs=3, momentum=None)
    _, state = model.init(torch.Generator().manual_seed(0), dtype=torch.float64)
    module = MODELS[model.name](**model.config).double()
    assert {n: (b.shape, b.dtype) for n, b in state.items()} == {
        n: (b.shape, b.dtype) for n, b in module.named_buffers()
    }


@pytest.mark.parametrize("name", [name for name in bp.RULES if name not in ACTIVATIONS])
def test_what_is_no_activation_is_refused(name):
    with pytest.raises(ValueError, match=f"a rule of one input, x, .*; came '{name}', which takes") as caught:
        mlp([5, 4, 3], name)
    assert all(repr(taken) in str(caught.value) for taken in bp.RULES[name].inputs)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_trains(activation):
    """As a hidden one and as the last one, with the loss that goes with it."""
    for last in ("identity", activation):
        model = mlp([5, 6, 3], activation, last, **hyper(activation))
        step = training_step(model, model.usual_loss, optimizer=sgd(0.01))
        state = step.init(torch.Generator().manual_seed(0), dtype=torch.float64)
        x = torch.rand(12, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        target = step.loss.targets(torch.arange(12) % 3, 3, torch.float64)
        state, first = step(state, x, target)
        for _ in range(10):
            state, cost = step(state, x, target)
        assert cost < first, last


def test_initial_weights_suit_the_activation():
    """He's where one side is cut off or damped, or all but a winner; Xavier's where both sides are alike."""
    suited = {name: suited_to(activation_layer(name, **hyper(name))) for name in ACTIVATIONS}
    assert {suited[name] for name in ("relu", "leaky_relu", "elu", "maxout")} == {"he"}
    assert {suited[name] for name in ("sigmoid", "tanh")} == {"xavier"}
    assert suited_to(activation_layer("identity")) == "xavier"


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_parameters_are_the_module_s(kind, activation):
    model = build(kind, activation)
    params, state = model.init(torch.Generator().manual_seed(0))
    module = MODELS[model.name](**model.config)
    assert {n: p.shape for n, p in params.items()} == {n: p.shape for n, p in module.named_parameters()}
    buffers = {n: b.shape for n, b in module.named_buffers() if b.is_floating_point()}
    assert {n: b.shape for n, b in state.items()} == buffers


def test_names_of_an_mlp():
    params, state = mlp([4, 3, 2], "tanh").init(torch.Generator().manual_seed(0))
    assert {name: tuple(p.shape) for name, p in params.items()} == {"W1": (3, 4), "b1": (3,), "W2": (2, 3), "b2": (2,)}
    assert state == {}


def test_a_seed_means_the_same_parameters():
    first, second = (build("mlp", "relu").init(torch.Generator().manual_seed(7))[0] for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("initializer", "variance"), [("xavier", 2 / (300 + 200)), ("he", 2 / 300)])
def test_initial_variance(initializer, variance):
    params, _ = mlp([300, 200], "tanh").init(torch.Generator().manual_seed(0), initializer=initializer)
    # 60 000 draws: the sample variance is within 3 % of the variance except once in 10^6 (5 σ of √(2/60000) · variance)
    assert math.isclose(float(params["W1"].var()), variance, rel_tol=0.03)
    assert not params["b1"].any()


def test_masks_keep_with_probability_one_minus_p():
    model = residual_mlp(200, 1, "relu", False, 0.3)
    (mask,) = model.draw_masks(200, torch.Generator().manual_seed(0)).values()
    assert mask.dtype is torch.bool
    # 40 000 draws with variance 0.21: 5 σ is 0.0115
    assert abs(float(mask.double().mean()) - 0.7) < 0.0115


def test_without_projections_the_width_stays():
    model = residual_mlp(4, 2, "relu", False, 0.0)
    params, _ = model.init(torch.Generator().manual_seed(0))
    y, _, _ = model.forward(params, {}, torch.ones(3, 4))
    assert y.shape == (3, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mlp([4]), "at least an input and an output size"),
        (lambda: mlp([4, 0, 2]), "all ≥ 1"),
        (lambda: mlp([4, 3, 2], "rleu"), "Did you mean relu"),
        (lambda: residual_mlp(0, 2), "width and depth"),
        (lambda: residual_mlp(4, 2, dropout=1.0), "0 ≤ p < 1"),
        (lambda: mlp([4, 2]).init(torch.Generator(), initializer="orthogonal"), "initializer must be one of"),
    ],
)
def test_bad_models(make, message):
    with pytest.raises(ValueError, match=message):
        make()
