"""Numbers that every element is computed with are stored, and what stands in for GELU takes a bias with it."""

from __future__ import annotations

import torch

import manual_bp as bp
from manual_bp.compilation.numbers import stored
from tests.compilation.conftest import Interpreted, rewritten

aten = torch.ops.aten


def checked(function, *example):
    """The rewritten graph, which makes of the example what the function does."""
    graph = rewritten(function, list(example))
    for got, due in zip(Interpreted(graph, set()).run(*example), function(*example), strict=True):
        torch.testing.assert_close(got, due)
    return graph.graph


def test_a_power_that_all_elements_share_is_stored():
    def corrected(x, steps):
        share = 1 - 0.9 ** (steps + 1).double()
        return x / share, x.sum() * share

    (node,) = (n for n in checked(corrected, torch.ones(3, 5), torch.ones(())).nodes if n.target is stored)
    assert [user.target for user in node.users] == [aten.div.Tensor]


def test_a_bias_goes_with_gelu_and_another_sum_does_not():
    def layer(x, weight, bias, dy, other):
        z = x @ weight.T + bias
        y, residuals = bp.gelu.forward(z)
        return y, *bp.gelu.backward(residuals, dy), *bp.gelu.forward(x + other)[:1]

    drawn = [torch.randn(shape) for shape in ((2, 3, 4), (5, 4), (5,), (2, 3, 5), (2, 3, 4))]
    graph = checked(layer, *drawn)
    ops = torch.ops.manual_bp
    biases = [n.args[-1] for n in graph.nodes if n.target in (ops.gelu.default, ops.gelu_backward.default)]
    assert [bias is None for bias in biases].count(True) == 1
    assert [n.target for n in graph.nodes].count(aten.add.Tensor) == 1
