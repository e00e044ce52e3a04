"""Losses at the end of a network: which rules are some, what targets they take, and what is said of others."""

from __future__ import annotations

import pytest
import torch

import manual_bp as bp
from manual_bp import losses
from manual_bp.chain import trace
from manual_bp.losses import Loss, one_hot
from manual_bp.models import mlp, residual_mlp
from manual_bp.training import sgd, training_step
from manual_bp.training.engine import allowance_of
from tests.compilation.conftest import trace_only
from tests.training.examples import off_defaults, targets

LOSSES = losses.names()
OF_CLASSES = [name for name in LOSSES if Loss(name).takes_classes]


def begun(loss, **options):
    step = training_step(mlp([4, 5, 3], "tanh"), loss, optimizer=sgd(0.1), **options)
    generator = torch.Generator().manual_seed(0)
    state = step.init(generator)
    x = torch.randn(7, 4, generator=generator)
    y, _, _ = step.model.forward(state.params, state.buffers, x)
    return step, state, x, y, targets(loss, y, generator, ignored=2)


@pytest.mark.parametrize("name", [name for name in bp.RULES if name not in LOSSES])
def test_what_is_no_loss_is_refused(name):
    with pytest.raises(
        ValueError, match=r"loss must be a rule of the chapter loss that takes x and a target"
    ) as caught:
        training_step(mlp([4, 3]), name, optimizer=sgd(0.1))
    assert str(LOSSES) in str(caught.value)


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_s_loss_is_the_rule_s(name):
    """With its defaults, and with each hyperparameter off its default: in the step, in a trace, in other words."""
    step, state, x, y, target = begun(name)
    seen = set()
    for hyper in ({}, *off_defaults(name)):
        expected, (dy, *_) = bp.RULES[name].vjp((y, target), torch.ones(()), **hyper)
        _, cost = training_step(step.model, name, optimizer=sgd(0.1), loss_hyper=hyper)(state, x, target)
        assert torch.equal(cost, expected)
        traced = trace(step.model, state.params, state.buffers, x, target, name, hyper)
        assert torch.equal(traced["linear2"]["delta"], dy)
        seen.add(float(cost))
    assert len(seen) == 1 + len(off_defaults(name))
    with pytest.raises(ValueError, match=r"hyperparameters are .*; came \['no_such'\]"):
        training_step(step.model, name, optimizer=sgd(0.1), loss_hyper={"no_such": 1})


@pytest.mark.parametrize("how", ["uncompiled", "traced", pytest.param("compiled", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("name", OF_CLASSES)
def test_targets_of_classes(name, how, monkeypatch):
    """A step says of a target that is none what is due, and a compiled step agrees with the other one.

    traced: the program that is compiled, as it was traced, which takes a second to make and not fifteen.
    """
    if how == "traced":
        trace_only(monkeypatch)
    step, state, x, _, target = begun(name, compiled=how != "uncompiled")
    after, cost = step(state, x, target)
    plain, expected = begun(name)[0](state, x, target)
    width = allowance_of(step, state, x, target, x.dtype, seed=0)
    assert (cost - expected).abs() <= 2 * width.loss
    assert all(((p - plain.params[n]).abs() <= 2 * width.params[n]).all() for n, p in after.params.items())
    hot = one_hot(target.clamp(min=0), 3, x.dtype)
    refused = {
        r"must be the number of each right class, int; came torch.float32, \(7, 3\).*target.argmax\(1\)": hot,
        r"0 to 2.*; came 3 at \[2\]": target.index_fill(0, torch.tensor([2]), 3),
        r"0 to 2.*; came -1 at \[6\]": target.index_fill(0, torch.tensor([6]), -1),
        r"target has axes .*; came x \(7, 3\), target \(6,\)": target[:6],
        r"target (has axes|must have 1 axis) .*; came x \(7, 3\), target \(7, 1\)": target[:, None],
    }
    for words, wrong in refused.items():
        with pytest.raises(ValueError, match=words):
            step(state, x, wrong)


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in OF_CLASSES])
def test_classes_where_numbers_are_due(name):
    step, state, x, *_ = begun(name)
    with pytest.raises(ValueError, match=r"must be numbers like the output's; came torch.int64, \(7,\)"):
        step(state, x, torch.zeros(7, dtype=torch.int64))


def test_the_usual_loss_depends_on_what_comes_last():
    scores = [mlp([4, 5, 3], "sigmoid"), residual_mlp(4, 2, inputs=5, outputs=3), residual_mlp(4, 2)]
    assert {model.usual_loss for model in scores} <= set(OF_CLASSES)
    assert mlp([4, 5, 3], "sigmoid", "sigmoid").usual_loss == "square_loss"


def test_targets_are_labels_or_one_of_as_many_numbers():
    labels = torch.tensor([2, 0, 1])
    for name in LOSSES:
        found = Loss(name).targets(labels, 3, torch.float64)
        assert found.equal(labels if name in OF_CLASSES else torch.eye(3, dtype=torch.float64)[labels])
