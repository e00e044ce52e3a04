"""What a value is changed to: other numbers, another order, a part of them left out; each with how
seldom it is met."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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


def _along(axis: int, keep: Kept, x: Tensor) -> Tensor:
    """x with 0 where an index on one axis is not kept."""
    length = x.shape[axis]
    mask = keep(torch.arange(length), length).reshape(-1, *(1,) * (x.ndim - axis % x.ndim - 1))
    return torch.where(mask, x, torch.zeros((), dtype=x.dtype))


def _flat(keep: Kept, x: Tensor) -> Tensor:
    return _along(0, keep, x.reshape(-1)).reshape(x.shape)


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

Kept = Callable[[Tensor, int], Tensor]
"""Whether each index, of so many, is kept."""

PARTS: dict[str, tuple[float, Kept]] = {
    "the last {}": (3.6, lambda i, n: i < n - 1),
    "the first {}": (3.7, lambda i, n: i > 0),
    "all but the first {}": (4, lambda i, n: i == 0),
    "all but the last {}": (4.1, lambda i, n: i == n - 1),
    "every second {}": (4.2, lambda i, n: i % 2 == 0),
    "the second half of the {}s": (4.4, lambda i, n: i < n // 2),
    "all {}s beyond the largest power of two": (4.4, lambda i, n: i < 1 << (max(n, 1).bit_length() - 1)),
}
# The largest first: what is left of a length is often the same for several.
BLOCKS = (4096, 2048, 1024, 512, 256, 128, 64, 32, 16, 8, 4, 2)


def _blocks() -> Iterator[tuple[str, tuple[float, Kept]]]:
    """What kernels leave out that work in blocks."""
    for j, block in enumerate(BLOCKS):
        tail = f"the tail after the last full block of {block} {{}}s"
        yield tail, (4 + j / 100, partial(_in_blocks, block))
        yield f"{tail}, where there is a full one,", (4.02 + j / 100, partial(_in_blocks_if_any, block))
        yield f"all after the first {block} {{}}s", (4.04 + j / 100, partial(_among_first, block))


def _in_blocks(block: int, i: Tensor, n: int) -> Tensor:
    return i < n // block * block


def _in_blocks_if_any(block: int, i: Tensor, n: int) -> Tensor:
    return i < (n // block * block or n)


def _among_first(block: int, i: Tensor, n: int) -> Tensor:
    return i < block


TAILS = dict(_blocks())


def _zeroed(parts: Mapping[str, tuple[float, Kept]]) -> dict[str, tuple[float, Callable[[Tensor], Tensor]]]:
    """0 in a part of the elements, columns or rows."""
    places: dict[str, Callable[..., Tensor]] = {
        "element": _flat,
        "column": partial(_along, -1),
        "row": partial(_along, 0),
    }
    return {
        f"0 in {part.format(place)} of {{0}}": (cost + i / 10, partial(of, kept))
        for i, (place, of) in enumerate(places.items())
        for part, (cost, kept) in parts.items()
    }


ZEROED, ZEROED_TAILS = _zeroed(PARTS), _zeroed(TAILS)
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
