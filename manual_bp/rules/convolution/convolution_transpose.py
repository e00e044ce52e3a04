"""Transposed convolution: every number lays a kernel down, and where kernels overlap they add up.

    y[b, f, i] = bias[f] + Σ_c Σ_{l, k: stride l + dilation k − padding = i} W[c, f, k] x[b, c, l]

over the channels c of x and all its places l whose kernel has a tap k at i: this is convolution's dx, with x in the
place of dy.  l, k and i have a part for each axis of space (1, 2 or 3), each with numbers of its own.  y has

    steps = stride (space − 1) + dilation (kernel − 1) + 1 − 2 padding + output_padding

places: padding cuts off at both ends, and output_padding adds places at the end.  It is no padding: what the cut had
left out is there again, and only what lies behind the last kernel is bias alone.  It is less than the stride or the
dilation, as in torch.  Groups are as in convolution; W has the channels of all groups first, and the filters of one.

Derivation.  y is linear in x, in W and in bias.  x[b, c, l] reaches y at the taps of the kernel that it lays down:

    dx[b, c, l]  = Σ_f Σ_k W[c, f, k] dy[b, f, stride l + dilation k − padding]
    dW[c, f, k]  = Σ_b Σ_l x[b, c, l] dy[b, f, stride l + dilation k − padding]
    dbias[f]     = Σ_b Σ_i dy[b, f, i]

dx is the convolution of dy with W, by the same stride, padding and dilation: what was transposed is transposed back.
Behind its last position there is room for ⌊output_padding / stride⌋ more, which no number of x owns.

dW is the convolution of dy with x, as in convolution: a window as large as x, whose taps stand stride apart, moves
by dilation, and the batch has the place of the channels.  Here ⌊output_padding / dilation⌋ positions are too many.

Source: Dumoulin & Visin, "A guide to convolution arithmetic for deep learning" (arXiv 1603.07285), chapter 4.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Edge, Input, Mistake, constant, normal, require
from manual_bp.rules.convolution._correlation import compared, compared_anyhow, gathered, spread
from manual_bp.rules.convolution._space import (
    PerAxis,
    check_numbers,
    fitted,
    next_group,
    over_space,
    per_axis,
    reach,
)


class Residuals(NamedTuple):
    x: Float[Tensor, "batch groups*channels *space"]
    """For dW, and the length of dx."""
    weight: Float[Tensor, "groups*channels filters *kernel"]
    """For dx.  The bias is not kept: y is affine in it."""
    has_bias: bool
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


def forward(
    x: Float[Tensor, "batch groups*channels *space"],
    weight: Float[Tensor, "groups*channels filters *kernel"],
    bias: Float[Tensor, "groups*filters"] | None = None,
    *,
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] = 0,
    output_padding: int | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
) -> tuple[Float[Tensor, "batch groups*filters *steps"], Residuals]:
    rule, space, kernel = "convolution_transpose", tuple(x.shape[2:]), tuple(weight.shape[2:])
    require(groups >= 1, f"{rule}: groups must be at least 1", groups, "One group is all channels.")
    require(min(weight.shape[:2]) >= 1, f"{rule}: weight must hold a channel and a filter", tuple(weight.shape), "")
    steps_, pads, gaps = check_numbers(rule, space, kernel, stride, padding, dilation)
    more = per_axis(f"{rule}: output_padding", output_padding, len(space))
    for extra, step, gap in zip(more, steps_, gaps, strict=True):
        must = f"{rule}: output_padding must be at least 0, and less than the stride or the dilation"
        require(0 <= extra < max(step, gap), must, f"{extra} (stride {step}, dilation {gap})", "")
    places = steps(space, kernel, steps_, pads, more, gaps)
    require(min(places) >= 1, f"{rule}: y must have a place on each axis of space", places, "Use a smaller padding.")
    y = spread(x, weight, steps_, pads, gaps, groups, more, bias)
    return y, Residuals(x, weight, bias is not None, steps_, pads, more, gaps, groups)


def backward(
    residuals: Residuals, dy: Float[Tensor, "batch groups*filters *steps"]
) -> tuple[
    Float[Tensor, "batch groups*channels *space"],
    Float[Tensor, "groups*channels filters *kernel"],
    Float[Tensor, "groups*filters"] | None,
]:
    x, weight, has_bias, stride, padding, _, dilation, groups = residuals
    dx = fitted(gathered(dy, weight, stride, padding, dilation, groups), x.shape)  # without positions that x has not
    dweight = compared(dy, x, weight.shape[2:], stride, padding, dilation, groups)
    dbias = over_space(dy) if has_bias else None
    return dx, dweight, dbias


def steps(
    space: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: PerAxis,
    padding: PerAxis,
    output_padding: PerAxis,
    dilation: PerAxis,
) -> tuple[int, ...]:
    """How many places y has on each axis."""
    each = (per_axis("each number", number, len(space)) for number in (stride, padding, output_padding, dilation))
    return tuple(
        step * (length - 1) + reach(taps, gap) - 2 * pad + extra
        for length, taps, step, pad, extra, gap in zip(space, kernel, *each, strict=True)
    )


INPUTS = {"x": Input(normal()), "weight": Input(normal(std=0.5)), "bias": Input(normal(std=0.5))}
AXES = {"steps": steps}
ALIKE = ("space", "kernel")
SIZES = {"batch": 2, "space": (2, 3), "kernel": (3, 2)}
LONGEST = {"kernel": 9, "groups": 33}
USUAL = {"stride": ((2, 3),), "padding": ((1, 0),), "dilation": ((1, 2),)}

_INF = float("inf")

EDGES = (
    Edge("one axis of space", {"stride": 2}, sizes={"space": (5,), "kernel": (3,)}),
    Edge("three axes of space", sizes={"batch": 2, "channels": 1, "space": (2, 3, 2), "kernel": (2, 1, 3)}),
    Edge(
        "three axes, each with its own numbers",
        {"stride": (1, 2, 3), "padding": (0, 1, 2), "output_padding": (1, 0, 2), "dilation": (2, 1, 1)},
        sizes={"batch": 1, "channels": 1, "space": (2, 3, 2), "kernel": (2, 2, 3)},
    ),
    Edge("a kernel of one tap", sizes={"kernel": (1, 1)}),
    Edge("one tap and a stride, so that most of y is bias", {"stride": (2, 3)}, sizes={"kernel": (1, 1)}),
    Edge("kernels that overlap", {"stride": (1, 2)}, sizes={"kernel": (3, 4)}),
    Edge("kernels apart", {"stride": (4, 3)}),
    Edge("kernels side by side", {"stride": (3, 2)}),
    Edge("padding", {"padding": (2, 1)}, sizes={"space": (3, 4)}),
    Edge("padding that leaves one place", {"padding": (1, 1), "stride": 1}, sizes={"space": (1, 2)}),
    Edge("padding beyond the kernel", {"padding": 1, "stride": 2}, sizes={"kernel": (1, 1)}),
    Edge("output padding of 1", {"stride": 2, "output_padding": 1}),
    Edge("output padding of 1 in padding", {"stride": 2, "padding": 1, "output_padding": 1}),
    Edge("output padding of 2 in padding", {"stride": 3, "padding": 1, "output_padding": (2, 1)}),
    Edge("output padding of the stride and more", {"stride": (1, 2), "dilation": 3, "output_padding": 2}),
    Edge("output padding of the dilation and more", {"stride": 4, "dilation": (2, 1), "output_padding": (3, 2)}),
    Edge("dilation in padding", {"dilation": (2, 3), "padding": 2}),
    Edge("stride and dilation alike", {"stride": 2, "dilation": 2, "padding": 1}),
    Edge("two groups", {"groups": 2}),
    Edge("two groups, strided", {"groups": 2, "stride": 2, "padding": 1, "output_padding": 1}),
    Edge("as many groups as channels", {"groups": 4, "stride": 2}, sizes={"channels": 1, "filters": 1}),
    Edge("groups of three axes", {"groups": 2, "stride": 2}, sizes={"space": (2, 3, 2), "kernel": (2, 1, 2)}),
    Edge("as many filters as channels", sizes={"channels": 2, "kernel": (3, 3)}),
    Edge("one place", sizes={"space": (1, 1)}),
    Edge("one example", sizes={"batch": 1}),
    Edge("empty batch", sizes={"batch": 0}),
    Edge("empty batch in groups", {"groups": 2, "stride": 2}, sizes={"batch": 0}),
    Edge("zero weight", {"weight": constant(0.0)}),
    Edge(
        "an infinite cotangent",
        {"dy": [[[_INF, 1.0, 2.0, 3.0, 4.0, 5.0]]]},
        sizes={"batch": 1, "channels": 1, "space": (4,), "filters": 1, "kernel": (3,)},
    ),
    Edge("no channel", sizes={"channels": 0}, raises=ValueError),
    Edge("padding that leaves nothing", {"padding": 3}, raises=ValueError),
    Edge("output padding of stride and dilation", {"stride": 2, "output_padding": 2}, raises=ValueError),
    Edge("negative output padding", {"output_padding": -1}, raises=ValueError),
    Edge("no axis of space", sizes={"space": (), "kernel": ()}, raises=ValueError),
    Edge("stride of 0", {"stride": 0}, raises=ValueError),
    Edge("negative padding", {"padding": (0, -1)}, raises=ValueError),
    Edge("dilation of 0", {"dilation": 0}, raises=ValueError),
    Edge("three strides of two axes", {"stride": (1, 1, 1)}, raises=ValueError),
    Edge("no group", {"groups": 0}, raises=ValueError),
)


class _Right:
    """The right formulas, with parts that can be replaced: from them wrong ones are made."""

    def __init__(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        dy: Tensor,
        stride: PerAxis,
        padding: PerAxis,
        output_padding: PerAxis,
        dilation: PerAxis,
        groups: int,
    ) -> None:
        self.x, self.weight, self.bias, self.dy, self.groups = x, weight, bias, dy, groups
        axes, self.kernel = x.ndim - 2, tuple(weight.shape[2:])
        self.stride, self.padding, self.dilation = (per_axis("", n, axes) for n in (stride, padding, dilation))
        self.more = per_axis("", output_padding, axes)
        self.ones, self.zeros = (1,) * axes, (0,) * axes

    def dx(self, **other: Any) -> Tensor:
        """dx with another weight, dy, stride, padding or dilation; what it lacks of x's shape is 0."""
        p = {**vars(self), **other}
        needed = [
            max(n, reach(taps, gap) - 2 * pad)
            for n, taps, pad, gap in zip(p["dy"].shape[2:], self.kernel, p["padding"], p["dilation"], strict=True)
        ]
        dy = fitted(p["dy"], (*p["dy"].shape[:2], *needed))
        found = gathered(dy, p["weight"], p["stride"], p["padding"], p["dilation"], self.groups)
        return fitted(found, self.x.shape)

    def dweight(self, **other: Any) -> Tensor:
        """dW with another x, dy, stride, padding or dilation; what it lacks of W's shape is 0."""
        p = {**vars(self), **other}
        window = (p["stride"], p["padding"], p["dilation"])
        return compared_anyhow(p["dy"], p["x"], self.kernel, *window, self.groups)

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


