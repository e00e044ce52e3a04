"""Windows that move: convolution, pooling, upsampling.  All but the loops are for two axes of space."""

import itertools

import numpy as np
import torch
from torch.nn import functional as F

from tests.oracle.fourth_bank.entry import Bank, Entry

ENTRIES: list[Entry] = []
bank = Bank(ENTRIES)
PLANE = {"ndim": (4,), "min_size": 1}


def _two(value):
    return (value, value) if isinstance(value, int) else tuple(value)


def _dbias(dy, bias):
    return None if bias is None else dy.sum((0, 2, 3))


def _columns(x, kernel, stride, padding, dilation, groups):
    """(batch, groups, channels · taps, places)"""
    columns = F.unfold(x, kernel, dilation, padding, stride)
    return columns.reshape(len(x), groups, -1, columns.shape[-1])


def _conv_grads(x, weight, dy, stride, padding, dilation, groups):
    """Right: dx and dweight by columns."""
    g = dy.reshape(len(dy), groups, dy.shape[1] // groups, -1)
    columns = _columns(x, weight.shape[2:], stride, padding, dilation, groups)
    w = weight.reshape(groups, weight.shape[0] // groups, -1)
    dweight = (g @ columns.mT).sum(0).reshape(weight.shape)
    dx = F.fold((w.mT @ g).flatten(1, 2), x.shape[2:], weight.shape[2:], dilation, padding, stride)
    return dx, dweight


@bank.wrong(
    "convolution",
    "dx is a transposed convolution without output padding: places at the end that the stride skipped stay 0",
    "output padding", "end", "last", "remainder", "tail", "stride", "crop", "border", **PLANE,
)  # fmt: skip
def convolution_dx_without_output_padding(inputs, dy, stride=1, padding=0, dilation=1, groups=1):
    x, weight, bias = inputs
    _, dweight = _conv_grads(x, weight, dy, stride, padding, dilation, groups)
    short = F.conv_transpose2d(dy, weight, None, stride, padding, 0, groups, dilation)
    dx = torch.zeros_like(x)
    dx[:, :, : short.shape[2], : short.shape[3]] = short
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups), (dx, dweight, _dbias(dy, bias))


@bank.wrong(
    "convolution",
    "dweight takes every groups-th filter to be of one group, where consecutive filters are",
    "groups", "group", **PLANE,
)  # fmt: skip
def convolution_dweight_of_interleaved_groups(inputs, dy, stride=1, padding=0, dilation=1, groups=1):
    x, weight, bias = inputs
    dx, _ = _conv_grads(x, weight, dy, stride, padding, dilation, groups)
    g = dy.reshape(len(dy), dy.shape[1] // groups, groups, -1).transpose(1, 2)
    columns = _columns(x, weight.shape[2:], stride, padding, dilation, groups)
    dweight = (g @ columns.mT).sum(0).reshape(weight.shape)
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups), (dx, dweight, _dbias(dy, bias))


@bank.wrong(
    "convolution",
    "dweight ignores the dilation: taps are taken from neighbouring places",
    "dilation", **PLANE,
)  # fmt: skip
def convolution_dweight_without_dilation(inputs, dy, stride=1, padding=0, dilation=1, groups=1):
    x, weight, bias = inputs
    dx, _ = _conv_grads(x, weight, dy, stride, padding, dilation, groups)
    (sh, sw), (ph, pw) = _two(stride), _two(padding)
    padded = F.pad(x, (pw, pw, ph, ph)).unflatten(1, (groups, -1))
    g = dy.unflatten(1, (groups, -1))
    dweight = torch.empty_like(weight)
    for i, j in itertools.product(*map(range, weight.shape[2:])):
        seen = padded[..., i : i + sh * dy.shape[2] : sh, j : j + sw * dy.shape[3] : sw]
        dweight[:, :, i, j] = torch.einsum("bgfhw,bgchw->gfc", g, seen).flatten(0, 1)
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups), (dx, dweight, _dbias(dy, bias))


@bank.wrong(
    "convolution",
    "dx correlates with the kernel the wrong way round: it is flipped",
    "flip", "flipped", "reversed", "mirrored", "rotated", "wrong way round", **PLANE,
)  # fmt: skip
def convolution_dx_by_the_flipped_kernel(inputs, dy, stride=1, padding=0, dilation=1, groups=1):
    x, weight, bias = inputs
    dx, _ = _conv_grads(x, weight.flip(2, 3), dy, stride, padding, dilation, groups)
    _, dweight = _conv_grads(x, weight, dy, stride, padding, dilation, groups)
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups), (dx, dweight, _dbias(dy, bias))


