"""Convolutions and pooling: remainders, taps, windows that overlap."""

import torch
import torch.nn.functional as F

from tests.oracle.ninth_bank.entry import Entry, into, per_axis, pulled

ENTRIES: list[Entry] = []
entry = into(ENTRIES)


CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CONV_T = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@entry(
    "convolution",
    ("remainder", "output_padding", "stride", "border", "edge", "last"),
    "rest = (0,) * axes",
    "rest = tuple(rest)",
)
def convolution_dx_without_output_padding(inputs, dy, stride=1, padding=0, dilation=1, groups=1):
    x, weight, bias = inputs
    axes = x.ndim - 2
    stride, padding, dilation = (per_axis(n, axes) for n in (stride, padding, dilation))
    y = CONV[axes](x, weight, bias, stride, padding, dilation, groups)
    rest = [
        (n + 2 * p - d * (k - 1) - 1) % s
        for n, k, s, p, d in zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=False)
    ]
    rest = (0,) * axes
    dx = CONV_T[axes](dy, weight, None, stride, padding, rest, groups, dilation)
    lacking = [n - m for n, m in zip(x.shape[2:], dx.shape[2:], strict=False)]
    dx = F.pad(dx, [side for n in reversed(lacking) for side in (0, n)])
    arguments = [0], stride, padding, dilation, False, [0] * axes, groups, [False, True, False]
    dweight = torch.ops.aten.convolution_backward(dy, x, weight, *arguments)[1]
    return y, (dx, dweight, None if bias is None else dy.sum([0, *range(2, dy.ndim)]))


@entry(
    "convolution_transpose",
    ("flip", "mirror", "revers", "rotated", "backwards"),
    "dweight.flip(tuple(range(2, weight.ndim)))",
    "dweight",
)
def convolution_transpose_dweight_flipped(inputs, dy, stride=1, padding=0, output_padding=0, dilation=1, groups=1):
    x, weight, bias = inputs
    axes = x.ndim - 2
    stride, padding, output_padding, dilation = (per_axis(n, axes) for n in (stride, padding, output_padding, dilation))
    y = CONV_T[axes](x, weight, bias, stride, padding, output_padding, groups, dilation)
    back = CONV[axes](dy, weight, None, stride, padding, dilation, groups)
    dx = back[(..., *(slice(0, n) for n in x.shape[2:]))]
    arguments = [0], stride, padding, dilation, True, output_padding, groups, [False, True, False]
    _, dweight, _ = torch.ops.aten.convolution_backward(dy, x, weight, *arguments)
    dbias = None if bias is None else dy.sum([0, *range(2, dy.ndim)])
    return y, (dx, dweight.flip(tuple(range(2, weight.ndim))), dbias)


AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


@entry(
    "avg_pool",
    ("count_include_pad", "padding", "divisor", "divided"),
    "ceil_mode, True)",
    "ceil_mode, count_include_pad)",
)
def avg_pool_divides_by_the_whole_kernel(
    inputs, dy, kernel, stride=None, padding=0, ceil_mode=False, count_include_pad=True
):
    (x,) = inputs
    axes = x.ndim - 2
    kernel, padding = per_axis(kernel, axes), per_axis(padding, axes)
    stride = kernel if stride is None else per_axis(stride, axes)
    y = AVERAGE[axes](x, kernel, stride, padding, bool(ceil_mode), count_include_pad)
    return y, (pulled(lambda x: AVERAGE[axes](x, kernel, stride, padding, ceil_mode, True), x, dy),)


LARGEST = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


@entry(
    "max_pool",
    ("overlap", "overwrit", "duplicat", "accumul", "add", "several windows"),
    ".scatter_(2, ",
    ".scatter_add_(2, ",
)
def max_pool_overlapping_windows_overwrite(inputs, dy, kernel, stride=None, padding=0, dilation=1, ceil_mode=False):
    (x,) = inputs
    axes = x.ndim - 2
    kernel, padding, dilation = (per_axis(n, axes) for n in (kernel, padding, dilation))
    stride = kernel if stride is None else per_axis(stride, axes)
    y, winner = LARGEST[axes](x, kernel, stride, padding, dilation, ceil_mode=ceil_mode, return_indices=True)
    dx = torch.zeros_like(x, memory_format=torch.contiguous_format).flatten(2)
    dx.scatter_(2, winner.flatten(2), dy.flatten(2))
    return y, (dx.reshape(x.shape),)


@entry("upsample", ("align_corners", "corner"), "back_corners = False", "back_corners = align_corners")
def upsample_backward_ignores_align_corners(inputs, dy, scale, mode="nearest", align_corners=False):
    (x,) = inputs
    axes = x.ndim - 2
    back_corners = False
    scale = scale if isinstance(scale, tuple) else (scale,) * axes
    size = [round(n * s) for n, s in zip(x.shape[2:], scale, strict=False)]
    if mode == "nearest":
        return F.interpolate(x, size), (pulled(lambda x: F.interpolate(x, size), x, dy),)
    kind = {1: "linear", 2: "bilinear", 3: "trilinear"}[axes]
    y = F.interpolate(x, size, mode=kind, align_corners=align_corners)
    return y, (pulled(lambda x: F.interpolate(x, size, mode=kind, align_corners=back_corners), x, dy),)
