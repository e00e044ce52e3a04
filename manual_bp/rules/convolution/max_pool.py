"""Max pooling: the largest number of each position of a window.

    y[b, c, l] = max_k x[b, c, i],   i = stride l + dilation k − padding

over the taps k of a window on the axes of space (1, 2 or 3), each with a kernel, stride, padding and dilation of its
own; without a stride the window moves by its kernel.  Taps that stand outside of x do not count: padding makes room for
windows, and no number stands in it, neither 0 nor any other that a value of x might fall below.

Derivation.  Where one tap of a window is larger than the others, y is that number of x and nothing else.  With w_l the
place of the winner of window l

    dx[b, c, i] = Σ_l [w_l = i] dy[b, c, l]

Windows that overlap may have one winner, whose parts add up; a place that never wins gets 0.

The largest of a window is the largest of its rows' largest.  So forward goes along one axis after another, the last one
first, and beside the numbers it carries the places where they stood.

At a tie every convex combination of the tied taps is a subgradient; this page gives all of dy to the first of them, row
by row, as torch does: only what is larger than all before it takes over, in a row and then among rows.

With ceil_mode there is one more window on an axis where places remain behind the last one, if it starts in x or in the
padding before it.  It overhangs, and its taps outside do not count.  The padding is at most half of the kernel, as in
torch.  A window whose taps, far apart, all stand outside has no largest number: that is refused (torch's gradient is
written there beside the tensor).

Source: Scherer, Müller & Behnke, "Evaluation of Pooling Operations in Convolutional Architectures for Object
Recognition" (ICANN 2010), section 3.3.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from manual_bp.inputs import Convention, Edge, Input, Mistake, normal, require
from manual_bp.rules.convolution._pooling import Window, read, steps, window


class Residuals(NamedTuple):
    winner: Int[Tensor, "batch channels *steps"]
    """The place of each window's winner, counted through all axes of space: one index in place of all taps, and the
    tie is settled once."""
    space: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil_mode: bool


def forward(
    x: Float[Tensor, "batch channels *space"],
    *,
    kernel: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None = None,
    padding: int | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    ceil_mode: bool = False,
) -> tuple[Float[Tensor, "batch channels *steps"], Residuals]:
    space = tuple(x.shape[2:])
    moved, windows = windows_of(space, kernel, stride, padding, dilation, ceil_mode)
    y, winner = largest(x, list(zip(space, windows, *moved, strict=True)))
    return y, Residuals(winner, space, *moved, ceil_mode)


def largest(x: Tensor, axes: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
    """The largest of every window, and its place.  axes: of each its length, how many windows, and their numbers."""
    space = tuple(x.shape[2:])
    y, winner = x, torch.arange(math.prod(space), device=x.device).reshape(space).expand(x.shape)
    for axis, (_, count, *numbers) in reversed(list(enumerate(axes, start=2))):
        y, winner = _along(y, winner, axis, count, *numbers)
    return y, winner


def _along(
    x: Tensor, place: Tensor, axis: int, count: int, taps: int, step: int, pad: int, gap: int
) -> tuple[Tensor, Tensor]:
    """The largest of every window along one axis, and its place."""

    def read(t: Tensor, tap: int, outside: float) -> Tensor:
        behind = step * (count - 1) + gap * (taps - 1) + 1 - pad - t.shape[axis]
        padded = torch.constant_pad_nd(t, (0, 0) * (t.ndim - 1 - axis) + (pad, behind), outside)
        return padded[(slice(None),) * axis + (slice(gap * tap, gap * tap + step * (count - 1) + 1, step),)]

    start = step * torch.arange(count, device=x.device) - pad
    first = torch.where(start < 0, start % gap, start)  # the first tap in x wins unless another is larger: of -inf too
    y, winner = read(x, 0, -math.inf), torch.index_select(place, axis, first)
    for tap in range(1, taps):
        number = read(x, tap, -math.inf)
        larger = (number > y) | number.isnan()  # as in torch a NaN is what a window with one gives
        y, winner = torch.where(larger, number, y), torch.where(larger, read(place, tap, 0), winner)
    return y, winner


def backward(
    residuals: Residuals, dy: Float[Tensor, "batch channels *steps"]
) -> tuple[Float[Tensor, "batch channels *space"]]:
    winner, space, *_ = residuals
    return (to_winners(winner, dy, space),)


def to_winners(winner: Tensor, dy: Tensor, space: Sequence[int]) -> Tensor:
    """Each number of dy added where its window's winner stood."""
    dx = torch.zeros(*dy.shape[:2], math.prod(space), dtype=dy.dtype, device=dy.device)
    dx = dx.scatter_add(-1, winner.flatten(2), dy.flatten(2))
    return dx.reshape(*dy.shape[:2], *space)


