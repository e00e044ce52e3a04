"""The three maps of convolution, each of them one call of torch's forward convolution.

With i = stride l + dilation k − padding, the sum

    Σ short[b, f, l] weight[f, c, k] long[b, c, i]

over everything is linear in each of its three factors.  What stands beside one of them is a map of the other two, and
convolution, its transpose and the cotangent of the weight are these three:

    short  from long and weight   `gathered`   convolution
    long   from short and weight  `spread`     transposed convolution
    weight from long and short    `compared`   convolution of long with short

The last is a convolution since i is symmetric: k is the position of a window whose taps are l, so that stride and
dilation change places; and as the sum goes over b, the batch takes the place of the channels.
"""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from manual_bp.rules.convolution._space import fitted, reach

# A convolution with short in place of the weight reads all of it for each channel of long.  So where it is more than
# a second cache holds, the batch is taken in parts, of as many examples as oneDNN takes channels at a time: x of (128,
# 16, 28, 28) with 16 filters took 20 ms at once and 12 ms in parts, (128, 1, 28, 28) with 32 filters 10 and 6 ms; and
# (128, 32, 4, 4) with 64 filters, which is below the limit, 1.3 ms at once and 1.9 ms in parts (one core of Zen 4).
AT_ONCE = 2**18
PART = 16
# Of small examples it is more: with so few numbers of dy in a part the calls would take the time.
FEWEST = 2**16


def gathered(
    long: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    bias: Tensor | None = None,
) -> Tensor:
    """short[b, f, l] = Σ over c, k of weight[f, c, k] long[b, c, i], for every l whose window fits."""
    return torch.convolution(long, weight, bias, stride, padding, dilation, False, (0,) * len(stride), groups)


def spread(
    short: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    remainder: Sequence[int],
    bias: Tensor | None = None,
) -> Tensor:
    """long[b, c, i] = Σ over f and all l, k that lead to i, of weight[f, c, k] short[b, f, l].

    remainder: so many places i behind the last window belong to the result too.
    """
    return torch.convolution(short, weight, bias, stride, padding, dilation, True, remainder, groups)


def compared(
    long: Tensor,
    short: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """weight[f, c, k] = Σ over b, l of short[b, f, l] long[b, c, i], for the taps k that there are.

    A group is a part of the channels of long and of short; with the batch in their place, the groups of long are made
    channels again.
    """
    if len(long) == 0:  # of a sum over nothing torch's convolution gives the wrong shape
        return long.new_zeros(short.shape[1], long.shape[1] // groups, *kernel)
    of_one = max(short.numel() // len(short), 1)
    at_once = len(long) if short.numel() <= AT_ONCE or short.is_cuda else max(PART, FEWEST // of_one)
    parts = [
        _compared(*part, kernel, stride, padding, dilation, groups)
        for part in zip(torch.split(long, at_once), torch.split(short, at_once), strict=True)
    ]
    return reduce(torch.add, parts)


def _compared(
    long: Tensor,
    short: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    batch, channels, *space = long.shape
    by_group = long.reshape(batch, groups, channels // groups, *space).transpose(0, 2)
    by_group = by_group.reshape(channels // groups, groups * batch, *space)
    taps = gathered(by_group, short.transpose(0, 1), dilation, padding, stride, groups).transpose(0, 1)
    for axis, length in enumerate(kernel):  # where the remainder is a dilation and more, there is room for more taps
        taps = taps.narrow(2 + axis, 0, length)
    return taps


def compared_anyhow(
    long: Tensor,
    short: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """`compared` of numbers that need not fit, as wrong formulas have them: where long is too short, it is 0."""
    padded = torch.constant_pad_nd(long, [side for pad in reversed(padding) for side in (pad, pad)])
    numbers = zip(padded.shape[2:], short.shape[2:], kernel, stride, dilation, strict=True)
    least = [max(n, step * (count - 1) + reach(taps, gap)) for n, count, taps, step, gap in numbers]
    fitting = fitted(padded, (*long.shape[:2], *least))
    return compared(fitting, short, kernel, stride, (0,) * len(kernel), dilation, groups)
