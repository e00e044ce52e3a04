"""Convolution: one weighted sum for each position of a window.

    y[b, f, l] = bias[f] + Σ_c Σ_k W[f, c, k] x[b, c, i],   i = stride l + dilation k − padding

over the channels c of x and the taps k of a window, for every position l at which the window fits: one at least
(ValueError).  l, k and i have a part for each axis of space (1, 2 or 3), each with a stride, padding and dilation of
its own.  x is 0 outside.  The kernel is not turned: signal processing calls this cross-correlation.  With groups, the
channels and the filters fall into as many equal consecutive parts, and a filter sees the channels of its own part.

Derivation.  y is linear in x, in W and in bias, so each cotangent is a sum over every y that its argument reaches, of
dy times the factor with which it does:

    dx[b, c, i]  = Σ_f Σ_{l, k: stride l + dilation k − padding = i} W[f, c, k] dy[b, f, l]
    dW[f, c, k]  = Σ_b Σ_l dy[b, f, l] x[b, c, stride l + dilation k − padding]
    dbias[f]     = Σ_b Σ_l dy[b, f, l]

Both sums are convolutions again.

dx is the transposed convolution of dy with W: every dy[l] lays the kernel, times itself, down where its window stood,
and where windows overlap the parts add up.  (Seen from i it is a convolution with the turned kernel, of dy with
stride − 1 zeros between its places.)  How long it is does not follow from dy: several lengths of x have one number of
positions.  With the reach d = dilation (kernel − 1) + 1 of a window,

    steps = ⌊(space + 2 padding − d) / stride⌋ + 1      r = (space + 2 padding − d) mod stride

the windows end r places before the padded x does.  Without these places (transposed convolution calls r its output
padding) dx would be r places too short.  As x ends padding places before the padded x, only the last r − padding places
of dx, if any, are behind all windows and 0: cut off where there is padding, others are lost.

dW is the convolution of x with dy: in its sum k is the position, and l the tap, of a window as large as dy, which moves
by dilation and has its taps stride apart.  So stride and dilation have changed places, and since the sum is over b, so
have batch and channels.  This window has ⌊r / dilation⌋ positions more than W has taps, all behind the last, where no
window stood: they are cut off.

Source: Dumoulin & Visin, "A guide to convolution arithmetic for deep learning" (arXiv 1603.07285), chapters 2 and 4.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, constant, normal, require
from manual_bp.rules.convolution._correlation import compared, compared_anyhow, gathered, spread
from manual_bp.rules.convolution._space import check_window, fitted, next_group, over_space, remainder, steps


class Residuals(NamedTuple):
    x: Float[Tensor, "batch groups*channels *space"]
    """For dW, and the length of dx."""
    weight: Float[Tensor, "groups*filters channels *kernel"]
    """For dx.  The bias is not kept: y is affine in it."""
    has_bias: bool
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


def forward(
    x: Float[Tensor, "batch groups*channels *space"],
    weight: Float[Tensor, "groups*filters channels *kernel"],
    bias: Float[Tensor, "groups*filters"] | None = None,
    *,
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
) -> tuple[Float[Tensor, "batch groups*filters *steps"], Residuals]:
    require(groups >= 1, "convolution: groups must be at least 1", groups, "One group is all channels.")
    require(min(weight.shape[:2]) >= 1, "convolution: weight must hold a filter and a channel", tuple(weight.shape), "")
    window = check_window("convolution", x.shape[2:], weight.shape[2:], stride, padding, dilation)
    y = gathered(x, weight, *window, groups, bias)
    return y, Residuals(x, weight, bias is not None, *window, groups)


def backward(
    residuals: Residuals, dy: Float[Tensor, "batch groups*filters *steps"]
) -> tuple[
    Float[Tensor, "batch groups*channels *space"],
    Float[Tensor, "groups*filters channels *kernel"],
    Float[Tensor, "groups*filters"] | None,
]:
    x, weight, has_bias, stride, padding, dilation, groups = residuals
    space, kernel = x.shape[2:], weight.shape[2:]
    behind = remainder(space, kernel, stride, padding, dilation)
    dx = spread(dy, weight, stride, padding, dilation, groups, behind)
    dweight = compared(x, dy, kernel, stride, padding, dilation, groups)
    dbias = over_space(dy) if has_bias else None
    return dx, dweight, dbias


INPUTS = {"x": Input(normal()), "weight": Input(normal(std=0.5)), "bias": Input(normal(std=0.5))}
AXES = {"steps": steps}
ALIKE = ("space", "kernel")
SIZES = {"space": (5, 4), "kernel": (2, 3)}
LONGEST = {"kernel": 9, "groups": 33}
USUAL = {"stride": ((1, 3),), "padding": ((0, 2),), "dilation": ((2, 1),)}

_INF = float("inf")

EDGES = (
    Edge("one axis of space", sizes={"space": (7,), "kernel": (3,)}),
    Edge("three axes of space", sizes={"batch": 2, "channels": 1, "space": (3, 4, 5), "kernel": (2, 1, 3)}),
    Edge(
        "three axes, each with its own numbers",
        {"stride": (1, 2, 3), "padding": (0, 1, 2), "dilation": (2, 1, 1)},
        sizes={"batch": 1, "channels": 1, "space": (3, 4, 5), "kernel": (2, 2, 3)},
    ),
    Edge("a kernel of one tap", sizes={"kernel": (1, 1)}),
    Edge("one tap and a stride, so that most of x is not read", {"stride": (2, 3)}, sizes={"kernel": (1, 1)}),
    Edge("one tap in the padding", {"padding": 1}, sizes={"kernel": (1, 1)}),
    Edge("an even kernel in padding", {"padding": 1}, sizes={"kernel": (2, 4)}),
    Edge("a kernel as large as x", sizes={"kernel": (5, 4)}),
    Edge("a kernel as large as x and its padding", {"padding": (1, 2)}, sizes={"kernel": (7, 8)}),
    Edge("more padding than kernel", {"padding": (3, 4)}),
    Edge("a stride beyond the kernel", {"stride": (4, 3)}, sizes={"space": (9, 8)}),
    Edge("a stride beyond x", {"stride": (9, 7)}),
    Edge("a remainder of 1", {"stride": 2}, sizes={"kernel": (3, 2), "space": (6, 5)}),
    Edge("a remainder of 1 in padding", {"stride": 2, "padding": 1}, sizes={"kernel": (3, 2), "space": (6, 5)}),
    Edge("a remainder of 2 in padding", {"stride": 3, "padding": 1}, sizes={"kernel": (3, 2), "space": (6, 5)}),
    Edge(
        "a remainder of 3 in padding of 2", {"stride": (4, 5), "padding": 2}, sizes={"kernel": (3, 2), "space": (6, 4)}
    ),
    Edge(
        "a remainder of 2 in padding of 2, along one axis",
        {"stride": 3, "padding": 2},
        sizes={"kernel": (2,), "space": (6,)},
    ),
    Edge(
        "a remainder with several taps apart",
        {"stride": (4, 3), "padding": 1, "dilation": 2},
        sizes={"space": (10, 7), "kernel": (3, 2)},
    ),
    Edge(
        "a remainder beyond the dilation",
        {"stride": (5, 4), "dilation": (2, 1)},
        sizes={"kernel": (3, 2), "space": (9, 8)},
    ),
    Edge("dilation in padding", {"padding": 2, "dilation": (2, 3)}, sizes={"kernel": (3, 2)}),
    Edge("dilation beyond x", {"padding": 3, "dilation": 4}, sizes={"space": (4, 3), "kernel": (2, 2)}),
    Edge("stride and dilation alike", {"stride": 2, "dilation": 2}, sizes={"kernel": (3, 2), "space": (8, 7)}),
    Edge("two groups", {"groups": 2}),
    Edge("two groups, strided", {"groups": 2, "stride": 2, "padding": 1}),
    Edge("as many groups as channels", {"groups": 4}, sizes={"channels": 1, "filters": 1}),
    Edge("as many groups as channels, several filters each", {"groups": 3, "padding": 1}, sizes={"channels": 1}),
    Edge("strided groups along one axis", {"groups": 3, "stride": 2}, sizes={"space": (8,), "kernel": (3,)}),
    Edge("groups of three axes", {"groups": 2, "stride": 2}, sizes={"space": (4, 3, 5), "kernel": (2, 1, 2)}),
    Edge("as many filters as channels", sizes={"channels": 2, "space": (4, 5), "kernel": (3, 3)}),
    Edge("x as high as wide, and so the kernel", sizes={"space": (4, 4), "kernel": (2, 2)}),
    Edge("one example", sizes={"batch": 1}),
    Edge("empty batch", sizes={"batch": 0}),
    Edge("empty batch in groups", {"groups": 2, "stride": 2}, sizes={"batch": 0}),
    Edge("no channel", sizes={"channels": 0}, raises=ValueError),
    Edge("zero weight", {"weight": constant(0.0)}),
    Edge(
        "an infinite cotangent stays where its window was",
        {"dy": [[[_INF, 1.0, 2.0, 3.0]]]},
        sizes={"batch": 1, "channels": 1, "space": (6,), "filters": 1, "kernel": (3,)},
    ),
    Edge("a long kernel", {"padding": 16}, sizes={"channels": 1, "filters": 2, "space": (40,), "kernel": (33,)}),
    Edge("a kernel larger than x", sizes={"kernel": (6, 2)}, raises=ValueError),
    Edge("a kernel that is larger than x when dilated", {"dilation": (1, 2)}, raises=ValueError),
    Edge("no axis of space", sizes={"space": (), "kernel": ()}, raises=ValueError),
    Edge(
        "another number of axes in the kernel",
        {"weight": constant(1.0)},
        sizes={"space": (5, 4), "kernel": (3,)},
        raises=ValueError,
    ),
    Edge("stride of 0", {"stride": 0}, raises=ValueError),
    Edge("negative padding", {"padding": (0, -1)}, raises=ValueError),
    Edge("dilation of 0", {"dilation": 0}, raises=ValueError),
    Edge("three strides of two axes", {"stride": (1, 1, 1)}, raises=ValueError),
    Edge("no group", {"groups": 0}, raises=ValueError),
    Edge(
        "channels that groups do not divide",
        {"x": [[[1.0, 2.0]] * 3], "weight": [[[1.0]]] * 2, "groups": 2},
        raises=ValueError,
    ),
    Edge(
        "filters that groups do not divide",
        {"x": [[[1.0, 2.0]] * 4], "weight": [[[1.0]] * 2] * 3, "groups": 2},
        raises=ValueError,
    ),
)


class _Right:
    """The right formulas, with parts that can be replaced: from them wrong ones are made."""

    def __init__(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        dy: Tensor,
        stride: int | tuple[int, ...],
        padding: int | tuple[int, ...],
        dilation: int | tuple[int, ...],
        groups: int,
    ) -> None:
        self.x, self.weight, self.bias, self.dy, self.groups = x, weight, bias, dy, groups
        self.space, self.kernel = x.shape[2:], weight.shape[2:]
        self.window = check_window("convolution", self.space, self.kernel, stride, padding, dilation)
        self.stride, self.padding, self.dilation = self.window
        self.behind = remainder(self.space, self.kernel, *self.window)

    def dx(self, **other: Any) -> Tensor:
        """dx with another weight, dy, stride, padding, dilation or `behind`; what it lacks of x's shape is 0."""
        p = {**vars(self), **other}
        found = spread(p["dy"], p["weight"], p["stride"], p["padding"], p["dilation"], p["groups"], p["behind"])
        return fitted(found, self.x.shape)

    def dweight(self, **other: Any) -> Tensor:
        """dW with another x, dy, stride, padding, dilation or groups; what it lacks of W's shape is 0."""
        p = {**vars(self), **other}
        window = (p["stride"], p["padding"], p["dilation"])
        return compared_anyhow(p["x"], p["dy"], self.kernel, *window, p["groups"])

    def cotangents(
        self, dx: Tensor | None = None, dweight: Tensor | None = None, dbias: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The right ones but for those that are given."""
        of_bias = over_space(self.dy) if dbias is None else dbias
        return (
            self.dx() if dx is None else dx,
            self.dweight() if dweight is None else dweight,
            None if self.bias is None else of_bias,
        )


def _uncut(right: _Right) -> Tensor:
    """dW with all taps for which the remainder leaves room."""
    behind = zip(right.kernel, right.behind, right.dilation, strict=True)
    taps = tuple(k + r // gap for k, r, gap in behind)
    return compared(right.x, right.dy, taps, *right.window, right.groups)


def _last_taps(taps: Tensor, kernel: Sequence[int]) -> Tensor:
    for axis, length in enumerate(kernel):
        taps = taps.narrow(2 + axis, taps.shape[2 + axis] - length, length)
    return taps


def _space_axes(x: Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


def _interleaved(channels: Tensor, groups: int) -> Tensor:
    """Axis 1 with the first channel of every group first."""
    batch, length, *space = channels.shape
    return channels.reshape(batch, groups, length // groups, *space).transpose(1, 2).reshape(channels.shape)


def _repeated(dy: Tensor, stride: Sequence[int]) -> Tensor:
    """Each place of dy stride times, where it should stand once, with zeros behind it."""
    for axis, step in enumerate(stride):
        dy = dy.repeat_interleave(step, 2 + axis)
    return dy


def _assigned(right: _Right) -> Tensor:
    """dx where the last window that reaches a place assigns, and none adds."""
    taps = torch.ones_like(right.weight[:1, :1])
    one = torch.zeros_like(right.dy[:1, :1])
    found = torch.zeros_like(right.x)
    for place in range(one.numel()):
        there = torch.zeros_like(one)
        there.view(-1)[place] = 1
        reached = fitted(spread(there, taps, *right.window, 1, right.behind), (1, 1, *right.space))
        found = torch.where(reached > 0, right.dx(dy=right.dy * there), found)
    return found


def _wrapped(right: _Right) -> Tensor:
    """dx to which is added, at the other end of the first axis, what fell into the padding."""
    unpadded = (0,) * len(right.padding)
    whole = tuple(n + 2 * pad for n, pad in zip(right.space, right.padding, strict=True))
    behind = remainder(whole, right.kernel, right.stride, unpadded, right.dilation)
    padded = spread(right.dy, right.weight, right.stride, unpadded, right.dilation, right.groups, behind)
    for axis, (n, pad) in list(enumerate(zip(right.space, right.padding, strict=True)))[1:]:
        padded = padded.narrow(2 + axis, pad, n)
    n, pad = right.space[0], min(right.padding[0], right.space[0])
    dx = padded.narrow(2, right.padding[0], n).clone()
    dx[:, :, n - pad :] += padded[:, :, right.padding[0] - pad : right.padding[0]]
    dx[:, :, :pad] += padded[:, :, right.padding[0] + n : right.padding[0] + n + pad]
    return dx


def _of_right(formula: Callable[[_Right], tuple[Tensor, Tensor, Tensor | None]]) -> Callable[..., Any]:
    return lambda **p: formula(_Right(**p))


MISTAKES = (
    Mistake(
        "kernel not turned",
        _of_right(lambda r: r.cotangents(dx=r.dx(weight=r.weight.flip(_space_axes(r.weight))))),
        forgets="that the tap k of y[l] is tap −k as seen from x: the transposed convolution turns the kernel",
        shows="for more than one tap",
    ),
    Mistake(
        "dW turned",
        _of_right(lambda r: r.cotangents(dweight=r.dweight().flip(_space_axes(r.weight)))),
        forgets="that forward did not turn the kernel",
        shows="for more than one tap",
    ),
    Mistake(
        "remainder forgotten in dx",
        _of_right(lambda r: r.cotangents(dx=r.dx(behind=(0,) * len(r.stride)))),
        forgets="the places behind the last window: they are cut off, though it reached some of them",
        shows="where the stride leaves a remainder, in padding",
    ),
    Mistake(
        "remainder taken for 1 at most",
        _of_right(lambda r: r.cotangents(dx=r.dx(behind=tuple(min(b, 1) for b in r.behind)))),
        forgets="that a stride of 3 and more can leave more than one place",
        shows="where the stride leaves a remainder of 2 and more, in padding",
        seen="https://github.com/tracel-ai/burn/commit/b62be4dd7da9",
    ),
    Mistake(
        "taps too many in dW",
        _of_right(lambda r: r.cotangents(dweight=_uncut(r))),
        forgets="to cut what the remainder leaves room for",
        shows="where the remainder is a dilation or more",
        seen="https://github.com/huggingface/candle/commit/46d6566c99f6",
    ),
    Mistake(
        "dW cut at the front",
        _of_right(lambda r: r.cotangents(dweight=_last_taps(_uncut(r), r.kernel))),
        forgets="that the positions too many of the convolution are the last ones",
        shows="where the remainder is a dilation or more",
    ),
    Mistake(
        "stride forgotten in dW",
        _of_right(lambda r: r.cotangents(dweight=r.dweight(stride=(1,) * len(r.stride)))),
        forgets="that the taps of dy stand stride apart on x",
        shows="for stride > 1",
    ),
    Mistake(
        "dilation forgotten in dW",
        _of_right(lambda r: r.cotangents(dweight=r.dweight(dilation=(1,) * len(r.stride)))),
        forgets="that the window of dy moves by dilation",
        shows="for dilation > 1",
    ),
    Mistake(
        "stride and dilation not exchanged in dW",
        _of_right(lambda r: r.cotangents(dweight=r.dweight(stride=r.dilation, dilation=r.stride))),
        forgets="that what moves and what has taps have changed places",
        shows="unless stride and dilation are alike",
    ),
    Mistake(
        "stride forgotten in dx",
        _of_right(lambda r: r.cotangents(dx=r.dx(stride=(1,) * len(r.stride), behind=(0,) * len(r.stride)))),
        forgets="the zeros between the places of dy",
        shows="for stride > 1",
    ),
    Mistake(
        "dy repeated where zeros belong",
        _of_right(
            lambda r: r.cotangents(
                dx=r.dx(dy=_repeated(r.dy, r.stride), stride=(1,) * len(r.stride), behind=(0,) * len(r.stride))
            )
        ),
        forgets="that dy reaches every window once",
        shows="for stride > 1",
    ),
    Mistake(
        "dilation forgotten in dx",
        _of_right(lambda r: r.cotangents(dx=r.dx(dilation=(1,) * len(r.stride)))),
        forgets="that taps stand dilation apart",
        shows="for dilation > 1",
    ),
    Mistake(
        "padding forgotten in dx",
        _of_right(lambda r: r.cotangents(dx=r.dx(padding=(0,) * len(r.stride)))),
        forgets="that dx begins behind the padding",
        shows="for padding > 0",
    ),
    Mistake(
        "padding forgotten in dW",
        _of_right(lambda r: r.cotangents(dweight=r.dweight(padding=(0,) * len(r.stride)))),
        forgets="that windows began in the padding",
        shows="for padding > 0",
    ),
    Mistake(
        "padding wraps around",
        _of_right(lambda r: r.cotangents(dx=_wrapped(r))),
        forgets="that nobody is owed what falls into the padding: here it is added at the other end, as if a neighbour "
        "were there",
        shows="for padding > 0",
        seen="https://github.com/NVIDIA/apex/commit/9e295728d07d",
    ),
    Mistake(
        "first axis's stride for all",
        _of_right(
            lambda r: r.cotangents(
                dx=r.dx(stride=(r.stride[0],) * len(r.stride), behind=(0,) * len(r.stride)),
                dweight=r.dweight(stride=(r.stride[0],) * len(r.stride)),
            )
        ),
        forgets="that each axis has a stride of its own",
        shows="where strides differ",
    ),
    Mistake(
        "first axis's padding for all",
        _of_right(
            lambda r: r.cotangents(
                dx=r.dx(padding=(r.padding[0],) * len(r.stride)),
                dweight=r.dweight(padding=(r.padding[0],) * len(r.stride)),
            )
        ),
        forgets="that each axis has a padding of its own",
        shows="where paddings differ",
    ),
    Mistake(
        "first axis's dilation for all",
        _of_right(
            lambda r: r.cotangents(
                dx=r.dx(dilation=(r.dilation[0],) * len(r.stride)),
                dweight=r.dweight(dilation=(r.dilation[0],) * len(r.stride)),
            )
        ),
        forgets="that each axis has a dilation of its own",
        shows="where dilations differ",
    ),
    Mistake(
        "windows assign to dx",
        _of_right(lambda r: r.cotangents(dx=_assigned(r))),
        forgets="that a place which several windows read gets a sum",
        shows="where windows overlap",
    ),
    Mistake(
        "height and width of the kernel exchanged",
        _of_right(
            lambda r: r.cotangents(
                dx=r.dx(weight=r.weight.reshape(*r.weight.shape[:2], *r.kernel[::-1]).movedim(-1, 2)),
                dweight=r.dweight().movedim(2, -1).reshape(r.weight.shape),
            )
        ),
        forgets="which axis of space is which",
        shows="for two axes of space and more",
    ),
    Mistake(
        "filters and channels exchanged in dW",
        _of_right(lambda r: r.cotangents(dweight=r.dweight().transpose(0, 1).reshape(r.weight.shape))),
        forgets="that the batch took the place of the channels, so that channels come out first",
        shows="for several filters and channels",
    ),
    Mistake(
        "another group's channels in dW",
        _of_right(lambda r: r.cotangents(dweight=r.dweight(x=next_group(r.x, r.groups)))),
        forgets="which slice of x a group of filters saw",
        shows="for groups > 1",
        seen="https://github.com/tracel-ai/burn/commit/ac094d43b0b4",
    ),
    Mistake(
        "groups of dW strided wrongly",
        _of_right(
            lambda r: r.cotangents(
                dx=r.dx(dy=next_group(r.dy, r.groups)) if max(r.stride) > 1 else None,
                dweight=r.dweight(dy=next_group(r.dy, r.groups)) if max(r.stride) > 1 else None,
            )
        ),
        forgets="where a group begins, when the kernel for strides is taken",
        shows="for groups > 1 and stride > 1 together",
        seen="https://github.com/ml-explore/mlx/commit/7a1d4f5c12ac",
    ),
    Mistake(
        "groups interleaved",
        _of_right(lambda r: r.cotangents(dx=_interleaved(r.dx(), r.groups))),
        forgets="that the channels of a group are consecutive",
        shows="for several groups of several channels",
    ),
    Mistake(
        "dbias counts positions",
        _of_right(
            lambda r: (
                r.cotangents(dbias=torch.full_like(r.dy[0, :, 0].flatten(1)[:, 0], r.dy[:, 0].numel()))
                if r.dy.numel()
                else r.cotangents()
            )
        ),
        forgets="dy: every position adds its dy, not 1",
        shows="wherever dy is not 1",
        seen="https://github.com/tracel-ai/burn/commit/a74e4cd0bc0b",
    ),
    Mistake(
        "dbias averaged",
        _of_right(lambda r: r.cotangents(dbias=over_space(r.dy) / max(r.dy[:, 0].numel(), 1))),
        forgets="that a bias adds to every position, so its cotangent is a sum",
        shows="for more than one position",
    ),
    Mistake(
        "dbias over the batch only",
        _of_right(lambda r: r.cotangents(dbias=r.dy.sum(0))),
        forgets="the axes of space",
        shows="always, in the shape",
    ),
    Mistake(
        "dbias forgotten",
        _of_right(lambda r: r.cotangents(dbias=torch.zeros_like(over_space(r.dy)))),
        forgets="the bias",
        shows="everywhere",
    ),
    Mistake(
        "dW averaged over the batch",
        _of_right(lambda r: r.cotangents(dweight=r.dweight() / max(len(r.x), 1))),
        forgets="that the 1/n of a mean cost is in dy already",
        shows="for more than one example",
    ),
    Mistake(
        "dW of the last example",
        _of_right(lambda r: r.cotangents(dweight=r.dweight(x=r.x[-1:], dy=r.dy[-1:]))),
        forgets="to add: each example writes over what the one before it left",
        shows="for more than one example",
    ),
)
