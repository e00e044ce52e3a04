"""Max pooling of float32 on the CPU, one or two axes of space: the page's formulas plane by plane, in C++ (max_pool.h).

Of the page's text a compiler makes searches for 64-bit places; as a sum over the windows that read a place, backward is
slower still than its scatter.  Here a vector of windows is searched at once, and winners' places have 32 bits: 3 x 3,
stride 2, of (32, 64, 56, 56) took 119 ms as text, 54 ms in torch and 8 ms here (one thread of a Zen 4).
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor

from manual_bp.rules.convolution import max_pool as page

MOST = 2**24
"""Places of a plane, with those of taps that stand in padding, are counted in float32."""


def forward(
    x: Tensor,
    *,
    kernel: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None = None,
    padding: int | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    ceil_mode: bool = False,
) -> tuple[Tensor, page.Residuals]:
    on_cpu = x.dtype is torch.float32 and x.device.type == "cpu"
    if not on_cpu or x.ndim not in (3, 4) or x.numel() == 0:
        return page.forward(x, kernel=kernel, stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode)
    space = tuple(x.shape[2:])
    moved, windows = page.windows_of(space, kernel, stride, padding, dilation, ceil_mode)
    axes = [list(axis) for axis in zip(space, windows, *moved, strict=True)]
    if math.prod(length + step * count + gap * taps for length, count, taps, step, _, gap in axes) >= MOST:
        return page.forward(x, kernel=kernel, stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode)
    y, winner = torch.ops.manual_bp.max_pool_forward(x, [number for axis in axes for number in axis])
    return y, page.Residuals(winner, space, *moved, ceil_mode)


def backward(residuals: page.Residuals, dy: Tensor) -> tuple[Tensor]:
    if residuals.winner.dtype is not torch.int32:
        return page.backward(residuals, dy)
    return (torch.ops.manual_bp.max_pool_backward(residuals.winner, dy, list(residuals.space)),)


@torch.library.custom_op("manual_bp::max_pool_forward", mutates_args=())
def _forward(x: Tensor, axes: list[int]) -> tuple[Tensor, Tensor]:
    """As the page where nothing is compiled.  axes: of each its length, windows, taps, step, padding and dilation."""
    y, winner = page.largest(x, [tuple(axes[i : i + 6]) for i in range(0, len(axes), 6)])
    return y.contiguous(), winner.to(torch.int32, memory_format=torch.contiguous_format)


@_forward.register_fake
def _(x: Tensor, axes: list[int]) -> tuple[Tensor, Tensor]:
    shape = (*x.shape[:2], *axes[1::6])
    return x.new_empty(shape), x.new_empty(shape, dtype=torch.int32)


@torch.library.custom_op("manual_bp::max_pool_backward", mutates_args=())
def _backward(winner: Tensor, dy: Tensor, space: list[int]) -> Tensor:
    """As the page where nothing is compiled."""
    return page.to_winners(winner.long(), dy, space)


@_backward.register_fake
def _(winner: Tensor, dy: Tensor, space: list[int]) -> Tensor:
    return dy.new_empty((*dy.shape[:2], *space))


@cache
def lower() -> None:
    """Tells inductor, once."""
    from torch._inductor.lowering import register_lowering

    register_lowering(torch.ops.manual_bp.max_pool_forward.default, type_promotion_kind=None)(_lowered_forward)
    register_lowering(torch.ops.manual_bp.max_pool_backward.default, type_promotion_kind=None)(_lowered_backward)


def _lowered_forward(x: Any, axes: list[int]) -> Any:
    planes, (batch, channels, *_) = _planes(x)
    of_axes = [axes[i : i + 6] for i in range(0, len(axes), 6)]
    both = [f"{{{', '.join(map(str, axis))}}}" for axis in [[1, 1, 1, 1, 0, 1], *of_axes][-2:]]
    leading = [str(batch * channels), *(f"max_pool::Axis{axis}" for axis in both)]
    written = [_empty(x, [batch, channels, *axes[1::6]], dtype) for dtype in (torch.float32, torch.int32)]
    _call("forward", leading, [planes], written)
    return tuple(written)


def _lowered_backward(winner: Any, dy: Any, space: list[int]) -> Any:
    (winner, _), (dy, (batch, channels, *windows)) = _planes(winner), _planes(dy)
    dx = _empty(dy, [batch, channels, *space], torch.float32)
    leading = [str(n) for n in (batch * channels, math.prod(space), math.prod(windows))]
    _call("backward", leading, [winner, dy], [dx])
    return dx


def _planes(t: Any) -> tuple[Any, list[int]]:
    """The tensor, or a copy, row by row; and its lengths."""
    from torch._inductor.ir import ExternKernel

    return ExternKernel.require_contiguous(t), [int(n) for n in t.get_size()]


def _empty(like: Any, shape: list[int], dtype: torch.dtype) -> Any:
    from torch._inductor.lowering import empty_strided

    return empty_strided(shape, None, dtype=dtype, device=like.get_device())


def _call(name: str, leading: list[str], read: list[Any], written: list[Any]) -> None:
    from torch._inductor import config

    from manual_bp.compilation.cpp import call_cpp, text

    call_cpp(text("max_pool.h"), f"max_pool::{name}<{config.cpp.threads}>", leading, read, written)
