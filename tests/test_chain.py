"""Layers compose, and a trace shows the course notes' quantities."""

from __future__ import annotations

import pytest
import torch

import manual_bp as bp
from manual_bp.chain import (
    Identity,
    activation,
    batch_norm,
    chain,
    dropout,
    inference,
    joined,
    leaves,
    linear,
    residual,
    takers,
    trace,
)
from tests.allowed import assert_agrees
from torch_ref import vjp

GENERATOR = torch.Generator().manual_seed(0)


def draw(*shape):
    return torch.randn(shape, generator=GENERATOR, dtype=torch.float64)


def there_and_back(layer, names=()):
    """y, dx and the gradients of the named parameters, as a function of x, dy and these parameters."""

    def run(x, dy, *params):
        y, residuals, _ = layer.forward(dict(zip(names, params, strict=True)), {}, x)
        dx, dparams = layer.backward(residuals, dy)
        return y, dx, *(dparams[name] for name in names)

    return run


def test_chain_is_the_composition():
    layer = chain(z=linear(4, 3, weight="W", bias="b"), a=activation("elu"))
    x, dy, w, b = draw(5, 4), draw(5, 3), draw(3, 4), draw(3)
    y, grads = vjp(lambda x, w, b: torch.nn.functional.elu(x @ w.T + b))((x, w, b), dy)
    assert_agrees(there_and_back(layer, ("W", "b")), (x, dy, w, b), (y, *grads))


def test_shared_parameter_gets_the_sum():
    twice = chain(first=linear(4, 4, weight="W", bias="b"), second=linear(4, 4, weight="W", bias="b"))
    x, dy, w, b = draw(5, 4), draw(5, 4), draw(4, 4), draw(4)
    y, grads = vjp(lambda x, w, b: (x @ w.T + b) @ w.T + b)((x, w, b), dy)
    assert_agrees(there_and_back(twice, ("W", "b")), (x, dy, w, b), (y, *grads))


def test_branches_bring_back_their_sum():
    """One x in both places of a product, once behind a layer."""
    layer = joined("swiglu", {"gate": Identity(), "up": linear(3, 3, weight="W", bias="b")})
    x, dy, w, b = draw(4, 3), draw(4, 3), draw(3, 3), draw(3)
    y, grads = vjp(lambda x, w, b: torch.nn.functional.silu(x) * (x @ w.T + b))((x, w, b), dy)
    assert_agrees(there_and_back(layer, ("W", "b")), (x, dy, w, b), (y, *grads))


def test_what_takes_a_layer_s_result_is_known():
    block = residual(chain(norm=activation("tanh"), gated=joined("swiglu", {"gate": linear(2, 2), "up": linear(2, 2)})))
    assert takers(chain(first=linear(2, 2), block=block, last=linear(2, 1))) == {
        "first": ["block", "block.norm"],
        "block.norm": ["block.gated.gate", "block.gated.up"],
        "block.gated.gate": ["block.gated"],
        "block.gated.up": ["block.gated"],
        "block.gated": ["block"],
        "block": ["last"],
        "last": [],
    }


def test_residual_adds_the_cotangent():
    x, dy = draw(5, 4), draw(5, 4)
    assert_agrees(there_and_back(residual(activation("relu"))), (x, dy), (x + x.relu(), dy + dy * (x > 0)))


def test_residual_broadcasts_nothing():
    layer = residual(linear(4, 1, weight="W", bias="b"))
    with pytest.raises(ValueError, match=r"add: .* Nothing is broadcast"):
        layer.forward({"W": draw(1, 4), "b": draw(1)}, {}, draw(5, 4))