def windows_of(
    space: tuple[int, ...],
    kernel: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None,
    padding: int | tuple[int, ...],
    dilation: int | tuple[int, ...],
    ceil_mode: bool,
) -> tuple[Window, tuple[int, ...]]:
    """The window, and how many there are on each axis.  Raises ValueError if one of them has no tap in x."""
    moved = window("max_pool", space, kernel, stride, padding, dilation, ceil_mode)
    windows = steps(space, *moved, ceil_mode)
    for length, count, axis in zip(space, windows, zip(*moved, strict=True), strict=True):
        must = "max_pool: every window must have a tap in x"
        require(_meets(length, count, *axis), must, f"{length} places, dilation {axis[3]}", "Use a smaller dilation.")
    return moved, windows


def _meets(length: int, count: int, taps: int, step: int, pad: int, gap: int) -> bool:
    """Whether each of so many windows has a tap in x.  Where taps are no further apart than x is long, one meets it."""
    if gap <= length:
        return True
    return all(any(0 <= step * at + gap * tap - pad < length for tap in range(taps)) for at in range(count))


INPUTS = {"x": Input(normal())}
HYPER = {"kernel": 2}
AXES = {"steps": steps}
SIZES = {"channels": 2, "space": (3, 4)}
USUAL = {
    "kernel": (3, (3, 2)),
    "stride": (1, (1, 3)),
    "padding": (1, (1, 0)),
    "dilation": (2, (2, 1)),
}


class _Taps:
    """The numbers that windows read, from which wrong formulas and other conventions are made.

    place, own (windows, taps): where a tap stands in x, and whether it stands there itself.  taps (batch, channels,
    windows, taps): the numbers, -inf outside.  tied: which of them are the largest.
    """

    def __init__(
        self,
        x: Tensor,
        dy: Tensor,
        kernel: int | tuple[int, ...],
        stride: int | tuple[int, ...] | None,
        padding: int | tuple[int, ...],
        dilation: int | tuple[int, ...],
        ceil_mode: bool,
        outside: float = -math.inf,
    ) -> None:
        self.space = x.shape[2:]
        self.window = window("max_pool", self.space, kernel, stride, padding, dilation, ceil_mode)
        self.windows = steps(self.space, *self.window, ceil_mode)
        self.x, self.dy = x, dy.flatten(2)[..., None]
        self.place, self.own = read(self.space, self.windows, self.window, x.device)
        self.taps = torch.where(self.own, x.flatten(2)[..., self.place], outside)
        self.tied = self.own & (self.taps == self.taps.amax(-1, keepdim=True))
        self.first = self.tied & (self.tied.cumsum(-1) == 1)

    def dx(self, share: Tensor, place: Tensor | None = None) -> tuple[Tensor]:
        """Each tap is given its share, and a place the sum of what its taps have."""
        place = self.place if place is None else place
        given = torch.where(self.own, share, 0).expand(self.taps.shape).flatten(2)
        zeros = torch.zeros_like(self.x).flatten(2)
        return (zeros.scatter_add(-1, place.expand(self.taps.shape).flatten(2), given).reshape(self.x.shape),)


def _last(**p: Any) -> tuple[Tensor]:
    t = _Taps(**p)
    last = t.tied & (t.tied.flip(-1).cumsum(-1).flip(-1) == 1)
    return t.dx(last * t.dy)


def _split(**p: Any) -> tuple[Tensor]:
    t = _Taps(**p)
    return t.dx(torch.where(t.tied, t.dy / t.tied.sum(-1, keepdim=True), 0))


