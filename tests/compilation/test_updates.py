"""Which updates are folded into a product, with which factors, and which are left alone."""

from __future__ import annotations

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from manual_bp.compilation import passes
from manual_bp.compilation.updates import add_product, fold
from manual_bp.models import mlp
from manual_bp.training import sgd, training_step
from tests.compilation.conftest import Interpreted

W = torch.arange(6, dtype=torch.float64).reshape(2, 3) + 1
D = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
X = torch.tensor([[1.0, 2.0, -1.0], [4.0, 0.0, 2.0]], dtype=torch.float64)
LR, L2 = 0.1, 0.01


def traced(function):
    return make_fx(function, tracing_mode="fake")(W, D, X)


def folded(function):
    module = traced(function)
    fold(module.graph, by_onednn=lambda product: False)
    return module


def nodes(module, target):
    return [node for node in module.graph.nodes if node.target is target]


UPDATES = {
    "plain": lambda w, d, x: w - LR * torch.mm(d.t(), x),
    "with decay": lambda w, d, x: w - LR * (torch.mm(d.t(), x) + L2 * w),
    "decay before the product": lambda w, d, x: w - LR * torch.addmm(L2 * w, d.t(), x),
    "ascent": lambda w, d, x: w + torch.mm(d.t(), x) * LR,
    "an average": lambda w, d, x: 0.9 * w + torch.mm(d.t(), x),
}


@pytest.mark.parametrize("update", UPDATES.values(), ids=UPDATES)
def test_an_update_is_one_call(update):
    expected = update(W, D, X)

    def in_place(w, d, x):
        w.copy_(update(w, d, x))
        return d.sum()

    module = folded(in_place)
    assert len(nodes(module, add_product)) == 1
    assert not nodes(module, torch.ops.aten.copy_.default)
    assert not nodes(module, torch.ops.aten.mm.default)
    weight = W.clone()
    Interpreted(module, set()).run(weight, D, X)
    torch.testing.assert_close(weight, expected)

    module = folded(lambda w, d, x: (update(w, d, x), d.sum()))
    (node,) = nodes(module, torch.ops.aten.addmm.default)
    assert node.kwargs.keys() == {"alpha", "beta"}
    torch.testing.assert_close(module(W, D, X)[0], expected)


OTHERS = {
    "the gradient is wanted too": lambda w, d, x: (lambda g: (w - LR * g, g))(torch.mm(d.t(), x)),
    "no product": lambda w, d, x: (w - LR * x, d.sum()),
    "two products": lambda w, d, x: (w - torch.mm(d.t(), x) - torch.mm(d, x), d.sum()),
    "another sum": lambda w, d, x: (w - LR * (torch.mm(d.t(), x) + w * x), d.sum()),
    "no weight": lambda w, d, x: (LR * torch.mm(d.t(), x), w.sum()),
    "two weights": lambda w, d, x: (w + x - LR * torch.mm(d.t(), x), d.sum()),
}


@pytest.mark.parametrize("function", OTHERS.values(), ids=OTHERS)
def test_anything_else_is_left_alone(function):
    before, after = traced(function), folded(function)
    assert not nodes(after, torch.ops.aten.addmm.default)
    assert len(before.graph.nodes) == len(after.graph.nodes)
    for one, other in zip(before(W, D, X), after(W, D, X), strict=True):
        assert torch.equal(one, other)


def test_a_product_of_onednn_is_folded_where_it_writes_into_the_weight():
    """What is returned is a sum of its own: oneDNN adds to what is there, and w is asked for as it was."""
    returned = traced(lambda w, d, x: (w - LR * torch.mm(d.t(), x), d.sum()))
    fold(returned.graph, by_onednn=lambda product: True)
    assert not nodes(returned, torch.ops.aten.addmm.default)
    in_place = traced(lambda w, d, x: (w.copy_(w - LR * torch.mm(d.t(), x)), d.sum())[1])
    fold(in_place.graph, by_onednn=lambda product: True)
    (node,) = nodes(in_place, add_product)
    assert node.args[-1] is True


def test_a_step_on_a_gpu_folds_every_update(device, built, monkeypatch, tmp_path):
    """Its graph takes another way to inductor than a step on the CPU."""
    folded_updates = []

    def counting(graph, by_onednn):
        fold(graph, by_onednn)
        folded_updates.append(sum(node.target is add_product for node in graph.nodes))

    monkeypatch.setattr(passes, "fold", counting)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    step = training_step(mlp([8, 8, 8, 8]), optimizer=sgd(0.1), l2=0.01, compiled=True, donate=True)
    state = step.init(torch.Generator().manual_seed(0), device=device)
    x, target = torch.randn(2, 4, 8, device=device)
    step(state, x, target)
    assert folded_updates == [3]
