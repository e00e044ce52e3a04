"""nn.Modules as candidates: parameters and buffers are inputs by name, and the module is left as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from manual_bp.oracle import compare
from torch_ref import vjp


def state(module):
    return {name: x.clone() for name, x in module.state_dict().items()}


@pytest.mark.parametrize(
    ("module", "rule", "options"),
    [
        pytest.param(nn.Linear(4, 3), "linear", {}, marks=pytest.mark.exhaustive),
        (nn.Sequential(nn.Linear(2, 7)), "linear", {}),
        (nn.BatchNorm1d(5), "batch_norm", {"ndim": 3}),  # of matrices torch itself misreads a weight with strides
        pytest.param(nn.BatchNorm2d(5), "batch_norm", {"ndim": 4}, marks=pytest.mark.exhaustive),
        (nn.BatchNorm1d(5).eval(), "batch_norm_inference", {"ndim": (2, 3)}),
        pytest.param(nn.LeakyReLU(), "leaky_relu", {}, marks=pytest.mark.exhaustive),
        (nn.Sequential(nn.ELU()), "elu", {}),
        (nn.LayerNorm(5), "layer_norm", {}),  # without weight and bias too, as one made so is
    ],
    ids=str,
)
def test_a_module_is_right(module, rule, options):
    before, training = state(module), module.training
    report = compare(vjp(module), rule, dtype=torch.float64, **options)
    assert report.passed, str(report)
    assert module.training == training
    assert all(torch.equal(x, before[name]) for name, x in state(module).items())


def test_training_and_inference_are_told_apart():
    x, one, zero = torch.tensor([[1.0], [3.0]]), torch.ones(1), torch.zeros(1)
    names = ["x", "weight", "bias", "running_mean", "running_var"]
    for training, y in ((True, [-1.0, 1.0]), (False, [1.0, 3.0])):
        found, _ = vjp(nn.BatchNorm1d(6).train(training), inputs=names)((x, one, zero, zero, one), torch.ones(2, 1))
        assert found.flatten().tolist() == pytest.approx(y, abs=1e-4)


def test_a_layer_norm_of_another_size():
    x, weight, dy = (torch.randn(shape, dtype=torch.float64) for shape in ((2, 6), (6,), (2, 6)))
    y, grads = vjp(nn.LayerNorm(4), inputs=["x", "weight", "bias"])((x, weight, weight), dy, eps=0.5)
    assert torch.equal(y, nn.functional.layer_norm(x, (6,), weight, weight, 0.5))
    assert [tuple(g.shape) for g in grads] == [(2, 6), (6,), (6,)]


def test_names_of_its_own():
    class Affine(nn.Module):
        def __init__(self):
            super().__init__()
            self.gamma, self.beta = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))

        def forward(self, x):
            return x @ self.gamma.T + self.beta

    with pytest.raises(ValueError, match=r"Affine takes no weight, bias: .* are \['gamma', 'beta'\]"):
        compare(vjp(Affine()), "linear")
    assert compare(vjp(Affine(), inputs=["x", "gamma", "beta"]), "linear", ndim=2, min_size=1).passed


@pytest.mark.parametrize(
    ("module", "rule", "words"),
    [
        (nn.Dropout(), "dropout", "Dropout draws its own mask, .*write the function with its mask"),
        (nn.Linear(4, 3, bias=False), "linear", "Linear takes no bias"),
        (nn.BatchNorm1d(3, affine=False), "batch_norm", "BatchNorm1d takes no weight, bias"),
        (
            nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)),
            "linear",
            r"'weight' may be any of \['0.weight', '1.weight'\]",
        ),
        (nn.Bilinear(2, 2, 2), "relu", r"forward takes \['input1', 'input2'\]; of the inputs \['x'\]"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_in_words(module, rule, words):
    with pytest.raises(ValueError, match=words):
        compare(vjp(module), rule)


def test_hyperparameters_need_no_names():
    (x,), dy = (torch.tensor([-1.0]),), torch.ones(1)
    y, _ = vjp(nn.ELU())((x,), dy, alpha=2.0)
    assert y.item() == pytest.approx(2 * torch.expm1(x).item())
    with pytest.raises(TypeError, match="ELU takes no beta"):
        vjp(nn.ELU())((x,), dy, beta=2.0)