CONVENTIONS = {
    "tie": {
        "first": Convention("dy goes to the first of equal taps"),
        "last": Convention("dy goes to the last of equal taps", gradient=_last),
        "split": Convention("equal taps share dy evenly", gradient=_split),
        "any": Convention("any valid subgradient", any_subgradient=True),
    }
}

_INF = math.inf
_FAR_BELOW = normal(mean=-2e5, std=1e4)

EDGES = (
    Edge("one axis of space", {"kernel": 3, "stride": 2}, sizes={"space": (8,)}),
    Edge("three axes of space", {"kernel": (2, 1, 3), "stride": 1}, sizes={"batch": 2, "space": (3, 2, 4)}),
    Edge(
        "three axes, each with its own numbers",
        {"kernel": (1, 2, 3), "stride": (1, 3, 2), "padding": (0, 1, 1), "dilation": (1, 2, 1)},
        sizes={"batch": 1, "space": (2, 4, 5)},
    ),
    Edge("a tie", {"x": [[[1.0, 1.0, 0.0, 2.0, 2.0, 2.0]]], "kernel": 3}),
    Edge("a tie of rows", {"x": [[[[1.0, 2.0], [2.0, 1.0]]]]}),
    Edge("a tie that windows share", {"x": [[[0.0, 1.0, 1.0, 0.0, 1.0]]], "kernel": 3, "stride": 1}),
    Edge("all alike", {"x": [[[[3.0] * 4] * 3]], "kernel": (2, 3), "stride": 1, "padding": 1}),
    Edge("a tie of signed zeros", {"x": [[[0.0, -0.0, -0.0, 0.0]]]}),
    Edge("windows that overlap", {"kernel": 3, "stride": 1}),
    Edge("one number wins every window", {"x": [[[[0.0, 1.0, 0.5], [2.0, 9.0, 3.0]]]], "stride": 1}),
    Edge("windows apart", {"kernel": 1, "stride": (2, 3)}),
    Edge("one tap", {"kernel": 1}),
    Edge("a kernel as large as x", {"kernel": (3, 4)}),
    Edge("a remainder that no window reads", {"kernel": 2, "stride": 3}, sizes={"space": (7, 6)}),
    Edge("padding", {"kernel": 3, "padding": 1}),
    Edge("padding on one axis", {"kernel": (3, 4), "stride": (2, 1), "padding": (0, 2)}),
    Edge("all negative, in padding", {"x": normal(mean=-5.0), "kernel": 3, "padding": 1}),
    Edge("all below -100 000, in padding", {"x": _FAR_BELOW, "kernel": 3, "padding": 1}),
    Edge("dilation", {"kernel": (3, 2), "stride": 1, "dilation": (2, 3)}, sizes={"space": (6, 5)}),
    Edge("dilation in padding", {"kernel": 3, "stride": 2, "padding": 1, "dilation": (1, 2)}),
    Edge("an overhang", {"kernel": 2, "stride": 3, "ceil_mode": True}, sizes={"space": (7, 5)}),
    Edge(
        "an overhang of padding", {"kernel": 3, "stride": 2, "padding": 1, "ceil_mode": True}, sizes={"space": (6, 5)}
    ),
    Edge(
        "an overhang that would start behind x, and is none",
        {"kernel": 2, "stride": 2, "padding": 1, "ceil_mode": True},
        sizes={"space": (3, 5)},
    ),
    Edge("no overhang left", {"kernel": 2, "ceil_mode": True}, sizes={"space": (4, 6)}),
    Edge("a kernel larger than x, overhanging", {"kernel": (4, 5), "stride": (3, 2), "ceil_mode": True}),
    Edge("a stride beyond x, overhanging", {"kernel": 2, "stride": 9, "ceil_mode": True}),
    Edge(
        "an overhang with taps apart",
        {"kernel": 2, "stride": 2, "dilation": 2, "ceil_mode": True},
        sizes={"space": (6, 8)},
    ),
    Edge(
        "minus infinity, all of a window whose first tap in x is not at its start",
        {"x": [[[-_INF, -_INF, -_INF, -_INF, 1.0]]], "kernel": 3, "stride": 1, "padding": 1, "dilation": 2},
    ),
    Edge("infinities", {"x": [[[_INF, 0.0, -_INF, 1.0, _INF, _INF]]], "kernel": 3}),
    Edge("infinite cotangents", {"dy": [[[_INF, 1.0]]], "kernel": 2}, sizes={"batch": 1, "channels": 1, "space": (4,)}),
    Edge("a NaN in one window", {"x": [[[1.0, math.nan, 2.0, 3.0, 0.0, 4.0]]]}),
    Edge("one place", {"kernel": 1}, sizes={"space": (1, 1)}),
    Edge("empty batch", sizes={"batch": 0}),
    Edge("a kernel larger than x", {"kernel": (4, 2)}, raises=ValueError),
    Edge("no axis of space", sizes={"space": ()}, raises=ValueError),
    Edge("padding beyond half of the kernel", {"kernel": 3, "padding": 2}, raises=ValueError),
    Edge("kernel of 0", {"kernel": 0}, raises=ValueError),
    Edge("stride of 0", {"stride": 0}, raises=ValueError),
    Edge("dilation of 0", {"dilation": (1, 0)}, raises=ValueError),
    Edge("negative padding", {"padding": -1}, raises=ValueError),
    Edge("three kernels for two axes", {"kernel": (2, 2, 2)}, raises=ValueError),
)


