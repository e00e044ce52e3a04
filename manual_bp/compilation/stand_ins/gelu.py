"""GELU of float32 on the CPU: the page's formulas by one exponential, in C++ (gelu.h).

The page takes erfc for Φ and two exponentials for the density, and erfc is by far the dearest function of vectors.  Of
the same formulas as text a compiler, which may not fuse a product and a sum, made 1.5 times as many operations, and
called a library for the exponential: a quarter of a transformer's step was GELU.  A bias that is added to x is added on
the way, and its cotangent summed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from operator import getitem
from typing import Any, Literal

import torch
from torch import Tensor

from manual_bp.compilation.stand_ins import VIEWS
from manual_bp.rules.activation import gelu as page

aten = torch.ops.aten


def forward(x: Tensor, *, approximate: Literal["none", "tanh"] = "none") -> tuple[Tensor, page.Residuals]:
    if approximate != "none" or not _is_taken(x):
        return page.forward(x, approximate=approximate)
    return torch.ops.manual_bp.gelu(x, None), page.Residuals(x, approximate)


def backward(residuals: page.Residuals, dy: Tensor) -> tuple[Tensor]:
    x, approximate = residuals
    if approximate != "none" or not _is_taken(x):
        return page.backward(residuals, dy)
    return (torch.ops.manual_bp.gelu_backward(x, dy, None),)


def _is_taken(x: Tensor) -> bool:
    return x.dtype is torch.float32 and x.device.type == "cpu"


@torch.library.custom_op("manual_bp::gelu", mutates_args=(), tags=(torch.Tag.pointwise,))
def _forward(x: Tensor, bias: Tensor | None) -> Tensor:
    """Of x + bias, as the page where nothing is compiled."""
    y, _ = page.forward(_plus(x, bias))
    return y.contiguous()


@torch.library.custom_op("manual_bp::gelu_backward", mutates_args=())
def _backward(x: Tensor, dy: Tensor, bias: Tensor | None) -> Tensor:
    (dx,) = page.backward(page.Residuals(_plus(x, bias), "none"), dy)
    return dx.contiguous()


@torch.library.custom_op("manual_bp::gelu_backward_with_bias", mutates_args=())
def _backward_with_bias(x: Tensor, dy: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """And the cotangent of the bias."""
    dx = _backward(x, dy, bias)
    return dx, dx.reshape(-1, dx.shape[-1]).sum(0)


@_backward_with_bias.register_fake
def _(x: Tensor, dy: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), bias.new_empty(bias.shape)


def _plus(x: Tensor, bias: Tensor | None) -> Tensor:
    return x if bias is None else x + bias


@_forward.register_fake
@_backward.register_fake
def _(x: Tensor, *others: Any) -> Tensor:
    return x.new_empty(x.shape)


def rewrite(graph: torch.fx.Graph) -> None:
    """A bias that is added to x goes to the operation, so that the sum is never stored; so does its cotangent, the sum
    over all rows of dx."""
    for node in list(graph.nodes):
        if node.target in (torch.ops.manual_bp.gelu.default, torch.ops.manual_bp.gelu_backward.default):
            x, *others, bias = node.args
            if bias is None and x.target is aten.add.Tensor and not x.kwargs and _is_bias(*x.args):
                node.args = (x.args[0], *others, x.args[1])
            if others and node.args[-1] is not None:
                _sum_on_the_way(graph, node)
    graph.eliminate_dead_code()


def _sum_on_the_way(graph: torch.fx.Graph, node: Any) -> None:
    sums = [user for rows in (node, *_as_rows(node)) for user in rows.users if _is_over_rows(user)]
    if not sums:
        return
    with graph.inserting_before(node):
        both = graph.call_function(torch.ops.manual_bp.gelu_backward_with_bias.default, node.args)
        dx, dbias = (graph.call_function(getitem, (both, i)) for i in range(2))
    dx.meta["val"], dbias.meta["val"] = node.meta["val"], sums[0].meta["val"]
    both.meta["val"] = (dx.meta["val"], dbias.meta["val"])
    for each in sums:
        each.replace_all_uses_with(dbias)
    node.replace_all_uses_with(dx)


def _as_rows(node: Any) -> list[Any]:
    """The node as a matrix, of the same rows."""
    columns = node.meta["val"].shape[-1]
    views = [user for user in node.users if user.target in VIEWS]
    return [view for view in views if view.meta["val"].ndim == 2 and view.meta["val"].shape[-1] == columns]


def _is_over_rows(node: Any) -> bool:
    if node.target is not aten.sum.dim_IntList or node.kwargs:
        return False
    x, dim, *keepdim = node.args
    return list(dim) == [0] and x.meta["val"].ndim == 2 and not any(keepdim)


def _is_bias(x: Any, added: Any) -> bool:
    nodes = isinstance(x, torch.fx.Node) and isinstance(added, torch.fx.Node)
    return nodes and added.meta["val"].shape == x.meta["val"].shape[-1:] != x.meta["val"].shape


@cache
def lower() -> None:
    """Tells inductor, once."""
    from torch._inductor.lowering import register_lowering

    ops = torch.ops.manual_bp
    register_lowering(ops.gelu.default, type_promotion_kind=None)(lambda x, bias: _call("forward", [x], bias)[0])
    register_lowering(ops.gelu_backward.default, type_promotion_kind=None)(
        lambda x, dy, bias: _call("backward", [x, dy], bias)[0]
    )
    register_lowering(ops.gelu_backward_with_bias.default, type_promotion_kind=None)(
        lambda x, dy, bias: _call("backward_with_bias", [x, dy], bias, [bias])
    )


def _call(name: str, of_shape: list[Any], bias: Any, summed: Sequence[Any] = ()) -> tuple[Any, ...]:
    """What is written: of the shape of what is read, and of that of what is summed."""
    from torch._inductor import config
    from torch._inductor.ir import ExternKernel
    from torch._inductor.lowering import empty_strided
    from torch._inductor.utils import sympy_product

    from manual_bp.compilation.cpp import call_cpp, text

    how = {"dtype": torch.float32, "device": of_shape[0].get_device()}
    written = [empty_strided(t.get_size(), None, **how) for t in (of_shape[0], *summed)]
    read = [None if t is None else ExternKernel.require_contiguous(t) for t in (*of_shape, bias)]
    leading = [sympy_product(of_shape[0].get_size()), "0" if bias is None else str(bias.get_size()[0])]
    call_cpp(text("gelu.h"), f"gelu::{name}<{config.cpp.threads}>", leading, read, written)
    return tuple(written)
