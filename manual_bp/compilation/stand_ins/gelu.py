"""GELU of float32 on the CPU: the page's formulas by one exponential, in C++ (gelu.h).

The page takes erfc for Φ and two exponentials for the density, and erfc is by far the dearest function of vectors.  Of
the same formulas as text a compiler, which may not fuse a product and a sum, made 1.5 times as many operations, and
called a library for the exponential: a quarter of a transformer's step was GELU.  A bias that is added to x is added on
the way.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

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


@torch.library.custom_op("manual_bp::gelu", mutates_args=())
def _forward(x: Tensor, bias: Tensor | None) -> Tensor:
    """Of x + bias, as the page where nothing is compiled."""
    y, _ = page.forward(_plus(x, bias))
    return y.contiguous()


@torch.library.custom_op("manual_bp::gelu_backward", mutates_args=())
def _backward(x: Tensor, dy: Tensor, bias: Tensor | None) -> Tensor:
    (dx,) = page.backward(page.Residuals(_plus(x, bias), "none"), dy)
    return dx.contiguous()


def _plus(x: Tensor, bias: Tensor | None) -> Tensor:
    return x if bias is None else x + bias


@_forward.register_fake
@_backward.register_fake
def _(x: Tensor, *others: Any) -> Tensor:
    return x.new_empty(x.shape)


def rewrite(graph: torch.fx.Graph) -> None:
    """A bias that is added to x goes to the operation, so that the sum is never stored."""
    for node in graph.nodes:
        if node.target in (torch.ops.manual_bp.gelu.default, torch.ops.manual_bp.gelu_backward.default):
            x, *others, bias = node.args
            if bias is None and x.target is aten.add.Tensor and not x.kwargs and _is_bias(*x.args):
                node.args = (x.args[0], *others, x.args[1])
    graph.eliminate_dead_code()


def _is_bias(x: Any, added: Any) -> bool:
    nodes = isinstance(x, torch.fx.Node) and isinstance(added, torch.fx.Node)
    return nodes and added.meta["val"].shape == x.meta["val"].shape[-1:] != x.meta["val"].shape


@cache
def lower() -> None:
    """Tells inductor, once."""
    from torch._inductor.lowering import register_lowering

    ops = torch.ops.manual_bp
    register_lowering(ops.gelu.default, type_promotion_kind=None)(lambda x, bias: _call("forward", [x], bias))
    register_lowering(ops.gelu_backward.default, type_promotion_kind=None)(
        lambda x, dy, bias: _call("backward", [x, dy], bias)
    )


def _call(name: str, of_shape: list[Any], bias: Any) -> Any:
    from torch._inductor import config
    from torch._inductor.ir import ExternKernel
    from torch._inductor.lowering import empty_strided
    from torch._inductor.utils import sympy_product

    from manual_bp.compilation.cpp import call_cpp, text

    size = of_shape[0].get_size()
    written = empty_strided(size, None, dtype=torch.float32, device=of_shape[0].get_device())
    read = [ExternKernel.require_contiguous(t) for t in (*of_shape, *([] if bias is None else [bias]))]
    leading = [sympy_product(size), "0" if bias is None else str(bias.get_size()[0])]
    call_cpp(text("gelu.h"), f"gelu::{name}<{config.cpp.threads}>", leading, read, [written])
    return written