def _of(formula: Callable[[_Taps], tuple[Tensor]]) -> Callable[..., tuple[Tensor]]:
    return lambda **p: formula(_Taps(**p))


def _assigned(t: _Taps) -> tuple[Tensor]:
    """The last window that a place wins assigns, and none adds."""
    found = torch.zeros_like(t.x).flatten(2)
    for at in range(len(t.place)):
        won = torch.zeros_like(found).scatter_add(
            -1, t.place[at].expand(t.taps[:, :, at].shape), t.first[:, :, at].to(t.x)
        )
        found = torch.where(won > 0, t.dy[:, :, at], found)
    return (found.reshape(t.x.shape),)


def _moved(t: _Taps, **other: tuple[int, ...]) -> tuple[Tensor]:
    """dx at the places at which a window that moves in another way would have the winners' taps."""
    place, own = read(t.space, t.windows, t.window._replace(**other), t.x.device)
    return t.dx(torch.where(own, t.first * t.dy, 0), place.clamp(0, t.space.numel() - 1))


def _outside(number: float, **p: Any) -> tuple[Tensor]:
    """dx where a number stands in the padding: a window that it wins passes nothing on."""
    t = _Taps(**p, outside=number)
    first = torch.argmax(t.taps, -1, keepdim=True) == torch.arange(t.taps.shape[-1], device=t.x.device)
    return t.dx(first * t.dy)


def _without_overhang(t: _Taps) -> tuple[Tensor]:
    windows = steps(t.space, *t.window, False)
    at = torch.arange(len(t.place), device=t.x.device)
    whole = torch.ones_like(at, dtype=torch.bool)
    for count, kept in zip(reversed(t.windows), reversed(windows), strict=True):
        whole = whole & (at % count < kept)
        at = at // count
    return t.dx(whole[:, None] * t.first * t.dy)


def _turned(t: _Taps) -> tuple[Tensor]:
    """dx at the places that winners have where rows are counted as columns."""
    numbers = torch.arange(t.space.numel(), device=t.x.device).reshape(t.space)
    turned = numbers.movedim(-1, 0).reshape(-1)
    return t.dx(t.first * t.dy, turned[t.place])


