"""A cotangent that a function in C++ made before it knew dy, times dy, where it lies (stand_ins/blocks.h)."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor


@torch.library.custom_op("manual_bp::times", mutates_args=())
def times(x: Tensor, factor: Tensor) -> Tensor:
    """factor · x, of which a compiled program makes x itself if nobody else reads it; with 1, as in a training step,
    nothing is done."""
    return factor * x


@times.register_fake
def _(x: Tensor, factor: Tensor) -> Tensor:
    return torch.empty_like(x)


@cache
def lower() -> None:
    """Tells inductor, once."""
    from torch._inductor.lowering import register_lowering

    register_lowering(torch.ops.manual_bp.times.default, type_promotion_kind=None)(_lowered)


def _lowered(x: Any, factor: Any) -> Any:
    from torch._inductor.lowering import lowerings
    from torch._inductor.virtualized import V

    from manual_bp.compilation.cpp import call_cpp, text

    given: Any = V.graph.current_node.args[0]
    if given.op == "placeholder" or len(given.users) > 1:
        return lowerings[torch.ops.aten.mul.Tensor](x, factor)
    elements = math.prod(int(n) for n in x.get_size())
    call_cpp(text(), "blocks::scale", [str(elements)], [factor], [x])
    return x
