"""The network of convolutions: names, options and composition against torch's own modules."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from manual_bp.chain import leaves, trace
from manual_bp.models import cnn
from manual_bp.training import adam, training_step
from manual_bp.training.gradient_flow import gradient_flow
from manual_bp.training.saturation import saturation
from tests.models.judged import worst_of_a_step
from tests.training.examples import paired
from torch_ref.models import CNN

IMAGE, OUTPUTS = (2, 5, 4), 3
OPTIONS = {
    "layers": [(3, "max", 2, "avg"), ("avg", 3, 4), (2,)],
    "kernel": [3, 1, 5],
    "activation": ["relu", "identity", "elu"],
    "batch_norm": [True, False],
    "dropout": [0.0, 0.3],
    "momentum": [0.1, None],
}


def images(n=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, *IMAGE, generator=generator, dtype=dtype), torch.arange(n) % OUTPUTS


@pytest.mark.parametrize(tuple(OPTIONS), paired(*OPTIONS.values()), ids=str)
def test_every_tensor_is_the_module_s(layers, kernel, activation, batch_norm, dropout, momentum):
    """Values, cotangents, gradients, updated parameters and moments of one step, within what rounding may do."""
    options = {"kernel": kernel, "batch_norm": batch_norm, "dropout": dropout, "momentum": momentum}
    model = cnn(IMAGE, OUTPUTS, layers, activation=activation, **options)
    assert worst_of_a_step(model, *images(), clip_norm=1.0, l2=1e-3, l1=1e-3, max_norm=0.5) <= 1


@pytest.mark.parametrize("batch_norm", [True, False])
def test_parameters_are_the_module_s(batch_norm):
    model = cnn(IMAGE, OUTPUTS, [3, "max", 4], batch_norm=batch_norm, momentum=None)
    params, state = model.init(torch.Generator().manual_seed(0))
    module = CNN(**model.config)
    assert {n: p.shape for n, p in params.items()} == {n: p.shape for n, p in module.named_parameters()}
    assert {n: b.shape for n, b in state.items()} == {n: b.shape for n, b in module.named_buffers()}
    assert ("block1.convolution.bias" in params) != batch_norm


def test_filters_begin_as_he_has_them():
    """A filter reads channels x 3 x 3 numbers."""
    params, _ = cnn((8, 3, 3), 2, [1000]).init(torch.Generator().manual_seed(0))
    # 72 000 draws: 5 σ of √(2/72000) · variance are 3 %
    assert float(params["block1.convolution.weight"].var()) == pytest.approx(2 / (8 * 9), rel=0.03)
    xavier, _ = cnn((8, 3, 3), 2, [24], activation="tanh").init(torch.Generator().manual_seed(0))
    bound = (6 / (8 * 9 + 24 * 9)) ** 0.5
    assert 0.97 * bound < float(xavier["block1.convolution.weight"].abs().max()) <= bound


def test_a_trace_shows_each_layer_by_name():
    model = cnn(IMAGE, OUTPUTS, [3, "max", 2], dropout=0.2)
    step = training_step(model, "softmax_cross_entropy", optimizer=adam())
    state, (x, target) = step.init(torch.Generator().manual_seed(0), dtype=torch.float64), images()
    found = trace(model, state.params, {**state.buffers, **step.masks(state, 4)}, x, target, "softmax_cross_entropy")
    assert list(found) == list(leaves(model))
    assert list(found) == [
        "block1.convolution",
        "block1.batch_norm",
        "block1.activation",
        "pool1",
        "block2.convolution",
        "block2.batch_norm",
        "block2.activation",
        "dropout",
        "output",
    ]
    assert set(found["block1.convolution"]) == {"z", "delta", "dW"}
    assert found["pool1"]["y"].shape == (4, 3, 2, 2)
    assert list(gradient_flow(found).norms) == ["block1.convolution", "block2.convolution", "output"]


def test_a_unit_of_an_image_is_a_channel():
    model = cnn(IMAGE, OUTPUTS, [3], batch_norm=False)
    params, state = model.init(torch.Generator().manual_seed(0), dtype=torch.float64)
    dead = replace(model.layer).layers["block1"]
    bias = torch.tensor([0.0, -1e3, 0.0], dtype=torch.float64)
    found = saturation(dead, {**params, "block1.convolution.bias": bias}, state, images()[0])
    layer = found.layers["activation"]
    assert (layer.units, layer.dead) == (3, 1)


def test_penalties_are_about_filters_too():
    model = cnn(IMAGE, OUTPUTS, [3])
    step = training_step(model, "softmax_cross_entropy", optimizer=adam(), max_norm=0.1)
    assert step.weights == ["block1.convolution.weight", "output.weight"]
    state, _ = step(step.init(torch.Generator().manual_seed(0), dtype=torch.float64), *images())
    lengths = state.params["block1.convolution.weight"].flatten(1).norm(dim=1)
    assert float(lengths.max()) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"image": (5, 4)}, "image must be channels, height and width; came"),
        ({"image": (1, 0, 4)}, "image and outputs must be at least 1"),
        ({"outputs": 0}, "image and outputs must be at least 1"),
        ({"kernel": 2}, "kernel must be odd"),
        ({"dropout": 1.0}, "0 ≤ p < 1"),
        ({"layers": [3, "mean"]}, r"a number of filters, or one of \['max', 'avg'\]; came 'mean'"),
        ({"layers": [0]}, "at least 1 filter"),
        ({"layers": ["max", "max", "max"]}, "a pooling must have 2 x 2 to pool; came 1 x 1"),
        ({"activation": "softmax"}, "of an image each number must have its own; came 'softmax'"),
    ],
)
def test_bad_options_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        cnn(**{"image": IMAGE, "outputs": OUTPUTS, **given})
