"""What recurrent layers in C++ share: what they take, and how inductor calls them (stand_ins/recurrence.h)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

MOST = 512 * (512 + 512)
"""Of units times what each gate of them reads; more was not measured.  An lstm of 256 units took 1.00 of nn.LSTM's time
and one of 512 took 0.95, where the page's loop took 1.73 and 1.65; a gru of 512 took 0.41 of nn.GRU's, the loop 0.63
(64 steps, batch 32, one thread of a Zen 5, whose cores have caches of 1 MB of their own)."""


def are_taken(weight_ih: Tensor, weight_hh: Tensor, *tensors: Tensor) -> bool:
    """Whether the weights are no more than was measured, and all are numbers of float32 on the CPU."""
    hidden = weight_hh.shape[1]
    fits = hidden * (weight_ih.shape[1] + hidden) <= MOST
    all_ = (weight_ih, weight_hh, *tensors)
    return fits and all(t.dtype is torch.float32 and t.device.type == "cpu" and t.numel() > 0 for t in all_)


def call(rule: str, function: str, sizes: tuple[int, ...], read: list[Any], shapes: list[list[int]]) -> tuple[Any, ...]:
    """What `<rule>::<function>` of `<rule>.h` writes, tensors of these shapes."""
    from torch._inductor import config
    from torch._inductor.ir import ExternKernel
    from torch._inductor.lowering import empty_strided

    from manual_bp.compilation.cpp import call_cpp, text

    written = [empty_strided(shape, None, dtype=torch.float32, device=read[0].get_device()) for shape in shapes]
    whole = [ExternKernel.require_contiguous(t) for t in read]
    numbers = f"recurrence::Sizes{{{', '.join(map(str, sizes))}}}"
    named = f"{rule}::{function}<{config.cpp.threads}>"
    call_cpp(text("recurrence.h", f"{rule}.h"), named, [numbers], whole, written)
    return tuple(written)
