"""Windows of pooling: which places a window reads, and which windows read a place.

On each axis tap k of window l stands at i = stride l + dilation k − padding.  The tables that answer both questions
count places and windows through all axes of space, row by row; the numbers of x do not enter.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from manual_bp.inputs import require
from manual_bp.rules.convolution._space import PerAxis, check_numbers, per_axis, reach


class Window(NamedTuple):
    """One number for each axis of space."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]


def window(
    rule: str,
    space: Sequence[int],
    kernel: PerAxis,
    stride: PerAxis | None,
    padding: PerAxis,
    dilation: PerAxis,
    ceil_mode: bool,
) -> Window:
    """The window; without a stride it moves by its kernel.  Raises ValueError if it does not fit: with `ceil_mode` it
    may be larger than x."""
    taps = per_axis(f"{rule}: kernel", kernel, len(space))
    found = Window(taps, *check_numbers(rule, space, taps, taps if stride is None else stride, padding, dilation))
    for taps_, pad in zip(found.kernel, found.padding, strict=True):
        require(pad <= taps_ // 2, f"{rule}: padding must be at most half of the kernel, {taps_ // 2}", pad, "")
    counts = steps(space, *found, ceil_mode)
    must = f"{rule}: a window must have a position in x and its padding"
    came = f"space {tuple(space)}, kernel {found.kernel}, padding {found.padding}, dilation {found.dilation}"
    require(min(counts) >= 1, must, came, "Use a smaller kernel, or ceil_mode.")
    return found


def steps(
    space: Sequence[int],
    kernel: PerAxis,
    stride: PerAxis | None,
    padding: PerAxis,
    dilation: PerAxis,
    ceil_mode: bool,
) -> tuple[int, ...]:
    """How many windows there are on each axis.  With `ceil_mode` there is one more where places remain behind the last
    one, if it starts in x or before it: it overhangs the padding."""
    stride = kernel if stride is None else stride
    each = (per_axis("each number", number, len(space)) for number in (kernel, stride, padding, dilation))
    found = []
    for length, taps, step, pad, gap in zip(space, *each, strict=True):
        rest = length + 2 * pad - reach(taps, gap)
        whole = rest // step + 1
        overhangs = ceil_mode and rest % step > 0 and whole * step < length + pad
        found.append(whole + overhangs)
    return tuple(found)


def read(space: Sequence[int], windows: Sequence[int], window: Window, device: torch.device) -> tuple[Tensor, Tensor]:
    """Of every window and tap (windows, taps) the place in x, and whether it is the tap's own.

    A tap that stands outside of x has the place of the nearest one that does not.
    """
    place = torch.zeros((1,) * 2 * len(space), dtype=torch.int64, device=device)
    inside = torch.ones_like(place, dtype=torch.bool)
    for axis, (length, count, taps, step, pad, gap) in enumerate(zip(space, windows, *window, strict=True)):
        start = step * torch.arange(count, device=device)[:, None] - pad
        tap = torch.arange(taps, device=device)
        first, last = -(start // gap), (length - 1 - start) // gap
        nearest = torch.maximum(torch.minimum(tap, last), first)
        place = place * length + _along(axis, start + gap * nearest, len(space))
        inside = inside & _along(axis, nearest == tap, len(space))
    return _flat(place, len(space)), _flat(inside, len(space))


def readers(
    space: Sequence[int], windows: Sequence[int], window: Window, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Of every place (places, candidates) the windows that may read it, and whether they do.

    Those are, on each axis, the last window that starts at the place or before it, and the ones before that for as long
    as they reach it.
    """
    reader = torch.zeros((1,) * 2 * len(space), dtype=torch.int64, device=device)
    reads = torch.ones_like(reader, dtype=torch.bool)
    for axis, (length, count, taps, step, pad, gap) in enumerate(zip(space, windows, *window, strict=True)):
        place = torch.arange(length, device=device)[:, None] + pad
        candidate = place // step - torch.arange((reach(taps, gap) - 1) // step + 1, device=device)
        behind = place - step * candidate
        does = (candidate >= 0) & (candidate < count) & (behind % gap == 0) & (behind < reach(taps, gap))
        reader = reader * count + _along(axis, candidate.clamp(0, count - 1), len(space))
        reads = reads & _along(axis, does, len(space))
    return _flat(reader, len(space)), _flat(reads, len(space))


def _along(axis: int, table: Tensor, axes: int) -> Tensor:
    """The table of one axis, (its length, its parts), among those of all: (*lengths, *parts)."""
    shape = [1] * 2 * axes
    shape[axis], shape[axes + axis] = table.shape
    return table.reshape(shape)


def _flat(table: Tensor, axes: int) -> Tensor:
    """(*lengths, *parts) as (length, parts)."""
    return table.flatten(axes).flatten(0, axes - 1)
