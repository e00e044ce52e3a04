"""Convolution, pooling, resampling: columns of windows, geometry that is computed a second time."""

import itertools

import torch

from tests.oracle.eighth_bank.entry import Bank, Entry

ENTRIES: list[Entry] = []
bank = Bank(ENTRIES)


def each(number, axes):
    return (number,) * axes if isinstance(number, int) else tuple(number)


def taps(kernel):
    return itertools.product(*(range(k) for k in kernel))


def strided(tap, steps, stride, dilation):
    """Where one tap of all windows stands in the padded picture."""
    axes = zip(tap, steps, stride, dilation, strict=True)
    return (..., *(slice(t * d, t * d + (n - 1) * s + 1, s) for t, n, s, d in axes))


def spread(x, padding, fill=0.0, behind=0):
    return torch.nn.functional.pad(x, [side for p in reversed(padding) for side in (p, p + behind)], value=fill)


@bank.wrong(
    "convolution",
    "the padding of the first axis is cut off dx on every axis",
    "padding",
    mend=("crop = (padding[0],) * axes", "crop = padding"),
    ndim=(4,),
)
def convolution_crops_by_the_first_padding(inputs, dy, stride=1, padding=0, dilation=1, groups=1):
    x, weight, bias = inputs
    axes = x.ndim - 2
    stride, padding, dilation = each(stride, axes), each(padding, axes), each(dilation, axes)
    y = torch.conv2d(x, weight, bias, stride, padding, dilation, groups)
    padded = spread(x, padding)
    dpadded, dweight = torch.zeros_like(spread(padded, (max(padding),) * axes)), torch.zeros_like(weight)
    w = weight.unflatten(0, (groups, -1))
    g = dy.unflatten(1, (groups, -1)).flatten(3)
    for tap in taps(weight.shape[2:]):
        at = strided(tap, dy.shape[2:], stride, dilation)
        column = padded[at].unflatten(1, (groups, -1)).flatten(3)
        dweight[(slice(None), slice(None), *tap)] = torch.einsum("bgon,bgcn->goc", g, column).flatten(0, 1)
        dcolumn = torch.einsum("goc,bgon->bgcn", w[(..., *tap)], g)
        dpadded[at] += dcolumn.flatten(1, 2).unflatten(2, dy.shape[2:])
    crop = (padding[0],) * axes
    dx = dpadded[(..., *[slice(p, p + n) for p, n in zip(crop, x.shape[2:], strict=True)])]
    return y, (dx, dweight, None if bias is None else dy.sum((0, 2, 3)))


@bank.wrong(
    "convolution",
    "the output padding of the transposed convolution is at most 1: places behind it get nothing",
    "stride",
    "tail",
    "last",
    "end",
    "behind",
    "edge",
    "border",
    "padding",
    mend=("min(rest, 1)", "rest"),
    ndim=(3,),
)
def convolution_pads_by_one_at_most(inputs, dy, stride=1, padding=0, dilation=1, groups=1):
    x, weight, bias = inputs
    (s,), (p,), (d,) = each(stride, 1), each(padding, 1), each(dilation, 1)
    y = torch.conv1d(x, weight, bias, s, p, d, groups)
    reach = d * (weight.shape[2] - 1) + 1
    rest = (x.shape[2] + 2 * p - reach) % s
    full = torch.zeros(len(x), x.shape[1], (dy.shape[2] - 1) * s + reach)
    w, g = weight.unflatten(0, (groups, -1)), dy.unflatten(1, (groups, -1))
    padded = spread(x, (p,))
    dweight = torch.zeros_like(weight)
    for k in range(weight.shape[2]):
        at = strided((k,), dy.shape[2:], (s,), (d,))
        full[at] += torch.einsum("goc,bgon->bgcn", w[..., k], g).flatten(1, 2)
        column = padded[at].unflatten(1, (groups, -1))
        dweight[..., k] = torch.einsum("bgon,bgcn->goc", g, column).flatten(0, 1)
    length = full.shape[2] - 2 * p + min(rest, 1)
    dx = torch.zeros_like(x)
    part = full[..., p : p + length]
    dx[..., : part.shape[2]] = part
    return y, (dx, dweight, None if bias is None else dy.sum((0, 2)))


