"""Numbers that every element is computed with are stored."""

from __future__ import annotations

import torch

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
