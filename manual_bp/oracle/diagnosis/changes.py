"""What a value is changed to: other numbers, another order, a part of them left out; each with how
seldom it is met."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor


def _of_row(by: int, x: Tensor) -> Tensor:
    """In each row what stands so many rows before, all axes but the last counted as one."""
    return x.reshape(-1, x.shape[-1]).roll(by, 0).reshape(x.shape)


def _over(reduce: Callable[..., Tensor], axis: int, x: Tensor) -> Tensor:
    return reduce(x, axis, keepdim=True).expand_as(x)


def _unless_last_axis(reduce: Callable[..., Tensor], x: Tensor) -> Tensor:
    return reduce(x, list(range(x.ndim - 1)), keepdim=True).expand_as(x)


def _rounded(dtype: torch.dtype, x: Tensor) -> Tensor:
    return x.to(dtype).to(x.dtype)


NUMBERS: Mapping[str, tuple[float, Callable[[Tensor], Tensor]]] = {
    "-{0} in place of {0}": (2.2, torch.neg),
    "{0} taken for 1": (2.0, torch.ones_like),
    "{0} taken for 0": (2.1, torch.zeros_like),
    "2·{0} in place of {0}": (2.4, lambda x: 2 * x),
    "{0}/2 in place of {0}": (2.4, lambda x: x / 2),
    "{0}² in place of {0}": (3, torch.square),
    "√{0} in place of {0}": (3, torch.sqrt),
    "1/{0} in place of {0}": (3, torch.reciprocal),
    "|{0}| in place of {0}": (3, torch.abs),
    "the sign of {0} in place of {0}": (3.4, torch.sign),
    "1 - {0} in place of {0}": (3.4, lambda x: 1 - x),
    "1 + {0} in place of {0}": (3.8, lambda x: 1 + x),
    "{0} - 1 in place of {0}": (3.9, lambda x: x - 1),
    "{0}³ in place of {0}": (4, lambda x: x**3),
    "1/√{0} in place of {0}": (4, torch.rsqrt),
    "exp({0}) in place of {0}": (4.2, torch.exp),
    "log({0}) in place of {0}": (4.2, torch.log),
    "tanh({0}) in place of {0}": (4.6, torch.tanh),
    "the sigmoid of {0} in place of {0}": (4.6, torch.sigmoid),
    "{0} cut off at 0 (max({0}, 0)) in place of {0}": (3.8, lambda x: x.clamp(min=0)),
    "{0} cut off at 0 (min({0}, 0)) in place of {0}": (4.4, lambda x: x.clamp(max=0)),
    "{0} cut off at 1 (max({0}, 1)) in place of {0}": (4.5, lambda x: x.clamp(min=1)),
    "{0} clamped to [-1, 1] in place of {0}": (3.9, lambda x: x.clamp(-1, 1)),
    "{0} clamped to [0, 1] in place of {0}": (4.5, lambda x: x.clamp(0, 1)),
    "{0} rounded to integers": (4.5, torch.round),
    "{0} less its mean in place of {0}": (3.8, lambda x: x - x.mean()),
    "{0} less its mean over the last axis in place of {0}": (4, lambda x: x - x.mean(-1, keepdim=True)),
    "{0} less its mean over axis 0 in place of {0}": (4, lambda x: x - x.mean(0, keepdim=True)),
    "{0} divided by its norm in place of {0}": (4.2, lambda x: x / x.norm()),
    "{0} rounded to bfloat16": (4.4, partial(_rounded, torch.bfloat16)),
    "{0} rounded to float16": (4.5, partial(_rounded, torch.float16)),
    "{0} rounded to float32": (5, partial(_rounded, torch.float32)),
}
"""What numbers are changed to; {0} is their name."""

CLAMPED: Mapping[str, tuple[float, Callable[[Tensor], Tensor]]] = {
    f"{{0}} clamped to [-{bound}, {bound}] in place of {{0}}": (
        3.9 + i / 100,
        partial(torch.clamp, min=-bound, max=bound),
    )
    for i, bound in enumerate((5, 10, 15, 20, 30, 50, 80, 88, 100))
}
"""What keeps an exponential from overflowing."""

ARRANGED: Mapping[str, tuple[float, Callable[[Tensor], Tensor]]] = {
    "the mean of {0} for each of its elements": (3.3, lambda x: x.mean().expand_as(x)),
    "the sum of {0} for each of its elements": (3.3, lambda x: x.sum().expand_as(x)),
    "the mean of {0} over its last axis in place of {0}": (3.4, partial(_over, torch.mean, -1)),
    "the sum of {0} over its last axis in place of {0}": (3.4, partial(_over, torch.sum, -1)),
    "the mean of {0} over axis 0 in place of {0}": (3.4, partial(_over, torch.mean, 0)),
    "the sum of {0} over axis 0 in place of {0}": (3.4, partial(_over, torch.sum, 0)),
    "the mean of {0} over axis 1 in place of {0}": (3.6, partial(_over, torch.mean, 1)),
    "the sum of {0} over axis 1 in place of {0}": (3.6, partial(_over, torch.sum, 1)),
    "the mean of {0} over all axes but the last in place of {0}": (3.8, partial(_unless_last_axis, torch.mean)),
    "the sum of {0} over all axes but the last in place of {0}": (3.8, partial(_unless_last_axis, torch.sum)),
    "the largest of each row of {0} in place of {0}": (4.3, partial(_over, torch.amax, -1)),
    "the smallest of each row of {0} in place of {0}": (4.4, partial(_over, torch.amin, -1)),
    "the first row of {0} in every row": (3.8, lambda x: x[:1].expand_as(x)),
    "the last row of {0} in every row": (4.2, lambda x: x[-1:].expand_as(x)),
    "the first column of {0} in every column": (3.9, lambda x: x[..., :1].expand_as(x)),
    "the last column of {0} in every column": (4.2, lambda x: x[..., -1:].expand_as(x)),
    "{0} transposed and read in its own shape": (3.3, lambda x: x.transpose(-2, -1).reshape(x.shape)),
    "{0} read in the shape of its transpose": (
        3.5,
        lambda x: x.reshape(x.transpose(-2, -1).shape).transpose(-2, -1),
    ),
    "{0} with its first two axes exchanged and read in its own shape": (
        3.7,
        lambda x: x.transpose(0, 1).reshape(x.shape),
    ),
    "{0} in reversed order along its last axis": (3.7, lambda x: x.flip(-1)),
    "{0} in reversed order along its first axis": (3.7, lambda x: x.flip(0)),
    "{0} turned round along all axes past the second": (3.2, lambda x: x.flip(tuple(range(2, x.ndim)))),
    "{0} shifted by 1 along all axes past the second": (
        3.9,
        lambda x: x.roll((1,) * (x.ndim - 2), tuple(range(2, x.ndim))),
    ),
    "{0} in reversed order": (4, lambda x: x.flatten().flip(0).reshape(x.shape)),
    "{0} shifted by 1 along its last axis": (3.8, lambda x: x.roll(1, -1)),
    "{0} shifted by -1 along its last axis": (3.8, lambda x: x.roll(-1, -1)),
    "{0} shifted by 1 along its first axis": (3.8, lambda x: x.roll(1, 0)),
    "{0} shifted by -1 along its first axis": (3.8, lambda x: x.roll(-1, 0)),
    "{0} of the row before in place of {0}": (3.9, partial(_of_row, 1)),
    "{0} of the row after in place of {0}": (4.0, partial(_of_row, -1)),
    "{0} sorted": (5, lambda x: x.flatten().sort().values.reshape(x.shape)),
    "{0} taken at an index that wraps around at 256": (5, lambda x: x[..., torch.arange(x.shape[-1]) % 256]),
}
"""In what order they are taken, or what is taken for all of them."""

MASKS: Mapping[str, tuple[float, Callable[[Tensor], Tensor]]] = {
    "{0} negated": (2.2, lambda m: m == 0),
    "{0} taken for True everywhere": (2.3, torch.ones_like),
    "{0} taken for False everywhere": (2.4, torch.zeros_like),
}
INDICES: Mapping[str, tuple[float, Callable[[Tensor], Tensor]]] = {
    "{0} - 1 in place of {0}": (3, lambda i: (i - 1).clamp(min=0)),
    "{0} + 1 in place of {0}": (3, lambda i: i + 1),
    "{0} + 1, up to the last, in place of {0}": (3.5, lambda i: (i + 1).clamp(max=int(i.max()))),
    "{0} taken for 0": (2.5, torch.zeros_like),
}
