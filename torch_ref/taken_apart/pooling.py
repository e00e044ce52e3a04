"""Averages and maxima of windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torch_ref.taken_apart.derivatives import Formula


def avg_pool(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] | None = None,
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    axes: int,
) -> Tensor:
    """The sum of each window, divided by how many elements it counts."""
    kernel, steps, pads = (list(n) * (axes // len(n)) for n in (kernel_size, stride or kernel_size, padding))
    self, first = x, x.ndim - axes
    counts = torch.ones((), dtype=torch.int64)
    for axis, (k, s, p) in enumerate(zip(kernel, steps, pads, strict=True)):
        n = x.shape[first + axis]
        starts = _starts(n, k, s, p, ceil_mode)
        more = max(starts[-1] + k - n, 0)
        self = torch.constant_pad_nd(self, [0, 0] * (axes - 1) + [p, more], 0.0)
        self = self.unfold(first + axis, k, s)
        edge = n + p if count_include_pad else n
        low = -p if count_include_pad else 0
        own = torch.tensor([min(start + k, edge) - max(start, low) for start in starts])
        counts = counts[..., None] * own
    total = self.sum(list(range(x.ndim, x.ndim + axes)))
    divisors = torch.unique(counts).tolist() if divisor_override is None else [divisor_override]
    return total / (divisors[0] if len(divisors) == 1 else counts.to(x.dtype))


def _starts(n: int, kernel: int, stride: int, padding: int, ceil_mode: bool) -> list[int]:
    """Where windows start, counted from the first element; none in the padding behind the last one."""
    span = n + 2 * padding - kernel
    count = -(-span // stride) + 1 if ceil_mode else span // stride + 1
    starts = [-padding + stride * i for i in range(count)]
    return starts[:-1] if ceil_mode and starts[-1] >= n + padding else starts


def _windows(n: int, count: int) -> tuple[Tensor, Tensor]:
    """For each of `count` parts of n elements which ones are in it, (count, longest part), and whether they are."""
    starts = [i * n // count for i in range(count)]
    ends = [-(-(i + 1) * n // count) for i in range(count)]
    longest = max(end - start for start, end in zip(starts, ends, strict=True))
    places = torch.tensor(starts)[:, None] + torch.arange(longest)
    inside = places < torch.tensor(ends)[:, None]
    return places.clamp(max=n - 1), inside


def _adapted(x: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """The elements of each part (..., *size, elements), whether they are in it, and their places in x, flattened."""
    axes = len(size)
    found, inside, flat = x, torch.ones((), dtype=torch.bool), torch.zeros((), dtype=torch.int64)
    for axis, count in enumerate(size):
        n = x.shape[x.ndim - axes + axis]
        places, is_in = _windows(n, count)
        position = x.ndim - axes + 2 * axis
        found = found.index_select(position, places.flatten()).reshape(
            *found.shape[:position], *places.shape, *found.shape[position + 1 :]
        )
        around = [1] * (2 * axis)
        inside = inside[..., None, None] & is_in.reshape(*around, *is_in.shape)
        flat = flat[..., None, None] * n + places.reshape(*around, *places.shape)
    order = [*range(0, 2 * axes, 2), *range(1, 2 * axes, 2)]
    first = x.ndim - axes
    found = found.permute(*range(first), *(first + i for i in order)).flatten(first + axes)
    return found, inside.permute(order).flatten(axes), flat.permute(order).flatten(axes)


def adaptive_avg_pool(x: Tensor, output_size: Sequence[int]) -> Tensor:
    elements, inside, _ = _adapted(x, output_size)
    return elements.masked_fill(~inside, 0.0).sum(-1) / inside.sum(-1).to(x.dtype)


def adaptive_max_pool(x: Tensor, output_size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The largest of each part, and its place; the first of equals."""
    elements, inside, flat = _adapted(x, output_size)
    values, which = elements.masked_fill(~inside, -math.inf).max(-1)
    return values, flat.expand(elements.shape).gather(-1, which[..., None])[..., 0]


def to_places(axes: int) -> Formula:
    """dy where the largest elements were; `indices` are places among the last axes, flattened."""

    def backward(dy: Tensor, x: Tensor, *rest: Any) -> Tensor:
        indices = rest[-1]
        first = x.ndim - axes
        flat = torch.zeros_like(x).flatten(first)
        return flat.scatter_add(-1, indices.flatten(first), dy.flatten(first)).reshape(x.shape)

    return backward
