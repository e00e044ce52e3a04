"""Softmax and cross-entropy of float32 on the CPU: the page's formulas, in C++ (softmax_cross_entropy.h).

The page asks where the largest logit stands, and its text goes through the logits several times, with a call of the
library's exponential in each.  Here a row of them is read once, and its cotangent is made for dy = 1 while the row is
in the caches: it is what is kept in place of log p, and that no weight is kept says so.  What lies side by side are the
classes, in a matrix or a network of sequences, or else the positions of an image, of which a vector at a time is made.
Then so they do in the cotangent, as what is behind it wants them; it takes the place of logits that nobody else reads.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from manual_bp.compilation import scaling
from manual_bp.compilation.products import onednn_product
from manual_bp.compilation.stand_ins import VIEWS
from manual_bp.rules.loss import softmax_cross_entropy as page


def forward(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: Literal["mean", "sum"] = "mean",
) -> tuple[Tensor, page.Residuals]:
    on_cpu = x.dtype is torch.float32 and x.device.type == "cpu"
    if not on_cpu or label_smoothing or x.numel() == 0 or not (_are_rows(x) or x.is_contiguous()):
        how: Any = {"ignore_index": ignore_index, "label_smoothing": label_smoothing, "reduction": reduction}
        return page.forward(x, target, weight, **how)
    y, dx = torch.ops.manual_bp.softmax_cross_entropy(x, target.long(), weight, ignore_index, reduction == "mean")
    no_weight: Any = None
    return y, page.Residuals(dx, target, no_weight, ignore_index, label_smoothing, reduction)


def backward(residuals: page.Residuals, dy: Tensor) -> tuple[Tensor, None, None]:
    if residuals.weight is not None:
        return page.backward(residuals, dy)
    return scaling.times(residuals.log_p, dy), None, None


@torch.library.custom_op("manual_bp::softmax_cross_entropy", mutates_args=())
def _cost(x: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, is_mean: bool) -> tuple[Tensor, Tensor]:
    """As the page where nothing is compiled."""
    y, kept = page.forward(x, target, weight, ignore_index=ignore_index, reduction="mean" if is_mean else "sum")
    dx, _, _ = page.backward(kept, torch.ones_like(y))
    return y, _laid_out(x).copy_(dx)


@_cost.register_fake
def _(x: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(()), _laid_out(x)


def _laid_out(x: Tensor) -> Tensor:
    """The shape of x, its classes side by side if they are so there."""
    batch, classes, *space = x.shape
    return x.new_empty(batch, *space, classes).movedim(-1, 1) if _are_rows(x) else x.new_empty(x.shape)


def _are_rows(x: Tensor) -> bool:
    """Whether the classes lie side by side."""
    return x.movedim(1, -1).is_contiguous()


@cache
def lower() -> None:
    """Tells inductor, once."""
    from torch._inductor.lowering import register_lowering

    register_lowering(torch.ops.manual_bp.softmax_cross_entropy.default, type_promotion_kind=None)(_lowered)
    scaling.lower()


def _lowered(x: Any, target: Any, weight: Any, ignore_index: int, is_mean: bool) -> Any:
    from torch._inductor import config
    from torch._inductor.ir import ExternKernel
    from torch._inductor.lowering import empty_strided, permute
    from torch._inductor.virtualized import V

    from manual_bp.compilation.cpp import call_cpp, text

    sizes = [int(n) for n in x.get_size()]
    logits: Any = V.graph.current_node.args[0]
    are_rows = _are_rows(logits.meta["val"])
    order = [0, *range(2, len(sizes)), 1] if are_rows else list(range(len(sizes)))
    x.realize()
    rows: Any = ExternKernel.require_contiguous(permute(x, order))
    others = [None if t is None else ExternKernel.require_contiguous(t) for t in (target, weight)]
    how = {"dtype": torch.float32, "device": x.get_device()}
    y = empty_strided([], None, **how)
    is_copied = rows.get_name() != x.get_name()
    if _is_read_here_alone(logits) and not is_copied:
        dx = x
    else:
        strides = dict(zip(order, _contiguous_strides([sizes[axis] for axis in order]), strict=True))
        dx = empty_strided(sizes, [strides[axis] for axis in range(len(sizes))], **how)
    beside = 1 if are_rows else math.prod(sizes[2:])
    numbers = f"{math.prod(sizes) // sizes[1]}, {sizes[1]}, {ignore_index}, {str(is_mean).lower()}, {beside}"
    function = f"softmax_cross_entropy::cost<{config.cpp.threads}>"
    call_cpp(
        text("softmax.h", "softmax_cross_entropy.h"),
        function,
        [f"softmax_cross_entropy::Sizes{{{numbers}}}"],
        [rows, *others],
        [y, ExternKernel.realize_input(dx)],
    )
    return y, dx


def _is_read_here_alone(x: Any) -> bool:
    """Whether nobody else reads what a node holds, whatever its shape there: then dx may take its place.  A part of
    something else, or of an input, is no result of its own."""
    while x.target in (*VIEWS, torch.ops.aten.permute.default) and len(x.users) == 1:
        x = x.args[0]
    if isinstance(x.target, torch._ops.OpOverload):
        is_own = not any(returned.alias_info for returned in x.target._schema.returns)
    else:
        is_own = x.target is onednn_product
    return is_own and len(x.users) == 1


def _contiguous_strides(sizes: list[int]) -> list[int]:
    return [math.prod(sizes[axis + 1 :]) for axis in range(len(sizes))]
