"""Fused cross-entropy of float32 on the CPU: the page's formulas, 64 rows at a time, in C++ (cross_entropy.h).

The page adds up dW in a tensor that is new for each block of rows, and a compiler holds the logits of several blocks.
Here dW is added to where it lies and multiplied by dy there, and the logits of 64 rows are all that is held beside the
results: 1024 x 512 with 32 768 classes took 0.8 of torch's time and a fifth of its memory (one thread of a Zen 4).
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from manual_bp.compilation import scaling
from manual_bp.rules.loss import fused_linear_cross_entropy as page

WHOLE = 16
"""Features must be a multiple of the floats of a vector, which are 8 or 16."""


def forward(
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: Literal["mean", "sum"] = "mean",
) -> tuple[Tensor, page.Residuals]:
    how: Any = {"ignore_index": ignore_index, "label_smoothing": label_smoothing, "reduction": reduction}
    on_cpu = x.dtype is torch.float32 and x.device.type == "cpu"
    if not on_cpu or x.numel() == 0 or len(weight) == 0 or x.shape[1] % WHOLE:
        return page.forward(x, weight, target, **how)
    is_mean = reduction == "mean"
    y, dx, dweight = torch.ops.manual_bp.linear_cross_entropy(
        x, weight, target.long(), ignore_index, float(label_smoothing), is_mean
    )
    return y, page.Residuals(dx, dweight)


def backward(residuals: page.Residuals, dy: Tensor) -> tuple[Tensor, Tensor, None]:
    dx, dweight = residuals
    if dweight.dtype is not torch.float32 or dweight.device.type != "cpu":
        return page.backward(residuals, dy)
    return dy * dx, scaling.times(dweight, dy), None


@torch.library.custom_op("manual_bp::linear_cross_entropy", mutates_args=())
def _linear_cross_entropy(
    x: Tensor, weight: Tensor, target: Tensor, ignore_index: int, label_smoothing: float, is_mean: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """As the page where nothing is compiled."""
    how: Any = {"reduction": "mean" if is_mean else "sum"}
    y, kept = page.forward(x, weight, target, ignore_index=ignore_index, label_smoothing=label_smoothing, **how)
    return y, kept.dx, kept.dweight


@_linear_cross_entropy.register_fake
def _(x: Tensor, weight: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(()), x.new_empty(x.shape), x.new_empty(weight.shape)


@cache
def lower() -> None:
    """Tells inductor, once."""
    from torch._inductor.lowering import register_lowering

    register_lowering(torch.ops.manual_bp.linear_cross_entropy.default, type_promotion_kind=None)(_lowered)
    scaling.lower()


def _lowered(x: Any, weight: Any, target: Any, ignore_index: int, label_smoothing: float, is_mean: bool) -> Any:
    from torch._inductor import config
    from torch._inductor.ir import ExternKernel
    from torch._inductor.lowering import empty_strided

    from manual_bp.compilation.cpp import call_cpp, text

    read = [ExternKernel.require_contiguous(t) for t in (x, weight, target)]
    (rows, features), (classes, _) = ([int(n) for n in t.get_size()] for t in read[:2])
    numbers = f"{rows}, {features}, {classes}, {ignore_index}, {label_smoothing!r}f, {str(is_mean).lower()}"
    how = {"dtype": torch.float32, "device": x.get_device()}
    written = [empty_strided(size, None, **how) for size in ([], [rows, features], [classes, features])]
    function = f"cross_entropy::cost<{config.cpp.threads}>"
    call_cpp(text("cross_entropy.h"), function, [f"cross_entropy::Sizes{{{numbers}}}"], read, written)
    return tuple(written)
