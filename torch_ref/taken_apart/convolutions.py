"""Convolutions backward, and over time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torch_ref.taken_apart.derivatives import pulled_back

aten = torch.ops.aten


def convolution_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """dx is the other convolution of dy; dweight is a convolution in which batch and channels have changed places."""
    axes = x.ndim - 2
    stride, padding, dilation = (list(n) * (axes // len(n)) for n in (stride, padding, dilation))
    dx = dweight = dbias = None
    if output_mask[0]:
        lengths = [
            0 if transposed else n - ((m - 1) * s - 2 * p + d * (k - 1) + 1)
            for n, m, k, s, p, d in zip(
                x.shape[2:], dy.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True
            )
        ]
        dx = aten.convolution(dy, weight, None, stride, padding, dilation, not transposed, lengths, groups)
    if output_mask[1]:
        long, short = (dy, x) if transposed else (x, dy)
        dweight = _of_weight(long, short, weight, stride, padding, dilation, groups)
    if output_mask[2]:
        dbias = dy.sum([0, *range(2, dy.ndim)])
    return dx, dweight, dbias


def _of_weight(
    x: Tensor,
    dy: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Σ over the batch and positions of dy[filter, position] x[channel, position · stride + tap · dilation]."""
    batch, space = x.shape[0], list(range(3, x.ndim + 1))
    parted = x.reshape(batch, groups, -1, *x.shape[2:]).permute(2, 1, 0, *space).flatten(1, 2)
    filters = dy.reshape(batch, groups, -1, *dy.shape[2:]).permute(1, 2, 0, *space).flatten(0, 1)
    found = aten.convolution(parted, filters, None, dilation, padding, stride, False, [0] * len(stride), groups)
    for axis, taps in enumerate(weight.shape[2:], 2):
        found = found.narrow(axis, 0, taps)
    back: Tensor = found.transpose(0, 1)
    return back


def conv_tbc(x: Tensor, weight: Tensor, bias: Tensor, pad: int = 0) -> Tensor:
    """A convolution of one axis, which comes first."""
    y = aten.convolution(x.permute(1, 2, 0), weight.permute(2, 1, 0), bias, [1], [pad], [1], False, [0], 1)
    back: Tensor = y.permute(2, 0, 1)
    return back


def conv_tbc_backward(dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, pad: int) -> Sequence[Tensor]:
    return pulled_back(lambda **i: conv_tbc(**i, pad=pad), {"x": x, "weight": weight, "bias": bias}, dy)