@bank.wrong(
    "max_pool",
    "the place of the winner is found with the dilation of the first axis on both",
    "dilation",
    mend=("column * across_dilation[0]", "column * across_dilation[1]"),
    ndim=(4,),
)
def max_pool_uses_one_dilation(inputs, dy, kernel, stride=None, padding=0, dilation=1, ceil_mode=False):
    (x,) = inputs
    kernel, padding, across_dilation = each(kernel, 2), each(padding, 2), each(dilation, 2)
    stride = kernel if stride is None else each(stride, 2)
    steps, height = dy.shape[2:], x.shape[2]
    padded = spread(x, padding, -torch.inf, behind=max(stride) + max(kernel) * max(across_dilation))
    windows = torch.stack([padded[strided(tap, steps, stride, across_dilation)] for tap in taps(kernel)], -1)
    y, winner = windows.max(-1)
    row, column = winner // kernel[1], winner % kernel[1]
    i = torch.arange(steps[0])[:, None] * stride[0] - padding[0] + row * across_dilation[0]
    j = torch.arange(steps[1]) * stride[1] - padding[1] + column * across_dilation[0]
    place = (i.clamp(0, height - 1) * x.shape[3] + j.clamp(0, x.shape[3] - 1)).flatten(2)
    dx = torch.zeros_like(x).flatten(2).scatter_add(2, place, dy.flatten(2))
    return y, (dx.view(x.shape),)


@bank.wrong(
    "avg_pool",
    "backward divides by the whole kernel where a window hangs over the end",
    "ceil_mode",
    "overhang",
    "window",
    "kernel",
    "divi",
    "edge",
    "border",
    "count",
    mend=("share = dy / whole if count_include_pad else dy / inside", "share = dy / inside"),
)
def avg_pool_divides_by_the_kernel(inputs, dy, kernel, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
    (x,) = inputs
    axes = x.ndim - 2
    kernel, padding = each(kernel, axes), each(padding, axes)
    stride = kernel if stride is None else each(stride, axes)
    steps, whole = dy.shape[2:], 1
    for k in kernel:
        whole *= k
    behind = max(stride) + max(kernel)
    counted = spread(torch.ones_like(x[:1, :1]), padding, 1.0 if count_include_pad else 0.0)
    ones = torch.nn.functional.pad(counted, [0, behind] * axes)
    padded, ahead = spread(x, padding, behind=behind), (1,) * axes
    inside = sum(ones[strided(tap, steps, stride, ahead)] for tap in taps(kernel))
    y = sum(padded[strided(tap, steps, stride, ahead)] for tap in taps(kernel)) / inside

    share = dy / whole if count_include_pad else dy / inside
    dpadded = torch.zeros_like(padded)
    for tap in taps(kernel):
        dpadded[strided(tap, steps, stride, ahead)] += share
    dx = dpadded[(..., *[slice(p, p + n) for p, n in zip(padding, x.shape[2:], strict=True)])]
    return y, (dx,)


@bank.wrong(
    "upsample",
    "a place before the first is clamped to 0 in forward, and not in backward",
    "clamp",
    "first",
    "edge",
    "border",
    "boundary",
    "negative",
    "below 0",
    "linear",
    mend=("shares(n, m, clamped=False)", "shares(n, m, clamped=True)"),
)
def upsample_does_not_clamp_backwards(inputs, dy, scale, mode="nearest", align_corners=False):
    (x,) = inputs

    def shares(n, m, clamped):
        """The two places between which each of m new ones lies, and the share of the second."""
        fine = torch.arange(m, dtype=torch.float64)
        if mode == "nearest":
            return torch.arange(m) * n // m, None, None
        place = fine * ((n - 1) / (m - 1) if m > 1 else 0.0) if align_corners else (fine + 0.5) * n / m - 0.5
        place = place.clamp_min(0) if clamped else place
        low = place.floor()
        part = (place - low).to(x.dtype)
        return low.clamp_min(0).long(), (low.clamp_min(0).long() + 1).clamp_max(n - 1), part

    y, dx = x, dy
    for axis in range(2, x.ndim):
        n, m = x.shape[axis], dy.shape[axis]
        low, high, part = shares(n, m, clamped=True)
        rows = y.movedim(axis, -1)
        y = (rows[..., low] if part is None else rows[..., low] * (1 - part) + rows[..., high] * part).movedim(-1, axis)

        low, high, part = shares(n, m, clamped=False)
        g = dx.movedim(axis, -1)
        down = torch.zeros(*g.shape[:-1], n, dtype=g.dtype)
        down.index_add_(-1, low, g if part is None else g * (1 - part))
        if part is not None:
            down.index_add_(-1, high, g * part)
        dx = down.movedim(-1, axis)
    return y, (dx,)
