"""Average pooling: the mean of each position of a window.

    y[b, c, l] = (1/n_l) Σ_k x[b, c, i],   i = stride l + k − padding

over the taps k of a window on the axes of space (1, 2 or 3), each with a kernel, stride and padding of its own; without
a stride the window moves by its kernel.  x is 0 in the padding.  n_l is the number of places that window l covers, in x
and in its padding, or with count_include_pad=False in x alone.

With ceil_mode there is one more window on an axis where places remain behind the last one, if it starts in x or in the
padding before it.  What overhangs the padding is no place, and never counted: n_l is smaller there than the kernel.

Derivation.  y is a convolution of every channel by itself with a kernel of ones, of which each position is divided by
its n_l.  dy goes the same way back: divided, then spread by the transposed convolution, whose derivation is
convolution's:

    dx[b, c, i] = Σ_{l, k: stride l + k − padding = i} dy[b, c, l] / n_l

so that overlapping windows add up, and places that none reads get 0.

Source: LeCun et al., "Gradient-Based Learning Applied to Document Recognition" (1998), section II.B; Dumoulin & Visin,
"A guide to convolution arithmetic for deep learning" (arXiv 1603.07285), chapter 3.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, normal, require
from manual_bp.rules.convolution._correlation import gathered, spread
from manual_bp.rules.convolution._pooling import Window, steps, window
from manual_bp.rules.convolution._space import fitted


class Residuals(NamedTuple):
    """y is linear in x: no number of x is needed, only how long it is."""

    batch: int
    channels: int
    space: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    ceil_mode: bool
    count_include_pad: bool


def forward(
    x: Float[Tensor, "batch channels *space"],
    *,
    kernel: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None = None,
    padding: int | tuple[int, ...] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> tuple[Float[Tensor, "batch channels *steps"], Residuals]:
    require(x.shape[1] >= 1, "avg_pool: there must be a channel", tuple(x.shape), "")
    space = tuple(x.shape[2:])
    moved = window("avg_pool", space, kernel, stride, padding, 1, ceil_mode)
    windows = steps(space, *moved, ceil_mode)
    overhang = [max(-rest, 0) for rest in _behind(space, windows, moved)]
    padded = torch.constant_pad_nd(x, [side for rest in reversed(overhang) for side in (0, rest)])
    total = gathered(padded, _ones(x, moved.kernel), moved.stride, moved.padding, moved.dilation, x.shape[1])
    y = total / _places(space, windows, moved, count_include_pad, x.device)
    return y, Residuals(
        x.shape[0], x.shape[1], space, moved.kernel, moved.stride, moved.padding, ceil_mode, count_include_pad
    )


def backward(
    residuals: Residuals, dy: Float[Tensor, "batch channels *steps"]
) -> tuple[Float[Tensor, "batch channels *space"]]:
    *_, space, kernel, stride, padding, _, count_include_pad = residuals
    moved, windows = Window(kernel, stride, padding, (1,) * len(space)), dy.shape[2:]
    share = dy / _places(space, windows, moved, count_include_pad, dy.device)
    behind = [max(rest, 0) for rest in _behind(space, windows, moved)]
    dx = spread(share, _ones(dy, kernel), stride, padding, moved.dilation, dy.shape[1], behind)
    return (fitted(dx, (*dy.shape[:2], *space)),)  # without what overhangs


def _behind(space: Sequence[int], windows: Sequence[int], moved: Window) -> list[int]:
    """How many places of x and its padding lie behind the last window on each axis; negative where it overhangs."""
    each = zip(space, windows, moved.kernel, moved.stride, moved.padding, strict=True)
    return [length + 2 * pad - (step * (count - 1) + taps) for length, count, taps, step, pad in each]


def _ones(x: Tensor, kernel: Sequence[int]) -> Tensor:
    """A kernel of ones for every channel."""
    return torch.ones(x.shape[1], 1, *kernel, dtype=x.dtype, device=x.device)


def _places(
    space: Sequence[int], windows: Sequence[int], moved: Window, count_include_pad: bool, device: torch.device
) -> Tensor:
    """n_l, shaped like the windows: of how many numbers each is the mean."""
    found = torch.ones((1,) * len(space), dtype=torch.int64, device=device)
    for axis, (length, count, taps, step, pad, _) in enumerate(zip(space, windows, *moved, strict=True)):
        start = step * torch.arange(count, device=device) - pad
        end = (start + taps).clamp(max=length + pad if count_include_pad else length)
        number = end - (start if count_include_pad else start.clamp(min=0))
        found = found * number.reshape([-1 if axis == other else 1 for other in range(len(space))])
    return found


INPUTS = {"x": Input(normal())}
HYPER = {"kernel": 2}
AXES = {"steps": lambda space, kernel, stride, padding, ceil_mode: steps(space, kernel, stride, padding, 1, ceil_mode)}
SIZES = {"channels": 2, "space": (3, 4)}
LONGEST = {"channels": 1025}  # each is a group by itself, and torch takes them one by one in float64
USUAL = {"kernel": (3, (3, 2)), "stride": (1, (1, 3)), "padding": (1, (1, 0))}

_INF = float("inf")

EDGES = (
    Edge("one axis of space", {"kernel": 3, "stride": 2}, sizes={"space": (8,)}),
    Edge("three axes of space", {"kernel": (2, 1, 3), "stride": 1}, sizes={"batch": 2, "space": (3, 2, 4)}),
    Edge(
        "three axes, each with its own numbers",
        {"kernel": (1, 2, 3), "stride": (1, 3, 2), "padding": (0, 1, 1)},
        sizes={"batch": 1, "space": (2, 4, 5)},
    ),
    Edge("windows that overlap", {"kernel": 3, "stride": 1}),
    Edge("windows apart", {"kernel": 1, "stride": (2, 3)}),
    Edge("one tap", {"kernel": 1}),
    Edge("the mean of all", {"kernel": (3, 4)}),
    Edge("a remainder that no window reads", {"kernel": 2, "stride": 3}, sizes={"space": (7, 6)}),
    Edge("a remainder in padding", {"kernel": 3, "stride": (2, 3), "padding": 1}, sizes={"space": (6, 5)}),
    Edge("padding", {"kernel": 3, "padding": 1}),
    Edge("padding that is not counted", {"kernel": 3, "padding": 1, "count_include_pad": False}),
    Edge("padding on one axis", {"kernel": (3, 4), "stride": (2, 1), "padding": (0, 2), "count_include_pad": False}),
    Edge("an overhang", {"kernel": 2, "stride": 3, "ceil_mode": True}, sizes={"space": (7, 5)}),
    Edge(
        "an overhang of padding", {"kernel": 3, "stride": 2, "padding": 1, "ceil_mode": True}, sizes={"space": (6, 5)}
    ),
    Edge(
        "an overhang of padding that is not counted",
        {"kernel": 3, "stride": 2, "padding": 1, "ceil_mode": True, "count_include_pad": False},
        sizes={"space": (6, 5)},
    ),
    Edge("an overhang of several places", {"kernel": (4, 5), "stride": 4, "ceil_mode": True}, sizes={"space": (6, 7)}),
    Edge(
        "an overhang that would start behind x, and is none",
        {"kernel": 2, "stride": 2, "padding": 1, "ceil_mode": True},
        sizes={"space": (3, 5)},
    ),
    Edge("no overhang left", {"kernel": 2, "ceil_mode": True}, sizes={"space": (4, 6)}),
    Edge("a kernel larger than x, overhanging", {"kernel": (4, 5), "stride": (3, 2), "ceil_mode": True}),
    Edge("a stride beyond x, overhanging", {"kernel": 2, "stride": 9, "ceil_mode": True}),
    Edge("an infinity in one window", {"x": [[[1.0, _INF, 2.0, 3.0]]]}),
    Edge("infinite cotangents", {"dy": [[[_INF, 1.0]]]}, sizes={"batch": 1, "channels": 1, "space": (4,)}),
    Edge("one place", {"kernel": 1}, sizes={"space": (1, 1)}),
    Edge("empty batch", sizes={"batch": 0}),
    Edge("no channel", sizes={"channels": 0}, raises=ValueError),
    Edge("a kernel larger than x", {"kernel": (4, 2)}, raises=ValueError),
    Edge("no axis of space", sizes={"space": ()}, raises=ValueError),
    Edge("padding beyond half of the kernel", {"kernel": 3, "padding": 2}, raises=ValueError),
    Edge("kernel of 0", {"kernel": 0}, raises=ValueError),
    Edge("stride of 0", {"stride": 0}, raises=ValueError),
    Edge("negative padding", {"padding": -1}, raises=ValueError),
    Edge("three kernels for two axes", {"kernel": (2, 2, 2)}, raises=ValueError),
)


class _Right:
    """The parts of the right formula, from which wrong ones are made."""

    def __init__(
        self,
        x: Tensor,
        dy: Tensor,
        kernel: int | tuple[int, ...],
        stride: int | tuple[int, ...] | None,
        padding: int | tuple[int, ...],
        ceil_mode: bool,
        count_include_pad: bool,
    ) -> None:
        self.x, self.dy = x, dy
        self.space, self.windows = tuple(x.shape[2:]), dy.shape[2:]
        self.window = window("avg_pool", self.space, kernel, stride, padding, 1, ceil_mode)
        self.taps = torch.Size(self.window.kernel).numel()
        self.places = self.counted(count_include_pad)
        self.share = dy / self.places

    def counted(self, count_include_pad: bool) -> Tensor:
        return _places(self.space, self.windows, self.window, count_include_pad, self.x.device)

    def dx(self, share: Tensor | None = None, **other: tuple[int, ...]) -> tuple[Tensor]:
        """dx of other shares, or of a window that has some other numbers; what it lacks of x's shape is 0."""
        share = self.share if share is None else share
        moved = self.window._replace(**other)
        behind = [
            min(max(rest, 0), step - 1)
            for rest, step in zip(_behind(self.space, share.shape[2:], moved), moved.stride, strict=True)
        ]
        ones = _ones(self.x, moved.kernel)
        dx = spread(share, ones, moved.stride, moved.padding, moved.dilation, self.x.shape[1], behind)
        return (fitted(dx, self.x.shape),)


