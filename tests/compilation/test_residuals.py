"""What backward asks of a ReLU, it asks of its output."""

from __future__ import annotations

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from manual_bp import RULES
from manual_bp.compilation.residuals import ask_outputs

NAN, INF = float("nan"), float("inf")
Z = torch.tensor([-1.0, -0.0, 0.0, 1e-45, 2.0, NAN, INF, -INF])


def asked(function):
    """The traced function, before and after, and whose sign it asks."""
    module = make_fx(function, tracing_mode="real")(Z, torch.ones_like(Z))
    expected = module(Z, torch.ones_like(Z))
    ask_outputs(module.graph)
    module.recompile()
    (condition,) = (node for node in module.graph.nodes if node.target is torch.ops.aten.gt.Scalar)
    return expected, module(Z, torch.ones_like(Z)), str(condition.args[0].target)


def relu(z, dy):
    y, residuals = RULES["relu"].page.forward(z)
    return (y, *RULES["relu"].page.backward(residuals, y + dy))


def leaky_relu(z, dy):
    return torch.where(z <= 0, 0.1 * z, z), torch.where(z > 0, dy, 0)


@pytest.mark.parametrize(("function", "whose"), [(relu, "aten.where.self"), (leaky_relu, "aten.add.Tensor")])
def test_the_sign_of_the_output(function, whose):
    def after_addition(z, dy):
        return function(z + 0, dy)

    expected, got, of = asked(after_addition)
    assert of == whose
    for e, g in zip(expected, got, strict=True):
        torch.testing.assert_close(g, e, rtol=0, atol=0, equal_nan=True)