@pytest.mark.parametrize("momentum", [0.1, 0.75, 1.0, None], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_running_statistics_are_torch_s(momentum, dtype):
    """Over five batches of different sizes, in both conventions; None is the average over all batches."""
    layer = batch_norm(3, momentum=momentum)
    xs = [draw(size, 3).to(dtype) for size in (6, 2, 5, 9, 4)]
    mean, var = draw(3).to(dtype), draw(3).abs().to(dtype)
    module = torch.nn.BatchNorm1d(3, momentum=momentum).to(dtype)
    module.running_mean.copy_(mean)
    module.running_var.copy_(var)
    counts = []

    def run(weight, bias, mean, var, *xs):
        state = {"running_mean": mean, "running_var": var, "num_batches_tracked": torch.tensor(0)}
        found = []
        for x in xs:
            _, _, state = layer.forward({"weight": weight, "bias": bias}, state, x)
            found += [state["running_mean"], state["running_var"]]
        counts.append(state["num_batches_tracked"])
        return found

    expected = []
    for x in xs:
        module(x)
        expected += [module.running_mean.clone(), module.running_var.clone()]
    assert_agrees(run, (draw(3).to(dtype), draw(3).to(dtype), mean, var, *xs), expected)
    assert counts[0] == (module.num_batches_tracked if momentum is None else 0)
    assert counts[0].dtype == module.num_batches_tracked.dtype


def test_the_cumulative_average_counts_every_batch_alike():
    layer = batch_norm(3, momentum=None)
    state = {"running_mean": draw(3), "running_var": draw(3), "num_batches_tracked": torch.tensor(0)}
    xs, weight, bias = draw(4, 6, 3), draw(3), draw(3)

    def run(*xs):
        after = state
        for x in xs:
            _, _, after = layer.forward({"weight": weight, "bias": bias}, after, x)
        return after["running_mean"], after["running_var"]

    means, variances = xs.mean(1), xs.var(1)
    assert_agrees(run, tuple(xs), (means.mean(0), variances.mean(0)))


def test_a_batch_without_values_leaves_the_statistics_alone():
    layer, module = batch_norm(3, momentum=None), torch.nn.BatchNorm1d(3, momentum=None)
    empty = torch.zeros(0, 3)
    module(empty)
    state = {"running_mean": torch.zeros(3), "running_var": torch.ones(3), "num_batches_tracked": torch.tensor(0)}
    _, _, after = layer.forward({"weight": torch.ones(3), "bias": torch.zeros(3)}, state, empty)
    assert {name: tensor.tolist() for name, tensor in after.items()} == {
        name: tensor.tolist() for name, tensor in module.named_buffers()
    }


def test_inference_uses_running_statistics_and_drops_nothing():
    layer = inference(chain(norm=batch_norm(3), drop=dropout(3, 0.5)))
    x, weight, bias, mean, var = draw(2, 3), draw(3), draw(3), draw(3), draw(3).abs()

    def run(x, weight, bias, mean, var):
        state = {"running_mean": mean, "running_var": var, "mask": torch.zeros(2, 3, dtype=torch.bool)}
        y, residuals, after = layer.forward({"weight": weight, "bias": bias}, state, x)
        assert after is state
        dx, dparams = layer.backward(residuals, x)
        return y, dx, dparams["weight"], dparams["bias"]

    whole = vjp(lambda x, w, b: torch.nn.functional.batch_norm(x, mean, var, w, b))
    y, grads = whole((x, weight, bias), x)
    assert_agrees(run, (x, weight, bias, mean, var), (y, *grads))


def test_names_are_nested_with_dots():
    layer = chain(block1=residual(chain(linear=linear(2, 2), act=activation("relu"))), out=linear(2, 1))
    assert list(leaves(layer)) == ["block1.linear", "block1.act", "block1", "out"]


def test_identity_is_no_leaf():
    assert list(leaves(chain(z=linear(2, 2), a=activation("identity")))) == ["z"]


def test_trace_is_the_notes_formulas():
    """delta(L) = (a(L) - y) σ'(z(L)) / n; delta(l) = (delta(l+1) W(l+1)) σ'(z(l)); dW = deltaᵀ a; db = Σ delta."""
    network = chain(
        linear1=linear(3, 4, weight="W1", bias="b1"),
        activation1=activation("sigmoid"),
        linear2=linear(4, 2, weight="W2", bias="b2"),
        activation2=activation("sigmoid"),
    )
    x, target, w1, b1, w2, b2 = draw(5, 3), draw(5, 2), draw(4, 3), draw(4), draw(2, 4), draw(2)

    def run(x, target, w1, b1, w2, b2):
        layers = trace(network, {"W1": w1, "b1": b1, "W2": w2, "b2": b2}, {}, x, target)
        return [layers[name][letter] for name in ("linear1", "linear2") for letter in ("z", "delta", "dW", "db")]

    z1 = x @ w1.T + b1
    a1 = torch.sigmoid(z1)
    z2 = a1 @ w2.T + b2
    a2 = torch.sigmoid(z2)
    delta2 = (a2 - target) / 5 * a2 * (1 - a2)
    delta1 = (delta2 @ w2) * a1 * (1 - a1)
    first, second = (z1, delta1, delta1.T @ x, delta1.sum(0)), (z2, delta2, delta2.T @ a1, delta2.sum(0))
    assert_agrees(run, (x, target, w1, b1, w2, b2), (*first, *second))


def test_sixteen_bits_pass_through():
    network = chain(z=linear(3, 3, weight="W", bias="b"), a=activation("elu"))
    params = {"W": draw(3, 3).bfloat16(), "b": draw(3).bfloat16()}
    y, residuals, _ = network.forward(params, {}, draw(4, 3).bfloat16())
    dx, dparams = network.backward(residuals, y)
    assert {t.dtype for t in (y, dx, *dparams.values())} == {torch.bfloat16}


def test_rules_are_what_runs():
    assert leaves(chain(a=activation("elu", alpha=2.0)))["a"].rule is bp.elu
