"""Which conditions a step keeps for backward."""

from __future__ import annotations

import torch
from torch.fx.experimental.proxy_tensor import make_fx

from manual_bp.compilation.residuals import keep_conditions, stored

X = torch.zeros(4, 4)


def kept(function):
    graph = make_fx(function, tracing_mode="fake")(X).graph
    keep_conditions(graph)
    graph.lint()
    order = list(graph.nodes)
    return [order.index(node) for node in order if node.target is stored], [str(node.target) for node in order]


def test_what_is_asked_behind_a_product_is_kept_before_it():
    def layer(x):
        z = x + 1
        a = torch.relu(z)
        return torch.where(z > 0, a @ x, 0)  # torch may have computed z > 0 only here

    (place,), order = kept(layer)
    assert order[place - 1] == "aten.gt.Scalar"
    assert place < order.index("aten.mm.default")


def test_what_is_asked_at_once_or_known_from_the_start_is_not_kept():
    assert kept(lambda x: torch.where(x + 1 > 0, x, 0) @ x)[0] == []
    assert kept(lambda x: torch.where(x > 0, x @ x, 0))[0] == []  # x is there anyway
    assert kept(lambda x: torch.where(x + 1 > 0, x, 0))[0] == []
