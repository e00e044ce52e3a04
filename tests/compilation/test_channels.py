"""What there is of each channel is computed once, and not for each number of an image."""

from __future__ import annotations

import torch
from torch.fx.experimental.proxy_tensor import make_fx

from manual_bp.compilation.channels import once
from manual_bp.compilation.numbers import stored
from manual_bp.compilation.program import build
from tests.compilation.conftest import call_from_python

X, WEIGHT, SCALE = torch.zeros(2, 1, 9, 9), torch.zeros(4, 1, 2, 2), torch.zeros(4, 1, 1)


def normed(y, scale):
    centred = y - y.mean((0, 2, 3), keepdim=True)
    return centred * scale * centred.square().mean((0, 2, 3), keepdim=True).add(1e-5).rsqrt()


def stored_in(function, *given):
    graph = make_fx(function, tracing_mode="fake")(*given).graph
    once(graph)
    return {node.args[0].target for node in graph.nodes if node.target is stored}


def test_statistics_of_convolved_images_are_stored():
    """The mean and the factor; not what is given, nor a number, nor what is as large as the images."""
    convolved = stored_in(lambda x, weight, scale: 2 * normed(torch.conv2d(x, weight), scale), X, WEIGHT, SCALE)
    assert convolved == {torch.ops.aten.mean.dim, torch.ops.aten.rsqrt.default}


def test_without_a_convolution_nothing_is():
    assert not stored_in(normed, torch.zeros(2, 4, 8, 8), SCALE)


def test_results_of_a_program_called_from_python_lie_as_traced(monkeypatch):
    """And not with channels side by side: they may be given to a program again, which takes them for contiguous."""
    call_from_python(monkeypatch)
    given = [torch.randn(2, 20, 9, 8), torch.randn(5, 20, 3, 3)]
    (images,) = build(lambda x, weight: [torch.conv2d(x, weight)], given).run(given)
    assert images.is_contiguous()
