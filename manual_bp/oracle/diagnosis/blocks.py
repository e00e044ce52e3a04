"""Edits of parts of an axis: what kernels that work in blocks leave out at its end, or count again."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import cache, partial

import torch
from torch import Tensor

from manual_bp.oracle.diagnosis.edit import Edit, Slot

Weights = Callable[[Tensor, int], Tensor]
"""Whether each index, of so many, is kept; or by what it is multiplied."""

PARTS: dict[str, tuple[float, Weights]] = {
    "the last {0} left out of {1}": (3.6, lambda i, n: i < n - 1),
    "the first {0} left out of {1}": (3.7, lambda i, n: i > 0),
    "all but the first {0} left out of {1}": (4, lambda i, n: i == 0),
    "all but the last {0} left out of {1}": (4.1, lambda i, n: i == n - 1),
    "every second {0} left out of {1}": (4.2, lambda i, n: i % 2 == 0),
    "the second half of the {0}s left out of {1}": (4.4, lambda i, n: i < n // 2),
    "all {0}s beyond the largest power of two left out of {1}": (4.4, lambda i, n: i < 1 << (n.bit_length() - 1)),
}
# The largest first: what is left of a length is often the same for several.
BLOCKS = (4096, 2048, 1024, 512, 256, 128, 64, 32, 16, 8, 4, 2)


def _of_means(block: int, i: Tensor, n: int) -> Tensor:
    """Each block's mean counts as much as any other's, that of the last too, which may be shorter."""
    lengths = (n - i // block * block).clamp(max=block)
    return n / (-(-n // block) * lengths)


BLOCKED: dict[str, tuple[float, Callable[[int, Tensor, int], Tensor]]] = {
    "the tail after the last full block of {2} {0}s left out of {1}": (4.0, lambda block, i, n: i < n // block * block),
    "the tail after the last full block of {2} {0}s, where there is a full one, left out of {1}": (
        4.02,
        lambda block, i, n: i < (n // block * block or n),
    ),
    "all after the first {2} {0}s left out of {1}": (4.04, lambda block, i, n: i < block),
    "all before the last block of {2} {0}s left out of {1}": (4.06, lambda block, i, n: i >= (n - 1) // block * block),
    "each block of {2} {0}s counted again in every later one in {1}": (
        4.2,
        lambda block, i, n: (n - 1) // block + 1.0 - i // block,
    ),
    "{1} as the mean of the means of blocks of {2} {0}s, of which the last may be shorter": (4.1, _of_means),
}


@cache
def _weights(length: int) -> tuple[tuple[str, float, Weights], ...]:
    """What is done to the parts of an axis of this length, that are not left as they are, with how seldom it is met."""
    index = torch.arange(length)
    found = [(words, cost, weigh) for words, (cost, weigh) in PARTS.items()]
    for (j, block), (words, (cost, of_block)) in itertools.product(enumerate(BLOCKS), BLOCKED.items()):
        found.append((words.format("{0}", "{1}", block), cost + j / 100, partial(of_block, block)))
    return tuple(each for each in found if length and bool((each[2](index, length) != 1).any()))


def _weighted(weigh: Weights, axis: int | None, x: Tensor) -> Tensor:
    """x with 0 where an index on one axis (None: in memory order) is not kept, or with every index multiplied."""
    if axis is None:
        return _weighted(weigh, 0, x.reshape(-1)).reshape(x.shape)
    length = x.shape[axis]
    by = weigh(torch.arange(length), length).reshape(-1, *(1,) * (x.ndim - axis % x.ndim - 1))
    return torch.where(by, x, torch.zeros((), dtype=x.dtype)) if by.dtype == torch.bool else x * by


def left_out(
    slot: Slot, place: str, length: int, axis: int | None, more: float, arg: int | None = None
) -> Iterator[Edit]:
    """Parts of an axis of what stands there, or of what the operation there is called with, left out; such edits of
    several operations are one."""
    for words, cost, weigh in _weights(length):
        if slot.value.is_floating_point() or weigh(torch.arange(1), 1).dtype == torch.bool:
            said = words.format(place, slot.name)
            yield slot.edit(cost + more, said, partial(_weighted, weigh, axis), words if arg == 0 else "", arg)


def blocks(slot: Slot) -> Iterator[Edit]:
    """Of an input, a residual or a result the elements, rows or columns of a part."""
    value = slot.value
    places = (("element", value.numel(), None), ("column", value.shape[-1], -1), ("row", value.shape[0], 0))
    for i, (place, length, axis) in enumerate(places[: 1 if value.ndim == 1 else 3]):
        yield from left_out(slot, place, length, axis, i / 10 + {"results": -0.3, "inputs": 0.0}.get(slot.stage, 0.1))
