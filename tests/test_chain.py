"""Layers compose, and a trace shows the course notes' quantities."""

from __future__ import annotations

import pytest
import torch

import manual_bp as bp
from manual_bp.chain import activation, batch_norm, chain, dropout, inference, leaves, linear, residual, trace
from torch_ref import vjp

GENERATOR = torch.Generator().manual_seed(0)


def draw(*shape):
    return torch.randn(shape, generator=GENERATOR, dtype=torch.float64)


def close(got, expected):
    torch.testing.assert_close(got, expected)


def test_chain_is_the_composition():
    params = {"W": draw(3, 4), "b": draw(3)}
    layer = chain(z=linear(4, 3, weight="W", bias="b"), a=activation("tanh"))
    x, dy = draw(5, 4), draw(5, 3)
    y, residuals, state = layer.forward(params, {}, x)
    dx, dparams = layer.backward(residuals, dy)
    whole = vjp(lambda x, w, b: torch.tanh(x @ w.T + b))
    expected_y, expected = whole((x, params["W"], params["b"]), dy)
    close(y, expected_y)
    close((dx, dparams["W"], dparams["b"]), expected)
    assert state == {}


def test_shared_parameter_gets_the_sum():
    params = {"W": draw(4, 4), "b": draw(4)}
    twice = chain(first=linear(4, 4, weight="W", bias="b"), second=linear(4, 4, weight="W", bias="b"))
    x, dy = draw(5, 4), draw(5, 4)
    _, residuals, _ = twice.forward(params, {}, x)
    _, dparams = twice.backward(residuals, dy)
    _, (_, dw, db) = vjp(lambda x, w, b: (x @ w.T + b) @ w.T + b)((x, params["W"], params["b"]), dy)
    close((dparams["W"], dparams["b"]), (dw, db))


def test_residual_adds_the_cotangent():
    layer = residual(activation("relu"))
    x, dy = draw(5, 4), draw(5, 4)
    y, residuals, _ = layer.forward({}, {}, x)
    close(y, x + x.relu())
    close(layer.backward(residuals, dy)[0], dy + dy * (x > 0))


def test_residual_broadcasts_nothing():
    layer = residual(linear(4, 1, weight="W", bias="b"))
    with pytest.raises(ValueError, match="keep the shape"):
        layer.forward({"W": draw(1, 4), "b": draw(1)}, {}, draw(5, 4))


def test_running_statistics_are_torch_s():
    layer = batch_norm(3)
    params = {"weight": draw(3), "bias": draw(3)}
    state = {"running_mean": draw(3), "running_var": draw(3).abs()}
    module = torch.nn.BatchNorm1d(3).double()
    module.running_mean.copy_(state["running_mean"])
    module.running_var.copy_(state["running_var"])
    for _ in range(3):
        x = draw(6, 3)
        module(x)
        _, _, state = layer.forward(params, state, x)
    close(state["running_mean"], module.running_mean)
    close(state["running_var"], module.running_var)


def test_inference_uses_running_statistics_and_drops_nothing():
    layer = chain(norm=batch_norm(3), drop=dropout(3, 0.5))
    params = {"weight": draw(3), "bias": draw(3)}
    state = {"running_mean": draw(3), "running_var": draw(3).abs(), "mask": torch.zeros(2, 3, dtype=torch.bool)}
    x = draw(2, 3)
    y, residuals, after = inference(layer).forward(params, state, x)
    expected = torch.nn.functional.batch_norm(
        x, state["running_mean"], state["running_var"], params["weight"], params["bias"]
    )
    close(y, expected)
    assert after is state
    dx, dparams = inference(layer).backward(residuals, torch.ones_like(x))
    assert dx.shape == x.shape
    assert dparams.keys() == params.keys()


def test_names_are_nested_with_dots():
    layer = chain(block1=residual(chain(linear=linear(2, 2), act=activation("relu"))), out=linear(2, 1))
    assert list(leaves(layer)) == ["block1.linear", "block1.act", "out"]


def test_identity_is_no_leaf():
    assert list(leaves(chain(z=linear(2, 2), a=activation("identity")))) == ["z"]


def test_trace_is_the_notes_formulas():
    """delta(L) = (a(L) - y) σ'(z(L)) / n; delta(l) = (delta(l+1) W(l+1)) σ'(z(l)); dW = deltaᵀ a; db = Σ delta."""
    params = {"W1": draw(4, 3), "b1": draw(4), "W2": draw(2, 4), "b2": draw(2)}
    network = chain(
        linear1=linear(3, 4, weight="W1", bias="b1"),
        activation1=activation("sigmoid"),
        linear2=linear(4, 2, weight="W2", bias="b2"),
        activation2=activation("sigmoid"),
    )
    x, target = draw(5, 3), draw(5, 2)
    traced = trace(network, params, {}, x, target)
    y = {layer: torch.sigmoid(traced[layer]["z"]) for layer in ("linear1", "linear2")}
    slope = {layer: y[layer] * (1 - y[layer]) for layer in y}
    delta2 = (traced["activation2"]["a"] - target) / 5 * slope["linear2"]
    delta1 = (delta2 @ params["W2"]) * slope["linear1"]
    close(traced["linear2"]["delta"], delta2)
    close(traced["linear1"]["delta"], delta1)
    close(traced["linear2"]["dW"], delta2.T @ traced["activation1"]["a"])
    close(traced["linear1"]["dW"], delta1.T @ x)
    close(traced["linear1"]["db"], delta1.sum(0))


def test_sixteen_bits_pass_through():
    network = chain(z=linear(3, 3, weight="W", bias="b"), a=activation("elu"))
    params = {"W": draw(3, 3).bfloat16(), "b": draw(3).bfloat16()}
    y, residuals, _ = network.forward(params, {}, draw(4, 3).bfloat16())
    dx, dparams = network.backward(residuals, y)
    assert {t.dtype for t in (y, dx, *dparams.values())} == {torch.bfloat16}


def test_rules_are_what_runs():
    assert leaves(chain(a=activation("elu", alpha=2.0)))["a"].rule is bp.elu
