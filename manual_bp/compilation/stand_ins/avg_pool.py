"""Average pooling of a compiled program: sums over the taps of a window, one axis of space after the other.

The page takes sums by a convolution with ones, which a library makes slowly and which ends the loops around it.  Here
the sum over a window is a sum along one axis of sums along the next, all of it part of the loops around.  In backward,
places a stride apart get their sums from the same taps: as many rows of dy as there are of these, each shifted by one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from manual_bp.rules.convolution import avg_pool as page
from manual_bp.rules.convolution._pooling import Window, steps, window

MOST = 16
"""Taps of a window.  Of more, each number is a long expression: larger windows are left to the page, but for the one
that is all of x, whose sum is one operation."""


def forward(
    x: Tensor,
    *,
    kernel: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None = None,
    padding: int | tuple[int, ...] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> tuple[Tensor, page.Residuals]:
    batch, channels, *lengths = x.shape
    space = tuple(lengths)
    moved = window("avg_pool", space, kernel, stride, padding, 1, ceil_mode)
    windows = steps(space, *moved, ceil_mode)
    if channels == 0 or not _is_taken(space, moved):
        return page.forward(
            x,
            kernel=moved.kernel,
            stride=moved.stride,
            padding=moved.padding,
            ceil_mode=ceil_mode,
            count_include_pad=count_include_pad,
        )
    if _is_all(space, moved):
        total = x.sum(tuple(range(2, x.ndim)), keepdim=True)
    else:
        total = x
        for axis, (count, taps, step, pad, _) in enumerate(zip(windows, *moved, strict=True), start=2):
            total = _gathered(total, axis, count, taps, step, pad)
    y = total / _number(space, windows, moved, count_include_pad, x.device)
    return y, page.Residuals(batch, channels, space, *moved[:3], ceil_mode, count_include_pad)


def backward(residuals: page.Residuals, dy: Tensor) -> tuple[Tensor]:
    *_, space, kernel, stride, padding, _, count_include_pad = residuals
    moved = Window(kernel, stride, padding, (1,) * len(space))
    if not _is_taken(space, moved):
        return page.backward(residuals, dy)
    dx = dy / _number(space, dy.shape[2:], moved, count_include_pad, dy.device)
    if _is_all(space, moved):
        return (dx.expand(*dy.shape[:2], *space),)
    for axis, (length, taps, step, pad, _) in enumerate(zip(space, *moved, strict=True), start=2):
        dx = _spread(dx, axis, length, taps, step, pad)
    return (dx,)


def _is_taken(space: Sequence[int], moved: Window) -> bool:
    return math.prod(moved.kernel) <= MOST or _is_all(space, moved)


def _is_all(space: Sequence[int], moved: Window) -> bool:
    """Whether the window is all of x."""
    return tuple(space) == moved.kernel and not any(moved.padding)


def _number(
    space: Sequence[int], windows: Sequence[int], moved: Window, count_include_pad: bool, device: torch.device
) -> Tensor | int:
    """Of how many numbers each window is the mean: one for all where none is cut off."""
    whole = min(page._behind(space, windows, moved)) >= 0 and (count_include_pad or not any(moved.padding))
    return math.prod(moved.kernel) if whole else page._places(space, windows, moved, count_include_pad, device)


def _gathered(x: Tensor, axis: int, count: int, taps: int, step: int, pad: int) -> Tensor:
    """Σ over the taps of each of so many windows along one axis."""
    last = step * (count - 1) + 1
    padded = _continued(x, axis, pad, last + taps - 1 - pad - x.shape[axis])
    before = (slice(None),) * axis
    return reduce(torch.add, [padded[(*before, slice(tap, tap + last, step))] for tap in range(taps)])


def _spread(share: Tensor, axis: int, length: int, taps: int, step: int, pad: int) -> Tensor:
    """The transposed of that: the sum of the shares of all windows that read a place of x, along one axis."""
    count, rows = share.shape[axis], -(-(length + pad) // step)
    phases = []
    for first in range(step):  # the places step j + first of the padded x, and the taps that meet them
        behind = range(len(range(first, taps, step)))
        shifted = [_continued(share, axis, by, rows - count - by) for by in behind]
        phases.append(
            reduce(torch.add, shifted) if shifted else torch.zeros_like(_continued(share, axis, 0, rows - count))
        )
    return torch.stack(phases, axis + 1).flatten(axis, axis + 1).narrow(axis, pad, length)


def _continued(x: Tensor, axis: int, before: int, behind: int) -> Tensor:
    """x with so many zeros before it and behind it along one axis; of fewer than none, it is cut."""
    return torch.constant_pad_nd(x, [0, 0] * (x.ndim - 1 - axis) + [before, behind])


def lower() -> None:
    """Inductor knows these operations."""
