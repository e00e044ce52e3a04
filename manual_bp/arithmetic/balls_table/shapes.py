"""What moves elements about in another way than `balls.rearranged` can tell, and tensors like one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from manual_bp.arithmetic.balls import Choice, Grid, Jets, LeftOpen, Option, lift, means, numbering, rearranged
from manual_bp.arithmetic.balls_table.decisions import settled, where


@means("constant_pad_nd")
def _padded(input: Any, pad: Sequence[int], value: Any = 0) -> Jets:
    x: Jets = rearranged(torch.constant_pad_nd, (lift(input), pad), {})
    if value == 0:
        return x
    inside = torch.constant_pad_nd(torch.ones(lift(input).shape, dtype=torch.bool), list(pad), False)
    return where(inside, x, value)


@means("scatter")
def _scatter(input: Any, dim: int, index: Tensor, src: Any = None, value: Any = None) -> Jets:
    source = value if src is None else src
    source = lift(source).broadcast_to(index.shape) if not isinstance(source, Tensor | Grid) else source
    if isinstance(index, Choice):
        return _scattered_by_turns(lift(input), dim, index, lift(source))
    jets: Jets = rearranged(torch.scatter, (lift(input), dim, index, lift(source)), {})
    return jets


def _is_place(option: Option, place: int) -> Option:
    here, nearby = option.here == place, tuple({each == place for each in option.nearby})
    return Option(here, nearby, frozenset() if nearby == (here,) else option.leaves)


def _scattered_by_turns(x: Jets, dim: int, index: Choice, source: Jets) -> Jets:
    """With an index that is open nearby: one entry of each line after the other, each a mask over its line."""
    axis, n = dim % x.ndim, x.shape[dim]
    around = [slice(None)] * axis
    for entry in range(index.shape[axis]):
        one = index[(*around, slice(entry, entry + 1))]
        if one.shape != torch.Size(1 if position == axis else length for position, length in enumerate(x.shape)):
            raise LeftOpen("scatter with an index that a tie leaves open, of fewer lines")
        options = [_is_place(o, place) for o in one.cells for place in range(n)]
        lines = numbering((*one.shape[:axis], *one.shape[axis + 1 :], n)).movedim(-1, axis).flatten().tolist()
        mask = settled(x.shape, [options[i] for i in lines], torch.bool)
        x = where(mask, source[(*around, slice(entry, entry + 1))].broadcast_to(x.shape), x)
    return x


@means("embedding")
def _embedding(weight: Any, input: Tensor, *_: Any, **__: Any) -> Jets:
    rows: Jets = lift(weight)[input]
    return rows


@means("expand_as")
def _expand_as(input: Any, other: Any) -> Jets:
    expanded: Jets = lift(input).expand(other.shape)
    return expanded


@means("view_as", "reshape_as")
def _reshape_as(input: Any, other: Any) -> Jets:
    reshaped: Jets = lift(input).reshape(other.shape)
    return reshaped


# Tensors like one.


def _filled(shape: Sequence[int], value: float, kwargs: dict[str, Any]) -> Tensor:
    dtype = kwargs.get("dtype")
    return torch.full(tuple(shape), value, dtype=torch.float64 if dtype is None or dtype.is_floating_point else dtype)


means("zeros_like", "empty_like")(lambda input, **kwargs: _filled(input.shape, 0, kwargs))
means("ones_like")(lambda input, **kwargs: _filled(input.shape, 1, kwargs))
means("full_like")(lambda input, fill_value, **kwargs: _filled(input.shape, fill_value, kwargs))


def _size(size: Sequence[Any]) -> Sequence[int]:
    return size[0] if len(size) == 1 and not isinstance(size[0], int) else size


means("new_zeros", "new_empty")(lambda input, *size, **kwargs: _filled(_size(size), 0, kwargs))
means("new_ones")(lambda input, *size, **kwargs: _filled(_size(size), 1, kwargs))
means("new_full")(lambda input, size, fill_value, **kwargs: _filled(size, fill_value, kwargs))
