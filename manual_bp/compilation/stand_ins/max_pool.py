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
    winner, space, *moved, _ = residuals
    axes = zip(space, dy.shape[2:], *moved, strict=True)
    return (torch.ops.manual_bp.max_pool_backward(winner, dy, [number for axis in axes for number in axis]),)


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
def _backward(winner: Tensor, dy: Tensor, axes: list[int]) -> Tensor:
    """As the page where nothing is compiled."""
    return page.to_winners(winner.long(), dy, axes[::6])


@_backward.register_fake
def _(winner: Tensor, dy: Tensor, axes: list[int]) -> Tensor:
    return dy.new_empty((*dy.shape[:2], *axes[::6]))


@cache
def lower() -> None:
    """Tells inductor, once."""
    from torch._inductor.lowering import register_lowering

    register_lowering(torch.ops.manual_bp.max_pool_forward.default, type_promotion_kind=None)(_lowered_forward)
    register_lowering(torch.ops.manual_bp.max_pool_backward.default, type_promotion_kind=None)(_lowered_backward)


def _lowered_forward(x: Any, axes: list[int]) -> Any:
    shape = [int(n) for n in x.get_size()]
    side_by_side, x = _laid_out(x)
    written = [_empty(x, [*shape[:2], *axes[1::6]], dtype, side_by_side) for dtype in (torch.float32, torch.int32)]
    _call("forward", _sizes(side_by_side, shape, axes), [x], written, side_by_side)
    return tuple(written)


def _lowered_backward(winner: Any, dy: Any, axes: list[int]) -> Any:
    shape = [*(int(n) for n in dy.get_size()[:2]), *axes[::6]]
    (side_by_side, dy), (_, winner) = _laid_out(dy), _laid_out(winner)
    dx = _empty(dy, shape, torch.float32, side_by_side)
    sizes = _sizes(side_by_side, shape, axes)
    if not side_by_side:
        sizes = [sizes[0], *(str(math.prod(axes[i::6])) for i in (0, 1))]
    _call("backward", sizes, [winner, dy], [dx], side_by_side)
    return dx


def _laid_out(t: Any) -> tuple[bool, Any]:
    """Whether channels lie side by side, as where images are convolved; and the tensor laid out so, or a copy."""
    from torch._inductor.ir import ExternKernel
    from torch._inductor.virtualized import V

    side_by_side = V.graph.layout_opt and len(t.get_size()) == 4
    return side_by_side, (ExternKernel.require_channels_last if side_by_side else ExternKernel.require_contiguous)(t)


def _sizes(side_by_side: bool, shape: list[int], axes: list[int]) -> list[str]:
    """The leading arguments in C++; one axis of space is the second of two."""
    of_axes = [axes[i : i + 6] for i in range(0, len(axes), 6)]
    both = [f"max_pool::Axis{{{', '.join(map(str, axis))}}}" for axis in [[1, 1, 1, 1, 0, 1], *of_axes][-2:]]
    if side_by_side:
        return [f"max_pool::Images{{{', '.join([*map(str, shape[:2]), *both])}}}"]
    return [str(math.prod(shape[:2])), *both]


def _empty(like: Any, shape: list[int], dtype: torch.dtype, side_by_side: bool) -> Any:
    from torch._inductor.lowering import empty_strided

    strides = torch.empty(shape, device="meta").to(memory_format=torch.channels_last).stride() if side_by_side else None
    return empty_strided(shape, strides, dtype=dtype, device=like.get_device())


def _call(name: str, leading: list[str], read: list[Any], written: list[Any], side_by_side: bool) -> None:
    from torch._inductor import config
    from torch._inductor.lowering import permute

    from manual_bp.compilation.cpp import call_cpp, text

    if side_by_side:
        name, read = f"{name}_side_by_side", [permute(t, [0, 2, 3, 1]) for t in read]
    call_cpp(text("max_pool.h"), f"max_pool::{name}<{config.cpp.threads}>", leading, read, written)