def _assigned(t: _Right) -> tuple[Tensor]:
    """dx where the last window that reads a place assigns, and none adds."""
    one = torch.zeros_like(t.share)
    found = torch.zeros_like(t.x)
    for at in range(t.windows.numel()):
        there = (torch.arange(t.windows.numel(), device=one.device) == at).reshape(t.windows)
        found = torch.where(t.dx(one + there)[0] > 0, t.dx(t.share * there)[0], found)
    return (found,)


def _without_overhang(t: _Right) -> tuple[Tensor]:
    whole = steps(t.space, *t.window, False)
    return t.dx(fitted(fitted(t.share, (*t.x.shape[:2], *whole)), t.share.shape))


def _of(formula: Callable[[_Right], tuple[Tensor]]) -> Callable[..., tuple[Tensor]]:
    return lambda **p: formula(_Right(**p))


MISTAKES = (
    Mistake(
        "not divided",
        _of(lambda t: t.dx(t.dy)),
        forgets="the 1/n of the mean",
        shows="for more than one tap",
    ),
    Mistake(
        "all of dy to one tap",
        _of(lambda t: t.dx(t.dy, kernel=(1,) * len(t.space))),
        forgets="that a mean is no maximum: every tap has its share",
        shows="for more than one tap",
    ),
    Mistake(
        "overhang divided by the whole kernel",
        _of(lambda t: t.dx(t.dy / torch.where(t.places < t.taps, t.taps, t.places))),
        forgets="that forward divided a window which overhangs by the places that it covers",
        shows="with ceil_mode, where places remain, and without count_include_pad",
        seen="https://github.com/tracel-ai/burn/issues/5604",
    ),
    Mistake(
        "every window divided by the kernel",
        _of(lambda t: t.dx(t.dy / t.taps)),
        forgets="that not all windows cover the same number of places",
        shows="with ceil_mode, where places remain, and without count_include_pad",
        seen="https://github.com/pytorch/pytorch/issues/198119",
    ),
    Mistake(
        "padding counted",
        _of(lambda t: t.dx(t.dy / t.counted(True))),
        forgets="count_include_pad=False",
        shows="in padding, without count_include_pad",
    ),
    Mistake(
        "padding not counted",
        _of(lambda t: t.dx(t.dy / t.counted(False))),
        forgets="that padding is counted unless it is said otherwise",
        shows="in padding",
    ),
    Mistake(
        "divided by the number of windows",
        _of(lambda t: t.dx(t.dy / t.windows.numel())),
        forgets="of what the mean is",
        shows="unless there are as many windows as taps",
    ),
    Mistake(
        "divided by the square of one side",
        _of(lambda t: t.dx(t.dy / t.window.kernel[0] ** len(t.space))),
        forgets="that each axis has a kernel of its own",
        shows="for kernels that are not square",
    ),
    Mistake(
        "windows assign to dx",
        _of(_assigned),
        forgets="that a place which several windows read gets a sum",
        shows="where windows overlap",
    ),
    Mistake(
        "stride taken for the kernel",
        _of(lambda t: t.dx(stride=t.window.kernel)),
        forgets="that windows may overlap, or stand apart",
        shows="where the stride is not the kernel",
    ),
    Mistake(
        "first axis's stride for all",
        _of(lambda t: t.dx(stride=(t.window.stride[0],) * len(t.space))),
        forgets="that each axis has a stride of its own",
        shows="where strides differ",
    ),
    Mistake(
        "first axis's kernel for all",
        _of(lambda t: t.dx(kernel=(t.window.kernel[0],) * len(t.space))),
        forgets="that each axis has a kernel of its own",
        shows="for kernels that are not square",
    ),
    Mistake(
        "padding forgotten",
        _of(lambda t: t.dx(padding=(0,) * len(t.space))),
        forgets="that windows began in the padding",
        shows="for padding > 0",
    ),
    Mistake(
        "overhang dropped",
        _of(_without_overhang),
        forgets="the windows that ceil_mode adds at the border",
        shows="with ceil_mode, where places remain",
        seen="https://github.com/Oneflow-Inc/oneflow/commit/706db38cf436",
    ),
    Mistake(
        "height and width exchanged",
        _of(lambda t: t.dx(t.share.movedim(-1, 2).reshape(t.share.shape))),
        forgets="which axis of space is which",
        shows="for two axes of space and more",
    ),
)
