"""Lockstep agrees, and names the layer and the rule when it does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import manual_bp as bp
from manual_bp.chain import Leaf, Residual
from manual_bp.lockstep import branches_differ, lockstep
from manual_bp.models import mlp, residual_mlp
from manual_bp.oracle.candidates import engine_factory
from manual_bp.training import adam, sgd
from manual_bp.training.data import Dataset

TORCH = engine_factory("torch")


def data(n=40, features=5, classes=3):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, features, generator=generator, dtype=torch.float64)
    return Dataset("made up", x, torch.randint(classes, (n,), generator=generator), (1, features))


def run(model, **options):
    return lockstep(model, data(), engine=TORCH, steps=3, batch_size=8, **options)


MODELS = {
    "notes": lambda: mlp([5, 6, 4, 3], "sigmoid", "sigmoid"),
    "maxout": lambda: mlp([5, 6, 3], "maxout", pieces=2),
    "residual": lambda: residual_mlp(6, 3, "elu", True, 0.25, inputs=5, outputs=3),
    "plain residual": lambda: residual_mlp(6, 2, "relu", False, 0.0, inputs=5, outputs=3),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_engines_agree(name, dtype, device):
    report = run(MODELS[name](), dtype=dtype, device=device)
    assert report.passed, report.verdict
    assert report.losses[0] != report.losses[-1]
    assert len(report.free_losses) == 3


def test_every_tensor_of_every_layer_is_judged():
    report = run(MODELS["residual"](), dtype=torch.float64)
    found = {(row.layer, row.quantity) for row in report.rows}
    for block in ("block1", "block2", "block3"):
        assert {(f"{block}.linear", q) for q in ("z", "delta", "dW", "db", "W", "b", "dx alone")} <= found
        norm = ("y", "dy", "dweight", "dbias", "weight", "bias", "running_mean", "running_var")
        assert {(f"{block}.batch_norm", q) for q in norm} <= found
        assert {(f"{block}.activation", q) for q in ("a", "da")} <= found
    assert ("loss", "J") in found


# A factor that is large against the allowance and small against the eye.
WRONG = 1.001


@pytest.mark.parametrize(
    ("rule", "cotangent", "layer"),
    [
        ("linear", 0, "linear3"),
        ("linear", 1, "linear3"),
        ("linear", 2, "linear3"),
        ("sigmoid", 0, "activation3"),
        ("square_loss", 0, "activation3"),
    ],
)
def test_wrong_backward_is_named(monkeypatch, rule, cotangent, layer):
    """Break one cotangent of one rule by hand; the sentence names the layer next to it, and the rule."""
    page = getattr(bp, rule).page
    right = page.backward

    def wrong(residuals, dy):
        grads = list(right(residuals, dy))
        grads[cotangent] = WRONG * grads[cotangent]
        return tuple(grads)

    monkeypatch.setattr(page, "backward", wrong)
    report = run(MODELS["notes"](), dtype=torch.float64)
    assert not report.passed
    assert report.disagreements[0].step == 1
    assert report.verdict.startswith("first disagreement in step 1")
    assert ("loss" if rule == "square_loss" else rule) in report.verdict
    assert any(d.layer == layer for d in report.disagreements if d.step == 1)


def test_wrong_running_statistics_are_named():
    model = MODELS["residual"]()
    wrong = model.map(lambda name, leaf: replace(leaf, momentum=0.2) if hasattr(leaf, "momentum") else leaf)
    report = run(replace(model, layer=wrong), dtype=torch.float64)
    assert {d.quantity for d in report.disagreements} == {"running_mean", "running_var"}


def test_a_flip_at_a_kink_is_seen():
    relu = Leaf(bp.relu)
    x = torch.tensor([1e-9, 1.0, -1.0])
    assert branches_differ(relu, x, torch.tensor([-1e-9, 1.0 + 1e-7, -1.0])).tolist() == [True, False, False]
    maxout = Leaf(bp.maxout, hyper={"pieces": 2})
    assert branches_differ(maxout, torch.tensor([[1.0, 1.0 - 1e-7]]), torch.tensor([[1.0 - 1e-7, 1.0]])).any()


def test_sixteen_bits_are_refused():
    with pytest.raises(ValueError, match=r"float64 or float32; came torch\.bfloat16"):
        run(MODELS["notes"](), dtype=torch.bfloat16)


@pytest.mark.parametrize("scale", [0.0, 0.9, -1.0])
def test_a_wrong_skip_is_found_between_the_layers(monkeypatch, scale):
    """float32, where the worst-case bound of a deep chain says nothing."""

    def backward(self, residuals, dy):
        dx, dparams = self.f.backward(residuals, dy)
        return scale * dy.detach() + dx, dparams

    monkeypatch.setattr(Residual, "backward", backward)
    report = run(MODELS["residual"](), dtype=torch.float32)
    assert not report.passed
    assert "the cause is between the layers: a residual connection" in report.verdict


def test_small_data_raise_no_false_alarm():
    """A gradient that is small because the data are: what the loss rounds is allowed for."""
    found = data()
    small = replace(found, x=found.x * 1e-6)
    report = lockstep(mlp([5, 3]), small, engine=TORCH, steps=3, batch_size=7, dtype=torch.float32)
    assert report.passed, report.verdict


def test_divergence_is_called_divergence():
    report = lockstep(
        mlp([5, 6, 3], "relu"), data(), engine=TORCH, steps=40, batch_size=8, optimizer=sgd(lr=1e4), dtype=torch.float32
    )
    assert not report.passed
    assert not report.disagreements
    assert report.verdict.startswith(f"training diverged in step {report.steps + 1}, in both engines: ")
    assert 0 < report.steps < 40


def test_one_engine_that_diverges_is_a_disagreement(monkeypatch):
    right = bp.linear.page.backward

    def wrong(residuals, dy):
        dx, dweight, dbias = right(residuals, dy)
        return dx, dweight * torch.inf, dbias

    monkeypatch.setattr(bp.linear.page, "backward", wrong)
    report = run(MODELS["notes"](), dtype=torch.float64)
    assert report.disagreements
    assert report.disagreements[0].layer != ""


def test_training_is_recorded():
    report = run(MODELS["plain residual"](), optimizer=adam(1e-3), l1=1e-3, clip_norm=0.5)
    assert report.passed, report.verdict
    assert report.to_dict()["training"]["optimizer"]["name"] == "adam"
    assert report.training["clip_norm"] == 0.5
    assert ("optimizer", "step") in {(row.layer, row.quantity) for row in report.rows}