@bank.wrong(
    "convolution",
    "two mistakes: dbias is a mean over batch and places instead of a sum, and dweight is turned by 180 degrees",
    "mean", "flip", "flipped", "reversed", "divided", "averaged", "rotated", **PLANE,
)  # fmt: skip
def convolution_mean_bias_and_turned_dweight(inputs, dy, stride=1, padding=0, dilation=1, groups=1):
    x, weight, bias = inputs
    dx, dweight = _conv_grads(x, weight, dy, stride, padding, dilation, groups)
    dbias = None if bias is None else dy.mean((0, 2, 3))
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups), (dx, dweight.flip(2, 3), dbias)


@bank.right("convolution", "a loop over taps, any number of axes, shifted slices of the padded input", min_size=1)
def convolution_tap_by_tap(inputs, dy, stride=1, padding=0, dilation=1, groups=1):
    x, weight, bias = inputs
    space, batch = x.ndim - 2, len(x)
    stride, padding, dilation = ((v,) * space if isinstance(v, int) else v for v in (stride, padding, dilation))
    padded = F.pad(x, [p for p in reversed(padding) for _ in "ab"]).unflatten(1, (groups, -1))
    w, steps = weight.unflatten(0, (groups, -1)), dy.shape[2:]
    g = dy.unflatten(1, (groups, -1)).flatten(3)
    y, dpadded, dw = torch.zeros_like(g), torch.zeros_like(padded), torch.zeros_like(w)
    for tap in itertools.product(*map(range, weight.shape[2:])):
        steps_of = zip(tap, stride, dilation, steps, strict=True)
        place = (..., *(slice(d * k, d * k + s * (n - 1) + 1, s) for k, s, d, n in steps_of))
        seen = padded[place]
        here = (..., *tap)
        y += torch.einsum("gfc,bgcl->bgfl", w[here], seen.flatten(3))
        dpadded[place] += torch.einsum("gfc,bgfl->bgcl", w[here], g).reshape(seen.shape)
        dw[here] = torch.einsum("bgfl,bgcl->gfc", g, seen.flatten(3))
    y = y.reshape(dy.shape) if bias is None else y.reshape(dy.shape) + bias.reshape(-1, *[1] * space)
    inside = (..., *(slice(p, p + n) for p, n in zip(padding, x.shape[2:], strict=True)))
    dbias = None if bias is None else dy.transpose(0, 1).reshape(len(bias), batch, -1).sum((1, 2))
    return y, (dpadded.flatten(1, 2)[inside], dw.flatten(0, 1), dbias)


