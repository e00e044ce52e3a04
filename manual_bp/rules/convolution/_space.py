"""Axes (batch, channels, *space), and a window that moves along those of space.

Along one of them the window has `kernel` taps, `dilation` apart, and moves by `stride`; `padding` places are added at
either end.  Tap k of position l stands at

    i = stride l + dilation k − padding

which is a place of x if 0 ≤ i < space, and one of the padding otherwise.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from manual_bp.inputs import require

PerAxis = int | tuple[int, ...]
"""A number for every axis of space, or one for each."""


def per_axis(what: str, number: PerAxis, axes: int) -> tuple[int, ...]:
    """One number for each of so many axes.  what: "convolution: stride", for the error."""
    each = (number,) * axes if isinstance(number, int) else number
    must = f"{what} must be a number, or one for each axis of space, of which there are {axes}"
    require(len(each) == axes, must, number, "")
    return each


def reach(kernel: int, dilation: int) -> int:
    """From the first tap of a window to the last, both counted."""
    return dilation * (kernel - 1) + 1


def steps(
    space: Sequence[int], kernel: Sequence[int], stride: PerAxis, padding: PerAxis, dilation: PerAxis
) -> tuple[int, ...]:
    """How many positions the window has on each axis: those at which it ends within the padding."""
    return tuple((rest // step) + 1 for rest, step in _rests(space, kernel, stride, padding, dilation))


def remainder(
    space: Sequence[int], kernel: Sequence[int], stride: PerAxis, padding: PerAxis, dilation: PerAxis
) -> tuple[int, ...]:
    """How many places behind the window's last position it does not reach, of x and of the padding: less than a
    stride."""
    return tuple(rest % step for rest, step in _rests(space, kernel, stride, padding, dilation))


def _rests(
    space: Sequence[int], kernel: Sequence[int], stride: PerAxis, padding: PerAxis, dilation: PerAxis
) -> list[tuple[int, int]]:
    """On each axis the places behind the window's first position, and the stride."""
    each = (per_axis("each number", number, len(space)) for number in (stride, padding, dilation))
    return [
        (length + 2 * pad - reach(taps, gap), step)
        for length, taps, step, pad, gap in zip(space, kernel, *each, strict=True)
    ]


def check_numbers(
    rule: str,
    space: Sequence[int],
    kernel: Sequence[int],
    stride: PerAxis,
    padding: PerAxis,
    dilation: PerAxis,
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """stride, padding and dilation, one number for each axis.  Raises ValueError if one is too small."""
    axes = len(space)
    require(1 <= axes <= 3, f"{rule}: there must be 1, 2 or 3 axes of space", axes, "Reshape x.")
    named = {"stride": stride, "padding": padding, "dilation": dilation}
    each = [per_axis(f"{rule}: {name}", number, axes) for name, number in named.items()]
    for name, numbers, least in zip(named, each, (1, 0, 1), strict=True):
        require(min(numbers) >= least, f"{rule}: {name} must be at least {least}", numbers, "")
    require(min(kernel) >= 1, f"{rule}: a window must have at least one tap", tuple(kernel), "")
    require(min(space) >= 1, f"{rule}: each axis of space must have a place", tuple(space), "")
    return each[0], each[1], each[2]


def check_window(
    rule: str,
    space: Sequence[int],
    kernel: Sequence[int],
    stride: PerAxis,
    padding: PerAxis,
    dilation: PerAxis,
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """stride, padding and dilation, one number for each axis.  Raises ValueError if the window has no position."""
    each = check_numbers(rule, space, kernel, stride, padding, dilation)
    for length, taps, pad, gap in zip(space, kernel, each[1], each[2], strict=True):
        must = f"{rule}: a window that reaches {reach(taps, gap)} places must fit into x and its padding"
        require(reach(taps, gap) <= length + 2 * pad, must, f"{length} + 2 · {pad}", "Use a smaller kernel, or pad.")
    return each


def over_space(x: Tensor) -> Tensor:
    """Σ over the batch and all axes of space; shape (channels,)."""
    return x.sum((0, *range(2, x.ndim)))


def fitted(x: Tensor, shape: Sequence[int]) -> Tensor:
    """x cut at the end of each axis, or continued with 0, to a shape."""
    around = [side for n, due in zip(reversed(x.shape), reversed(shape), strict=True) for side in (0, due - n)]
    return torch.constant_pad_nd(x, around)


def next_group(channels: Tensor, groups: int) -> Tensor:
    """Axis 1 with each group where the next one belongs."""
    return channels.roll(channels.shape[1] // groups, 1)
