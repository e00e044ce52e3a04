"""Of windows over space, and of upsampling.  A tap is a place of the window, and reads one place for each position."""

import itertools
import math

import torch
from torch.nn import functional

import manual_bp as bp
from manual_bp.rules.convolution._space import per_axis
from manual_bp.rules.convolution.upsample import _between, _fractions
from tests.oracle.tenth_bank.entry import Bank

bank = Bank()


def read_by(tap, counts, stride, dilation):
    """Index of the places of padded x that a tap reads."""
    each = zip(tap, counts, stride, dilation, strict=True)
    return (..., *[slice(gap * at, gap * at + step * (count - 1) + 1, step) for at, count, step, gap in each])


def taps(kernel):
    return itertools.product(*map(range, kernel))


def sides(padding):
    return [pad for pad in reversed(padding) for _ in range(2)]


def inner(padded, space, padding):
    return padded[(..., *[slice(pad, pad + length) for length, pad in zip(space, padding, strict=True)])]


@bank.wrong(
    "convolution",
    'mode="replicate"',
    'mode="constant"',
    cause="dweight takes the padding for copies of the number at the border, where it is 0",
    keywords=("replicat", "clamp", "border", "edge", "nearest", "copies"),
)
def convolution_dweight_pads_with_the_border(inputs, dy, stride=1, padding=0, dilation=1, groups=1):
    x, weight, bias = inputs
    hyper = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    y, _ = bp.convolution.forward(x, weight, bias, **hyper)
    batch, space, kernel, counts = x.shape[0], x.shape[2:], weight.shape[2:], dy.shape[2:]
    stride, padding, dilation = (per_axis("convolution", n, len(space)) for n in (stride, padding, dilation))
    channels, filters, positions = weight.shape[1], weight.shape[0] // groups, math.prod(counts)
    padded = functional.pad(x, sides(padding), mode="replicate")
    dpadded = torch.zeros_like(padded)
    g = dy.reshape(batch, groups, filters, positions)
    dweight = []
    for tap in taps(kernel):
        places = read_by(tap, counts, stride, dilation)
        read = padded[places].reshape(batch, groups, channels, positions)
        dweight.append(torch.einsum("bgfl,bgcl->gfc", g, read).flatten(0, 1))
        by = weight[(..., *tap)].reshape(groups, filters, channels)
        dpadded[places] += torch.einsum("gfc,bgfl->bgcl", by, g).reshape(batch, groups * channels, *counts)
    dbias = None if bias is None else dy.sum((0, *range(2, dy.ndim)))
    return y, (inner(dpadded, space, padding), torch.stack(dweight, -1).reshape(weight.shape), dbias)


@bank.wrong(
    "avg_pool",
    "end - start\n",
    "end - (start if count_include_pad else start.clamp(min=0))\n",
    cause="with count_include_pad=False the padding before x is counted in backward, and that behind x is not",
    keywords=("count_include_pad", "before x", "padding", "first window", "places"),
)
def avg_pool_counts_the_padding_before(
    inputs, dy, kernel, stride=None, padding=0, ceil_mode=False, count_include_pad=True
):
    (x,) = inputs
    hyper = {"stride": stride, "padding": padding, "ceil_mode": ceil_mode, "count_include_pad": count_include_pad}
    y, _ = bp.avg_pool.forward(x, kernel=kernel, **hyper)
    space, counts = x.shape[2:], dy.shape[2:]
    stride = kernel if stride is None else stride
    kernel, stride, padding = (per_axis("avg_pool", n, len(space)) for n in (kernel, stride, padding))
    share, long = dy, []
    for axis, (length, count, wide, step, pad) in enumerate(zip(space, counts, kernel, stride, padding, strict=True)):
        start = step * torch.arange(count, device=x.device) - pad
        end = (start + wide).clamp(max=length + pad if count_include_pad else length)
        number = end - start
        share = share / number.reshape([-1 if axis == other else 1 for other in range(len(space))])
        long.append(max(length + 2 * pad, step * (count - 1) + wide))
    dpadded = torch.zeros(*x.shape[:2], *long, dtype=dy.dtype, device=dy.device)
    for tap in taps(kernel):
        dpadded[read_by(tap, counts, stride, [1] * len(space))] += share
    return y, (inner(dpadded, space, padding),)


def to_the_first(x, y, dy, kept):
    winner = kept.winner.flatten(2)
    dx = torch.zeros(*x.shape[:2], math.prod(kept.space), dtype=dy.dtype, device=dy.device)
    return dx.scatter_add(-1, winner, dy.flatten(2)).reshape(x.shape)


def to_all_that_equal_y(x, y, dy, kept):
    counts = dy.shape[2:]
    each = list(zip(kept.space, counts, kept.kernel, kept.stride, kept.padding, kept.dilation, strict=True))
    ends = [max(n + pad, step * (count - 1) + gap * (wide - 1) + 1 - pad) for n, count, wide, step, pad, gap in each]
    around = [(pad, end - n) for (n, *_, pad, _), end in zip(each, ends, strict=True)]
    padded = functional.pad(x, [side for pair in reversed(around) for side in pair], value=-math.inf)
    dpadded = torch.zeros_like(padded)
    for tap in taps(kept.kernel):
        places = read_by(tap, counts, kept.stride, kept.dilation)
        is_largest = (padded[places] == y) | (padded[places].isnan() & y.isnan())
        dpadded[places] += torch.where(is_largest, dy, 0)
    return inner(dpadded, kept.space, kept.padding)


@bank.wrong(
    "max_pool",
    "to_all_that_equal_y(",
    "to_the_first(",
    cause="all taps that equal the largest number get dy, so that at a tie it is given out several times",
    keywords=("tie", "equal"),
)
def max_pool_all_of_dy_to_each_tied_tap(inputs, dy, kernel, stride=None, padding=0, dilation=1, ceil_mode=False):
    (x,) = inputs
    hyper = {"stride": stride, "padding": padding, "dilation": dilation, "ceil_mode": ceil_mode}
    y, kept = bp.max_pool.forward(x, kernel=kernel, **hyper)
    return y, (to_all_that_equal_y(x, y, dy, kept),)


@bank.wrong(
    "upsample",
    "of_upper * (lower + 1 < length)",
    "of_upper",
    cause="what lies behind the last place is dropped, where it is the last place's again",
    keywords=("last place", "border", "edge", "behind", "dropped", "last"),
)
def upsample_drops_what_is_behind_the_last(inputs, dy, scale, mode="nearest", align_corners=False):
    (x,) = inputs
    y, kept = bp.upsample.forward(x, scale=scale, mode=mode, align_corners=align_corners)
    space = x.shape[2:]
    if mode == "nearest":
        return y, bp.upsample.backward(kept, dy)
    for axis, (length, fraction) in enumerate(zip(space, _fractions(scale, len(space)), strict=True), start=2):
        lower, upper, of_lower, of_upper, parts = _between(length, fraction, align_corners, dy)
        along = [-1 if axis == other else 1 for other in range(dy.ndim)]
        part = dy / parts
        zeros = torch.zeros(*dy.shape[:axis], length, *dy.shape[axis + 1 :], dtype=dy.dtype, device=dy.device)
        of_upper = of_upper * (lower + 1 < length)
        dy = zeros.index_add(axis, lower, part * of_lower.reshape(along))
        dy = dy.index_add(axis, upper, part * of_upper.reshape(along))
    return y, (dy,)
