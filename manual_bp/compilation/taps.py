"""The cotangent of a convolution's weight in a compiled program, in C++ (stand_ins/taps.h).

The pages make it by a forward convolution whose window is as large as the other factor, for which libraries are not
made: of (128, 16, 28, 28) with 16 filters of 3 x 3 it took 17 ms, torch's own kernel for that cotangent 5 to 7 ms, and
this one 6 ms; of (128, 32, 14, 14) with 64 filters 23, 9 and 11 ms (one core of a Sapphire Rapids, busy).  Planes are
laid with channels side by side as they are read, an image at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from manual_bp.rules.convolution import _correlation as pages


def are_taken(long: Tensor, short: Tensor, groups: int) -> bool:
    """Whether the operation takes them: float32 on the CPU, two axes of space, one group, and not empty."""
    whole = min(long.numel(), short.numel()) > 0
    return long.dtype is torch.float32 and long.device.type == "cpu" and long.ndim == 4 and groups == 1 and whole


@torch.library.custom_op("manual_bp::compared", mutates_args=())
def compared(
    long: Tensor,
    short: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """As the pages' where nothing is compiled."""
    return pages.compared(long, short, kernel, stride, padding, dilation, 1).contiguous()


@compared.register_fake
def _(long: Tensor, short: Tensor, kernel: Sequence[int], *window: Sequence[int]) -> Tensor:
    return long.new_empty(short.shape[1], long.shape[1], *kernel)


@cache
def lower() -> None:
    """Tells inductor, once."""
    from torch._inductor.lowering import register_lowering

    register_lowering(torch.ops.manual_bp.compared.default, type_promotion_kind=None)(_lowered)


def _lowered(long: Any, short: Any, kernel: Sequence[int], *window: Sequence[int]) -> Any:
    from torch._inductor import config
    from torch._inductor.ir import ExternKernel
    from torch._inductor.lowering import empty_strided, permute

    from manual_bp.compilation.cpp import call_cpp, text

    (batch, channels, *space), (_, filters, *steps) = ([int(n) for n in t.get_size()] for t in (long, short))
    stride, padding, dilation = window
    axes = [
        f"{{{', '.join(map(str, axis))}}}" for axis in zip(space, steps, kernel, stride, padding, dilation, strict=True)
    ]
    planes = [_lies_in_planes(t) for t in (long, short)]
    sizes = f"taps::Sizes{{{batch}, {channels}, {filters}, {', '.join([*axes, *(str(p).lower() for p in planes)])}}}"
    weight = empty_strided([filters, channels, *kernel], None, dtype=torch.float32, device=long.get_device())
    read = [
        t if in_planes else permute(ExternKernel.require_channels_last(t), [0, 2, 3, 1])
        for t, in_planes in zip((long, short), planes, strict=True)
    ]
    call_cpp(text("taps.h"), f"taps::weight<{config.cpp.threads}>", [sizes], read, [weight])
    return weight


def _lies_in_planes(t: Any) -> bool:
    """Whether each channel of an image lies by itself in memory, and it has been decided so."""
    from torch._inductor.ir import ExternKernel, FixedLayout, as_storage_and_layout

    _, layout = as_storage_and_layout(ExternKernel.realize_input(t), freeze=False)
    return isinstance(layout, FixedLayout) and layout.is_contiguous()
