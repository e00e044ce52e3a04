"""One step by hand against torch.autograd and torch.optim."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import manual_bp as bp
from manual_bp.models import mlp, residual_mlp
from manual_bp.training import sgd, training_step
from tests.allowed import assert_agrees


def problem(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 4, generator=generator).to(dtype)
    return x, torch.randn(6, 3, generator=generator).to(dtype), generator


def test_step_is_torch_s_step():
    x, target, generator = problem()
    step = training_step(mlp([4, 5, 3], "tanh"), optimizer=sgd(lr=0.1), l2=0.01)
    state = step.init(generator, dtype=torch.float64)
    leaves = {name: p.clone().requires_grad_() for name, p in state.params.items()}
    hidden = torch.tanh(x @ leaves["W1"].T + leaves["b1"])
    y = hidden @ leaves["W2"].T + leaves["b2"]
    cost = (y - target).pow(2).sum() / 12 + 0.005 * (leaves["W1"].pow(2).sum() + leaves["W2"].pow(2).sum())
    cost.backward()
    torch.optim.SGD(leaves.values(), lr=0.1).step()

    def run(x, target, *params):
        given = replace(state, params=dict(zip(leaves, params, strict=True)))
        after, loss = step(given, x, target)
        return loss, *after.params.values()

    expected = (cost.detach(), *(p.detach() for p in leaves.values()))
    assert_agrees(run, (x, target, *state.params.values()), expected)


def test_old_state_stays_valid_and_a_step_can_be_repeated():
    x, target, generator = problem()
    step = training_step(residual_mlp(4, 2, "relu", True, 0.5, inputs=4, outputs=3), optimizer=sgd(lr=0.1))
    state = step.init(generator, dtype=torch.float64)
    copies = {name: p.clone() for name, p in (state.params | state.buffers).items()}
    first, loss = step(state, x, target)
    again, loss_again = step(state, x, target)
    assert torch.equal(loss, loss_again)
    assert all(torch.equal(first.params[name], again.params[name]) for name in first.params)
    assert all(torch.equal((state.params | state.buffers)[name], copy) for name, copy in copies.items())


def test_masks_differ_from_step_to_step():
    x, target, generator = problem()
    step = training_step(residual_mlp(64, 1, "relu", False, 0.5, inputs=4, outputs=3), optimizer=sgd(lr=0.1))
    state = step.init(generator, dtype=torch.float64)
    after, _ = step(state, x, target)
    (first,), (second,) = step.masks(state, 6).values(), step.masks(after, 6).values()
    assert not torch.equal(first, second)
    assert not set(after.buffers) & set(step.masks(state, 6))


def test_given_parameters_are_used():
    x, target, generator = problem()
    step = training_step(mlp([4, 3], "tanh"), optimizer=sgd(lr=0.1))
    params = {"W1": torch.zeros(3, 4), "b1": torch.zeros(3)}
    _, loss = step(step.init(generator, params=params, dtype=torch.float64), x, target)
    assert_agrees(lambda t: (bp.square_loss.forward(torch.zeros(6, 3, dtype=t.dtype), t)[0],), (target,), (loss,))
    with pytest.raises(ValueError, match=r"params must be named \['W1', 'b1'\]"):
        step.init(generator, params={"W1": params["W1"]})


def test_a_cost_of_16_bits_is_rounded_once_for_all_penalties():
    """One after another, 40 penalties of a hundredth of the cost round it 40 times, and the last ones hardly count."""
    model, lam = mlp([8] * 41, "tanh"), 0.01
    plain, penalised = (training_step(model, optimizer=sgd(0.1), l2=l2) for l2 in (0.0, lam))
    state = plain.init(torch.Generator().manual_seed(0), dtype=torch.bfloat16)
    x, target = torch.ones(2, 8, dtype=torch.bfloat16), 2 * torch.ones(2, 8, dtype=torch.bfloat16)
    (_, without), (_, cost) = (step(state, x, target) for step in (plain, penalised))
    exact = without.double() + lam / 2 * sum(state.params[name].double().pow(2).sum() for name in plain.weights)
    assert cost.dtype == torch.bfloat16
    # Each penalty is rounded, and so is their sum with the cost, each by half of eps.
    assert (cost.double() - exact).abs() <= torch.finfo(torch.bfloat16).eps * exact


def test_penalty_leaves_biases_and_scales_alone():
    step = training_step(residual_mlp(4, 1, "relu", True, inputs=4, outputs=3), optimizer=sgd(lr=0.1), l2=1.0)
    assert step.weights == ["input.weight", "block1.linear.weight", "output.weight"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: training_step(mlp([2, 2]), "relu", optimizer=sgd(lr=0.1)), "rule of the chapter loss"),
        (
            lambda: training_step(mlp([2, 2]), optimizer=sgd(lr=0.1), l2=-1.0),
            "l2 must be a finite number and not negative",
        ),
        (lambda: training_step(mlp([2, 2]), optimizer=sgd(lr=0.1), l1=float("nan")), "l1 must be a finite number"),
        (
            lambda: training_step(mlp([2, 2]), optimizer=sgd(lr=0.1), max_norm=0.0),
            "max_norm must be a finite number above",
        ),
        (
            lambda: training_step(mlp([2, 2]), optimizer=sgd(lr=0.1), clip_norm=-1.0),
            "clip_norm must be a finite number",
        ),
    ],
)
def test_bad_steps(make, message):
    with pytest.raises(ValueError, match=message):
        make()