MISTAKES = (
    Mistake(
        "every tied tap",
        _of(lambda t: t.dx(t.tied * t.dy)),
        forgets="that several taps can equal the maximum: the tied ones together get more than dy",
        shows="at ties",
    ),
    Mistake(
        "split among ties",
        _split,
        forgets="which subgradient the convention takes at a tie: this one is valid, and not this page's",
        shows="at ties",
    ),
    Mistake(
        "last of equals",
        _last,
        forgets="which subgradient the convention takes at a tie: this one is valid, and not this page's",
        shows="at ties",
    ),
    Mistake(
        "divided by the number of taps",
        _of(lambda t: t.dx(t.tied * t.dy * (t.tied.sum(-1, keepdim=True) / t.taps.shape[-1]))),
        forgets="to divide by the number of ties: it multiplies with it, as a mean over the window, so that a maximum "
        "without a tie passes on one part of dy in so many as the window has taps",
        shows="for more than one tap",
        seen="https://github.com/huggingface/candle/blob/2a13b0f3ff62f7e67013597f2996f764c5735e21/candle-core/src/backprop.rs#L358-L377",
    ),
    Mistake(
        "x compared with dy",
        _of(lambda t: t.dx((t.taps == t.dy) * t.dy)),
        forgets="that x is compared with y, and not with its cotangent",
        shows="everywhere",
        seen="https://github.com/FluxML/NNlib.jl/commit/2d9ac540563a",
    ),
    Mistake(
        "every tap",
        _of(lambda t: t.dx(t.dy.expand(t.taps.shape))),
        forgets="that only the winner was let through",
        shows="for more than one tap",
    ),
    Mistake(
        "shared by the taps",
        _of(lambda t: t.dx(t.dy.expand(t.taps.shape) / t.taps.shape[-1])),
        forgets="that a maximum is not a mean",
        shows="for more than one tap",
    ),
    Mistake(
        "smallest tap",
        _of(lambda t: t.dx((t.taps == torch.where(t.own, t.taps, math.inf).amin(-1, keepdim=True)) * t.dy)),
        forgets="which extremum wins",
        shows="for more than one tap",
    ),
    Mistake(
        "windows assign to dx",
        _of(_assigned),
        forgets="that a place which wins several windows gets a sum",
        shows="where windows overlap",
    ),
    Mistake(
        "0 in the padding",
        lambda **p: _outside(0.0, **p),
        forgets="that padding is no number: a 0 in it beats what is negative, and takes dy along",
        shows="where all taps of a window in the padding are negative",
    ),
    Mistake(
        "-10 000 in the padding",
        lambda **p: _outside(-1e4, **p),
        forgets="that a number of x may lie below any that stands for minus infinity",
        shows="where all taps of a window in the padding are below it",
    ),
    Mistake(
        "-inf in the padding wins a tie",
        lambda **p: _outside(-math.inf, **p),
        forgets="that x can be -inf too: the first of equals is then a tap outside, and dy is lost",
        shows="where a window in the padding holds nothing but -inf",
    ),
    Mistake(
        "first axis's dilation for all",
        _of(lambda t: _moved(t, dilation=(t.window.dilation[0],) * len(t.space))),
        forgets="the second dilation: the first one is used twice",
        shows="where dilations differ",
        seen="https://github.com/tracel-ai/burn/commit/34e22739947a",
    ),
    Mistake(
        "dilation forgotten",
        _of(lambda t: _moved(t, dilation=(1,) * len(t.space))),
        forgets="that taps stand dilation apart",
        shows="for dilation > 1",
    ),
    Mistake(
        "first axis's stride for all",
        _of(lambda t: _moved(t, stride=(t.window.stride[0],) * len(t.space))),
        forgets="that each axis has a stride of its own",
        shows="where strides differ",
    ),
    Mistake(
        "stride taken for the kernel",
        _of(lambda t: _moved(t, stride=t.window.kernel)),
        forgets="that windows may overlap, or stand apart",
        shows="where the stride is not the kernel",
    ),
    Mistake(
        "padding forgotten",
        _of(lambda t: _moved(t, padding=(0,) * len(t.space))),
        forgets="that windows began in the padding",
        shows="for padding > 0",
    ),
    Mistake(
        "height and width exchanged",
        _of(_turned),
        forgets="which axis of space is which",
        shows="for two axes of space and more",
        seen="https://github.com/pytorch/pytorch/issues/36820",
    ),
    Mistake(
        "overhang dropped",
        _of(_without_overhang),
        forgets="the windows that ceil_mode adds at the border",
        shows="with ceil_mode, where places remain",
        seen="https://github.com/Oneflow-Inc/oneflow/commit/706db38cf436",
    ),
    Mistake(
        "cotangent dropped",
        _of(lambda t: t.dx(t.first * torch.ones_like(t.dy))),
        forgets="dy",
        shows="wherever dy is not 1",
    ),
)