@bank.right("convolution", "columns, matrix products and fold; dweight as one product over batch and places", **PLANE)
def convolution_by_columns(inputs, dy, stride=1, padding=0, dilation=1, groups=1):
    x, weight, bias = inputs
    columns = _columns(x, weight.shape[2:], stride, padding, dilation, groups)
    w = weight.reshape(groups, weight.shape[0] // groups, -1)
    y = (w @ columns).reshape(dy.shape)
    g = dy.reshape(len(dy), groups, dy.shape[1] // groups, -1)
    dweight = torch.einsum("bgfl,bgkl->gfk", g, columns).reshape(weight.shape)
    dcolumns = torch.einsum("gfk,bgfl->bgkl", w, g).flatten(1, 2)
    dx = F.fold(dcolumns, x.shape[2:], weight.shape[2:], dilation, padding, stride)
    return y if bias is None else y + bias[:, None, None], (dx, dweight, _dbias(dy, bias))


def _transposed_grads(x, weight, dy, stride, padding, dilation, groups):
    """Right: with dy in the place of convolution's x.  Output padding beyond the stride makes places that no x has."""
    h, w = x.shape[2:]
    dx = F.conv2d(dy, weight, None, stride, padding, dilation, groups)
    kernel, stride, padding, dilation = weight.shape[2:], _two(stride), _two(padding), _two(dilation)
    grid = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(dy.shape[2:], padding, dilation, kernel, stride, strict=True)
    ]
    columns = _columns(dy, kernel, stride, padding, dilation, groups).unflatten(-1, grid)[..., :h, :w].flatten(3)
    dweight = (x.reshape(len(x), groups, x.shape[1] // groups, -1) @ columns.mT).sum(0)
    return dx[:, :, :h, :w], dweight.reshape(weight.shape)


@bank.wrong(
    "convolution_transpose",
    "dbias leaves out the places that output_padding adds at the end",
    "output_padding", "output padding", "last", "end", "places", **PLANE,
)  # fmt: skip
def convolution_transpose_dbias_without_output_padding(
    inputs, dy, stride=1, padding=0, output_padding=0, dilation=1, groups=1
):
    x, weight, bias = inputs
    y = F.conv_transpose2d(x, weight, bias, stride, padding, output_padding, groups, dilation)
    dx, dweight = _transposed_grads(x, weight, dy, stride, padding, dilation, groups)
    h, w = (n - p for n, p in zip(dy.shape[2:], _two(output_padding), strict=True))
    return y, (dx, dweight, _dbias(dy[:, :, :h, :w], bias))


@bank.wrong(
    "convolution_transpose",
    "dweight has only the first example of the batch, where the sum over all is due",
    "batch", "first example", "example", "sum", "axis 0", **PLANE,
)  # fmt: skip
def convolution_transpose_dweight_of_the_first_example(
    inputs, dy, stride=1, padding=0, output_padding=0, dilation=1, groups=1
):
    x, weight, bias = inputs
    y = F.conv_transpose2d(x, weight, bias, stride, padding, output_padding, groups, dilation)
    dx, _ = _transposed_grads(x, weight, dy, stride, padding, dilation, groups)
    _, dweight = _transposed_grads(x[:1], weight, dy[:1], stride, padding, dilation, groups)
    return y, (dx, dweight, _dbias(dy, bias))


def _max_pool(x, kernel, stride, padding, dilation, ceil_mode):
    return F.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode, return_indices=True)


@bank.wrong(
    "max_pool",
    "where windows overlap the cotangent of the last one replaces those before it instead of being added",
    "overlap", "overlaps", "overlapping", "added", "accumulated", "assigned", "sum windows", "replaces", **PLANE,
)  # fmt: skip
def max_pool_overlaps_assigned(inputs, dy, kernel, stride=None, padding=0, dilation=1, ceil_mode=False):
    (x,) = inputs
    y, winners = _max_pool(x, kernel, stride, padding, dilation, ceil_mode)
    dx = torch.zeros_like(x).flatten(2).scatter_(2, winners.flatten(2), dy.flatten(2))
    return y, (dx.reshape(x.shape),)


@bank.wrong(
    "max_pool",
    "every place that equals its window's maximum gets the whole cotangent, so that ties get it several times",
    "tie", "ties", "equal", "winner", "winners", "maxima", **PLANE,
)  # fmt: skip
def max_pool_all_of_a_tie(inputs, dy, kernel, stride=None, padding=0, dilation=1, ceil_mode=False):
    (x,) = inputs
    y, _ = _max_pool(x, kernel, stride, padding, dilation, ceil_mode)
    (kh, kw), (dh, dw), (ph, pw) = _two(kernel), _two(dilation), _two(padding)
    sh, sw = _two(kernel if stride is None else stride)
    far_h, far_w = (kh - 1) * dh + sh * y.shape[2], (kw - 1) * dw + sw * y.shape[3]
    room = (pw, max(far_w - pw - x.shape[3], 0), ph, max(far_h - ph - x.shape[2], 0))
    padded = F.pad(x, room, value=float("nan"))
    dpadded = torch.zeros_like(padded)
    for i, j in itertools.product(range(kh), range(kw)):
        rows, columns = slice(i * dh, i * dh + sh * y.shape[2], sh), slice(j * dw, j * dw + sw * y.shape[3], sw)
        dpadded[:, :, rows, columns] += torch.where(padded[:, :, rows, columns] == y, dy, 0)
    return y, (dpadded[:, :, ph : ph + x.shape[2], pw : pw + x.shape[3]],)


@bank.right("max_pool", "the winners' places from torch, their cotangents added by np.bincount", **PLANE)
def max_pool_by_bincount(inputs, dy, kernel, stride=None, padding=0, dilation=1, ceil_mode=False):
    (x,) = inputs
    y, winners = _max_pool(x, kernel, stride, padding, dilation, ceil_mode)
    planes, places = x.shape[0] * x.shape[1], x.shape[2] * x.shape[3]
    at = winners.reshape(planes, -1) + torch.arange(planes, device=x.device)[:, None] * places
    sums = np.bincount(
        at.reshape(-1).cpu().numpy(), dy.detach().double().cpu().numpy().reshape(-1), minlength=planes * places
    )
    return y, (torch.from_numpy(sums).to(x).reshape(x.shape),)


def _avg_pool(x, kernel, stride, padding, ceil_mode, count_include_pad):
    return F.avg_pool2d(x, kernel, stride, padding, ceil_mode, count_include_pad)


def _spread(dy, x, kernel, stride, padding, places):
    """dy / places on every place of its window, tap by tap; `places(start, axis)` says how many a window has there."""
    kernel, padding, stride = _two(kernel), _two(padding), _two(kernel if stride is None else stride)
    for axis in (0, 1):
        n, steps = x.shape[2 + axis], dy.shape[2 + axis]
        starts = [step * stride[axis] - padding[axis] for step in range(steps)]
        counts = torch.tensor([places(start, axis) for start in starts], dtype=dy.dtype, device=dy.device)
        share = dy / counts.reshape([-1 if axis == a else 1 for a in (0, 1)])
        dy = dy.new_zeros([*dy.shape[: 2 + axis], n, *dy.shape[3 + axis :]])
        for tap in range(kernel[axis]):
            at = torch.tensor(starts, device=dy.device) + tap
            inside = ((at >= 0) & (at < n)).nonzero().flatten()
            dy.index_add_(2 + axis, at[inside], share.index_select(2 + axis, inside))
    return dy


@bank.wrong(
    "avg_pool",
    "the backward divides by the whole kernel even where count_include_pad is off",
    "count_include_pad", "padding", "pad", **PLANE,
)  # fmt: skip
def avg_pool_always_counts_padding(inputs, dy, kernel, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
    (x,) = inputs
    y = _avg_pool(x, kernel, stride, padding, ceil_mode, count_include_pad)

    def places(start, axis):
        return min(start + _two(kernel)[axis], x.shape[2 + axis] + _two(padding)[axis]) - start

    return y, (_spread(dy, x, kernel, stride, padding, places),)


@bank.wrong(
    "avg_pool",
    "a window that overhangs the end under ceil_mode is divided by the whole kernel in the backward",
    "ceil_mode", "overhang", "overhangs", "last window", "clipped", "end", **PLANE,
)  # fmt: skip
def avg_pool_overhang_divided_by_kernel(
    inputs, dy, kernel, stride=None, padding=0, ceil_mode=False, count_include_pad=True
):
    (x,) = inputs
    y = _avg_pool(x, kernel, stride, padding, ceil_mode, count_include_pad)

    def places(start, axis):
        if count_include_pad:
            return _two(kernel)[axis]
        return min(start + _two(kernel)[axis], x.shape[2 + axis]) - max(start, 0)

    return y, (_spread(dy, x, kernel, stride, padding, places),)


@bank.right("avg_pool", "one axis after the other, tap by tap, with index_add", **PLANE)
def avg_pool_axis_by_axis(inputs, dy, kernel, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
    (x,) = inputs

    def places(start, axis):
        n, p = x.shape[2 + axis], _two(padding)[axis] if count_include_pad else 0
        return min(start + _two(kernel)[axis], n + p) - max(start, -p)

    y = _avg_pool(x, kernel, stride, padding, ceil_mode, count_include_pad)
    return y, (_spread(dy, x, kernel, stride, padding, places),)


def _interpolation(n, scale, align_corners, x):
    """For each place after: the place before it, the next one, and the share of the latter."""
    place = torch.arange(scale * n, dtype=torch.float64, device=x.device)
    q = place * (n - 1) / max(scale * n - 1, 1) if align_corners else ((place + 0.5) / scale - 0.5).clamp_min(0)
    i = q.floor().long()
    return i, (i + 1).clamp_max(n - 1), (q - i).to(x.dtype)


def _lines(t, axis, sizes, scale, align_corners, back):
    """Linear interpolation along one axis, or its transpose."""
    lower, upper, share = _interpolation(sizes[axis], scale, align_corners, t)
    share = share.reshape([-1 if a == axis else 1 for a in range(4)])
    if not back:
        return (1 - share) * t.index_select(axis, lower) + share * t.index_select(axis, upper)
    d = t.new_zeros([sizes[a] if a == axis else n for a, n in enumerate(t.shape)])
    return d.index_add_(axis, lower, (1 - share) * t).index_add_(axis, upper, share * t)


@bank.wrong(
    "upsample",
    "the backward of linear interpolation takes the half-pixel shares also where align_corners is on",
    "align_corners", "corners", "half-pixel", **PLANE,
)  # fmt: skip
def upsample_backward_without_align_corners(inputs, dy, scale, mode="nearest", align_corners=False):
    (x,) = inputs
    sh, sw = _two(scale)
    if mode == "nearest":
        y = x.repeat_interleave(sh, 2).repeat_interleave(sw, 3)
        return y, (dy.reshape(*x.shape[:3], sh, -1).sum(3).reshape(*x.shape[:2], -1, x.shape[3], sw).sum(4),)
    y = _lines(_lines(x, 2, x.shape, sh, align_corners, False), 3, x.shape, sw, align_corners, False)
    return y, (_lines(_lines(dy, 3, x.shape, sw, False, True), 2, x.shape, sh, False, True),)
