"""Softmax of a compiled program: the page's formulas without the place of the largest number.

A search for a place takes a compiled loop twice the time of a search for a value, and the mask made of it is one of
64-bit integers: 2048 x 512 took twice as long as torch's.  Of finite numbers m − m is 0 without a rounding wherever it
stands; and the one y that needs a formula of its own in backward is the one above 1/2, of which there is one at most.

Of float32 on the CPU, along the last axis, a row at a time, in C++ (softmax.h).
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor

from manual_bp.rules.activation import softmax as page


def forward(x: Tensor, *, dim: int = -1) -> tuple[Tensor, page.Residuals]:
    if x.numel() == 0 or not -x.ndim <= dim < x.ndim:
        return page.forward(x, dim=dim)
    if _is_taken(x, dim):
        y = torch.ops.manual_bp.softmax(x)
        return y, page.Residuals(y, dim)
    e = torch.exp(x - torch.amax(x, dim, keepdim=True))
    y = e / torch.sum(e, dim, keepdim=True)
    return y, page.Residuals(y, dim)


def backward(residuals: page.Residuals, dy: Tensor) -> tuple[Tensor]:
    y, dim = residuals
    if y.numel() > 0 and _is_taken(y, dim):
        return (torch.ops.manual_bp.softmax_backward(y, dy),)
    is_most = y > 0.5
    of_most = torch.sum(torch.where(is_most, dy, 0), dim, keepdim=True)
    along = torch.sum(y * dy, dim, keepdim=True)
    above_others = torch.where(is_most, 0, y * (of_most - dy))
    return (y * torch.where(is_most, torch.sum(above_others, dim, keepdim=True), dy - along),)


def _is_taken(x: Tensor, dim: int) -> bool:
    return x.dtype is torch.float32 and x.device.type == "cpu" and dim % x.ndim == x.ndim - 1


# The operations, which run as the page where nothing is compiled.


@torch.library.custom_op("manual_bp::softmax", mutates_args=())
def _forward(x: Tensor) -> Tensor:
    y, _ = page.forward(x)
    return y.contiguous()


@torch.library.custom_op("manual_bp::softmax_backward", mutates_args=())
def _backward(y: Tensor, dy: Tensor) -> Tensor:
    (dx,) = page.backward(page.Residuals(y, -1), dy)
    return dx.contiguous()


@_forward.register_fake
@_backward.register_fake
def _(x: Tensor, *others: Tensor) -> Tensor:
    return x.new_empty(x.shape)


@cache
def lower() -> None:
    """Tells inductor, once."""
    from torch._inductor.lowering import register_lowering

    ops = torch.ops.manual_bp
    register_lowering(ops.softmax.default, type_promotion_kind=None)(lambda x: _call("forward", x))
    register_lowering(ops.softmax_backward.default, type_promotion_kind=None)(lambda y, dy: _call("backward", y, dy))


def _call(name: str, *given: Any) -> Any:
    from torch._inductor import config
    from torch._inductor.ir import ExternKernel
    from torch._inductor.lowering import empty_strided

    from manual_bp.compilation.cpp import call_cpp, text

    read = [ExternKernel.require_contiguous(t) for t in given]
    *rows, n = (int(size) for size in given[0].get_size())
    written = empty_strided([*rows, n], None, dtype=torch.float32, device=given[0].get_device())
    leading = [str(math.prod(rows)), str(n)]
    call_cpp(text("softmax.h"), f"softmax::{name}<{config.cpp.threads}>", leading, read, [written])
    return written
