"""Parts: what a loop or a kernel leaves out.  A tail after the last full block, the first or last row or column, all
but one slice; in a finished result, and in what is summed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from manual_bp.oracle.case import Case
from manual_bp.oracle.diagnosis.examination import Examination
from manual_bp.oracle.diagnosis.hypothesis import Explanation, Prediction, Sample, wide

# The largest first: what is left of a length is often the same for several.
BLOCKS = (4096, 2048, 1024, 512, 256, 128, 64, 32, 16, 8, 4, 2)

# One case shows a place if it has so many numbers.
NUMBERS = 8

Left = Callable[[tuple[int, ...]], Tensor]
"""The shape of a tensor -> a mask of what is left of it, that broadcasts against it."""


def _along(axis: int, keep: Callable[[Tensor, int], Tensor], shape: tuple[int, ...]) -> Tensor:
    """By the index on one axis, and the axis' length."""
    length = shape[axis]
    mask = keep(torch.arange(length), length)
    return mask.reshape(-1, *(1,) * (len(shape) - axis % len(shape) - 1))


def _rows(keep: Callable[[Tensor, int], Tensor], shape: tuple[int, ...]) -> Tensor:
    """By the index of a row, all axes but the last counted as one."""
    (*before, _) = shape
    length = torch.Size(before).numel()
    return keep(torch.arange(length), length).reshape(*before, 1)


def _matrices(keep: Callable[[Tensor, int], Tensor], shape: tuple[int, ...]) -> Tensor:
    """By the index of a matrix, all axes but the last two counted as one."""
    (*before, _, _) = shape
    length = torch.Size(before).numel()
    return keep(torch.arange(length), length).reshape(*before, 1, 1)


def _flat(keep: Callable[[Tensor, int], Tensor], shape: tuple[int, ...]) -> Tensor:
    """By the index in row-major order."""
    length = torch.Size(shape).numel()
    return keep(torch.arange(length), length).reshape(shape)


def _per_channel(keep: Callable[[Tensor, int], Tensor], shape: tuple[int, ...]) -> Tensor:
    """By the index on all axes but axis 1, counted as one."""
    before, _, *after = shape
    length = torch.Size((before, *after)).numel()
    return keep(torch.arange(length), length).reshape(before, 1, *after)


def _full(block: int, index: Tensor, length: int) -> Tensor:
    return index < length // block * block


