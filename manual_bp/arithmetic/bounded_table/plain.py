"""What is no arithmetic: decisions, and functions that only move elements about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from manual_bp.arithmetic.bounded_table.meanings import aten

_COMPARISONS = [getattr(aten, name) for name in ("lt", "le", "gt", "ge", "eq", "ne")]

DECISIONS = {
    *(comparison.Tensor for comparison in _COMPARISONS),
    *(comparison.Scalar for comparison in _COMPARISONS),
    *(aten.isnan.default, aten.isinf.default, aten.isneginf.default, aten.isposinf.default),
    *(aten.argmax.default, aten.argmin.default, aten.signbit.default),
}
"""Made on the values; the answer is a plain tensor."""

SIGNS = {aten.sign.default, aten.sgn.default}

BRANCHES = {
    *SIGNS,
    *(comparison.Tensor for comparison in _COMPARISONS),
    *(comparison.Scalar for comparison in _COMPARISONS),
    *(aten.relu.default, aten.abs.default, aten.clamp.default, aten.clamp_min.default, aten.clamp_max.default),
    *(aten.maximum.default, aten.minimum.default, aten.clamp.Tensor, aten.clamp_min.Tensor, aten.clamp_max.Tensor),
}
"""Where one number, and whatever follows it, goes one of two ways; of one argument by its sign."""

PLACES = {aten.argmax.default, aten.argmin.default}
"""Those of them that say where a number stands."""


def _reshaped(x: Tensor, shape: list[int]) -> Tensor:
    """view, where the float64 tensors inside may lie in memory in another way than the tensor that torch sees."""
    return x.reshape(shape)


SHAPES: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys((aten.view.default, aten._unsafe_view.default), _reshaped),
    **{
        same: same
        for same in (
            *(aten.detach.default, aten.alias.default, aten.clone.default, aten.expand.default, aten.unsqueeze.default),
            *(aten.t.default, aten.transpose.int, aten.permute.default, aten.flip.default, aten.roll.default),
            *(aten.rot90.default, aten.index_copy.default, aten.diagonal_scatter.default),
            *(aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.repeat.default, aten.unfold.default),
            *(aten.select.int, aten.slice.Tensor, aten.gather.default, aten.index_select.default, aten.index.Tensor),
            *(aten.diagonal.default, aten.tril.default, aten.triu.default, aten.diag_embed.default, aten.take.default),
            *(aten.cat.default, aten.stack.default, aten.scatter.src, aten.embedding.default),
            *(aten.select_scatter.default, aten.slice_scatter.default, aten.masked_select.default),
            *(aten.split.Tensor, aten.split_with_sizes.default, aten.unbind.int),
            *(aten.pixel_shuffle.default, aten.pixel_unshuffle.default),
        )
    },
}
"""Done to values and errors alike."""

FILLED: dict[Any, int] = {aten.constant_pad_nd.default: 2, aten.scatter.value: 3}
"""Done to values and errors alike, but that the argument of this position is a number, with an error of its own."""

CONSTANTS: dict[Any, float | None] = {
    **dict.fromkeys(
        (aten.zeros_like.default, aten.new_zeros.default, aten.empty_like.default, aten.new_empty.default), 0.0
    ),
    **dict.fromkeys((aten.ones_like.default, aten.new_ones.default), 1.0),
    **dict.fromkeys((aten.full_like.default, aten.new_full.default), None),
}
"""A number everywhere, in the shape of a tensor or in another one: this one, or the last argument."""