def _transposed_again(r: _Right) -> Tensor:
    """dx as one more transposed convolution, of dy and the kernel that forward had."""
    channels, filters, *kernel = r.weight.shape
    by_group = r.weight.reshape(r.groups, channels // r.groups, filters, *kernel).transpose(1, 2)
    by_filter = by_group.reshape(r.groups * filters, channels // r.groups, *kernel)
    found = spread(r.dy, by_filter, r.stride, r.padding, r.dilation, r.groups, r.zeros)
    return fitted(found, r.x.shape)


def _without_ends(r: _Right, dy: Tensor) -> Tensor:
    """dy with 0 in the places that output_padding adds."""
    shorter = [n - extra for n, extra in zip(dy.shape[2:], r.more, strict=True)]
    return fitted(fitted(dy, (*dy.shape[:2], *shorter)), dy.shape)


def _reached(r: _Right) -> Tensor:
    """Which places of y a tap of some kernel has."""
    one, kernel = torch.ones_like(r.x[:1, :1]), torch.ones_like(r.weight[:1, :1])
    places = spread(one, kernel, r.stride, r.padding, r.dilation, 1, r.more) if len(r.x) else r.dy
    return places > 0


def _of(formula: Callable[[_Right], tuple[Tensor, Tensor, Tensor | None]]) -> Callable[..., Any]:
    return lambda **p: formula(_Right(**p))


MISTAKES = (
    Mistake(
        "transposed where it should not be",
        _of(lambda r: r.cotangents(dx=_transposed_again(r))),
        forgets="that the transpose of a transposed convolution is a convolution: the flag is passed on",
        shows="everywhere, but for one tap and stride 1",
        seen="https://github.com/pytorch/pytorch/issues/80766",
    ),
    Mistake(
        "dx of the length that convolution would have",
        _of(lambda r: r.cotangents(dx=gathered(r.dy, r.weight, r.stride, r.padding, r.dilation, r.groups))),
        forgets="to cut the positions for which output_padding leaves room",
        shows="where output_padding is the stride or more",
    ),
    Mistake(
        "size without output padding",
        _of(lambda r: r.cotangents(dx=r.dx(dy=_without_ends(r, r.dy)), dweight=r.dweight(dy=_without_ends(r, r.dy)))),
        forgets="that output_padding adds places that are reached: the size of y is computed without it",
        shows="with output_padding, where it is in padding",
        seen="https://github.com/tracel-ai/burn/commit/2a348235057f",
    ),
    Mistake(
        "kernel turned",
        _of(lambda r: r.cotangents(dx=r.dx(weight=r.weight.flip(tuple(range(2, r.weight.ndim)))))),
        forgets="that the transpose back does not turn the kernel: forward did",
        shows="for more than one tap",
    ),
    Mistake(
        "dW turned",
        _of(lambda r: r.cotangents(dweight=r.dweight().flip(tuple(range(2, r.weight.ndim))))),
        forgets="that taps stand as in forward",
        shows="for more than one tap",
    ),
    Mistake(
        "stride forgotten in dx",
        _of(lambda r: r.cotangents(dx=r.dx(stride=r.ones))),
        forgets="that the places of x stand stride apart on y",
        shows="for stride > 1",
        seen="https://github.com/pytorch/pytorch/issues/63314",
    ),
    Mistake(
        "stride forgotten in dW",
        _of(lambda r: r.cotangents(dweight=r.dweight(stride=r.ones))),
        forgets="that the places of x stand stride apart on y",
        shows="for stride > 1",
    ),
    Mistake(
        "stride and dilation exchanged in dx",
        _of(lambda r: r.cotangents(dx=r.dx(stride=r.dilation, dilation=r.stride))),
        forgets="that they change places in dW alone",
        shows="unless stride and dilation are alike",
    ),
    Mistake(
        "stride and dilation not exchanged in dW",
        _of(lambda r: r.cotangents(dweight=r.dweight(stride=r.dilation, dilation=r.stride))),
        forgets="that what moves and what has taps have changed places",
        shows="unless stride and dilation are alike",
    ),
    Mistake(
        "dilation forgotten",
        _of(lambda r: r.cotangents(dx=r.dx(dilation=r.ones), dweight=r.dweight(dilation=r.ones))),
        forgets="that taps stand dilation apart",
        shows="for dilation > 1",
    ),
    Mistake(
        "padding forgotten",
        _of(lambda r: r.cotangents(dx=r.dx(padding=r.zeros), dweight=r.dweight(padding=r.zeros))),
        forgets="that y begins behind what padding cut off",
        shows="for padding > 0",
    ),
    Mistake(
        "first axis's numbers for all",
        _of(
            lambda r: r.cotangents(
                dx=r.dx(**{n: (getattr(r, n)[0],) * len(r.ones) for n in ("stride", "padding", "dilation")})
            )
        ),
        forgets="that each axis has numbers of its own",
        shows="where strides, paddings or dilations differ",
    ),
    Mistake(
        "height and width of the kernel exchanged",
        _of(lambda r: r.cotangents(dweight=r.dweight().movedim(2, -1).reshape(r.weight.shape))),
        forgets="which axis of space is which",
        shows="for two axes of space and more",
    ),
    Mistake(
        "filters and channels exchanged in dW",
        _of(lambda r: r.cotangents(dweight=r.dweight().transpose(0, 1).reshape(r.weight.shape))),
        forgets="that the weight of a transposed convolution has the channels of x first",
        shows="for several filters and channels",
    ),
    Mistake(
        "another group's filters in dW",
        _of(lambda r: r.cotangents(dweight=r.dweight(dy=next_group(r.dy, r.groups)))),
        forgets="which slice of y a group of channels reached",
        shows="for groups > 1",
        seen="https://github.com/tracel-ai/burn/commit/84042ba490c4",
    ),
    Mistake(
        "another group's filters in dx",
        _of(lambda r: r.cotangents(dx=r.dx(dy=next_group(r.dy, r.groups)))),
        forgets="which slice of y a group of channels reached",
        shows="for groups > 1",
    ),
    Mistake(
        "dbias averaged",
        _of(lambda r: r.cotangents(dbias=over_space(r.dy) / max(r.dy[:, 0].numel(), 1))),
        forgets="that a bias adds to every place, so its cotangent is a sum",
        shows="for more than one place",
    ),
    Mistake(
        "dbias where kernels were laid down",
        _of(lambda r: r.cotangents(dbias=over_space(r.dy * _reached(r)))),
        forgets="that the bias is added between kernels and behind them too",
        shows="where kernels stand apart, or with output_padding",
    ),
    Mistake(
        "dW averaged over the batch",
        _of(lambda r: r.cotangents(dweight=r.dweight() / max(len(r.x), 1))),
        forgets="that the 1/n of a mean cost is in dy already",
        shows="for more than one example",
    ),
)