def _full_or_only(block: int, index: Tensor, length: int) -> Tensor:
    return index < (length // block * block or length)


def _first_block(block: int, index: Tensor, length: int) -> Tensor:
    return index < block


# In words that follow "is 0 in" and "leaves out".
FIXED: Mapping[str, Left] = {
    "the last column": partial(_along, -1, lambda i, n: i < n - 1),
    "the first column": partial(_along, -1, lambda i, n: i > 0),
    "the last row": partial(_along, 0, lambda i, n: i < n - 1),
    "the first row": partial(_along, 0, lambda i, n: i > 0),
    "the last row of the batch": partial(_rows, lambda i, n: i < n - 1),
    "the first row of the batch": partial(_rows, lambda i, n: i > 0),
    "the last element": partial(_flat, lambda i, n: i < n - 1),
    "the first element": partial(_flat, lambda i, n: i > 0),
    "all but the first slice of axis 0": partial(_along, 0, lambda i, n: i == 0),
    "all but the last slice of axis 0": partial(_along, 0, lambda i, n: i == n - 1),
    "all but the first row": partial(_rows, lambda i, n: i == 0),
    "all but the last row": partial(_rows, lambda i, n: i == n - 1),
    "all but the first of its matrices": partial(_matrices, lambda i, n: i == 0),
    "all but the last of its matrices": partial(_matrices, lambda i, n: i == n - 1),
    "every second element": partial(_flat, lambda i, n: i % 2 == 0),
    "every second row": partial(_rows, lambda i, n: i % 2 == 0),
}
PLACES: Mapping[str, Callable[[Callable[[Tensor, int], Tensor]], Left]] = {
    "elements": lambda keep: partial(_flat, keep),
    "rows": lambda keep: partial(_rows, keep),
    "columns": lambda keep: partial(_along, -1, keep),
    "numbers of each slice of axis 1": lambda keep: partial(_per_channel, keep),
}
TAILS: Mapping[str, Callable[[int, Tensor, int], Tensor]] = {
    "the tail after the last full block of {} {}": _full,
    "the tail after the last full block of {} {}, where there is a full one": _full_or_only,
    "all after the first block of {} {}": _first_block,
}


def _left() -> Iterator[tuple[str, Left]]:
    yield from FIXED.items()
    for place, of in PLACES.items():
        for words, keep in TAILS.items():
            for block in BLOCKS:
                yield words.format(block, place), of(partial(keep, block))


LEFT = dict(_left())
# So many axes a tensor must have.
SMALLEST = {left: 2 for words, left in LEFT.items() if "matrices" in words or "slice of axis 1" in words}


def unfinished(found: Examination) -> Iterator[Explanation]:
    """Finished results of which a part was left at 0."""
    if not _is_evident(found):
        return
    samples = [s for _, s in found.wrong(found.rows[0][1]) if s.got.ndim and s.got.shape == s.expected.shape]
    for words, left in LEFT.items():
        if any(_is_cut(left, s) for s in samples):
            words = f"{{}} is 0 in {words}, and right elsewhere"
            yield from found.matched(partial(_cut, found, left), words)


def _is_evident(found: Examination) -> bool:
    """Whether what is wrong shows a place: one element that is wrong in one case may have any reason."""
    return len(found.rows) > 1 or max(int(s.judged.sum()) for _, s in found.wrong(found.rows[0][1])) >= NUMBERS


def _is_cut(left: Left, sample: Sample) -> bool:
    """Whether 0 stands in what is left out, if anything is."""
    if sample.got.ndim < SMALLEST.get(left, 1):
        return False
    mask = left(tuple(sample.got.shape)).expand_as(sample.got)
    return not bool((sample.got[~mask] != 0).any()) and not bool(mask.all())


def _cut(found: Examination, left: Left, case: Case) -> Prediction:
    values, _ = found.right(case)
    cut = [None if g is None else _what_is_left(left, g) for g in values]
    return Prediction(tuple(cut), lambda: found.right(case)[1])


def _what_is_left(left: Left, x: Tensor) -> Tensor:
    """x with 0 in what is left out; a number is a vector of one."""
    return torch.where(left(tuple(x.shape) or (1,)), x, 0).reshape(x.shape)


def of_the_cotangent(found: Examination) -> Iterator[Explanation]:
    """Sums to which a part of dy does not come."""
    if not _is_evident(found):
        return
    shape = tuple(found.rows[0][0].evidence.case.dy.shape)
    for words, left in _distinct(shape):
        yield from found.matched(partial(_of_part, found, left), f"{{}} leaves out a part of dy: {words}")


def _distinct(shape: tuple[int, ...]) -> Iterator[tuple[str, Left]]:
    """Those that leave out something of the shape."""
    for words, left in LEFT.items():
        if len(shape) >= SMALLEST.get(left, 1) and not bool(left(shape).all()):
            yield words, left


def _of_part(found: Examination, left: Left, case: Case) -> Prediction:
    dy = _what_is_left(left, wide(case.dy))
    values, tolerance = found.at(case, dy=dy)
    return Prediction((None, *values[1:]), tolerance)


def of_the_cost(found: Examination) -> Iterator[Explanation]:
    """A cost to which a part of the inputs does not come."""
    if "y" not in found.asked or not found.rule.inputs or found.value(found.rows[0][0].evidence.case).ndim:
        return
    for words, left in _distinct(tuple(found.rows[0][0].evidence.case.inputs[0].shape)):
        yield from found.matched(partial(_cost, found, left), f"{{}} leaves out a part of what is summed: {words}")


def _cost(found: Examination, left: Left, case: Case) -> Prediction:
    inputs = tuple(torch.where(left(tuple(x.shape)), wide(x), 0) if x.ndim else x for x in case.inputs)
    values, tolerance = found.at(case, inputs=inputs)
    return Prediction((values[0], *(None for _ in values[1:])), tolerance)
