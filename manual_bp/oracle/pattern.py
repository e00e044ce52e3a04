"""Which pattern the wrong elements of a tensor make, in words.

An index, a tile or a tail says more about a kernel than the worst element does: what is wrong behind the last full
block was masked wrongly, what is wrong in one column was reduced or indexed wrongly.  Regions are written as slices.
"""

from __future__ import annotations

import torch
from torch import Tensor

from manual_bp.oracle.words import beside_one

# Blocks of fewer elements than a SIMD register holds are not told from chance.
SMALLEST_BLOCK = 4
# A factor is read off as many numbers at least: two may have one by chance.
NUMBERS = 3
# Of a longer list so many are looked at first.
ENOUGH = 1000

Region = tuple[range, ...]
"""The indices on each axis."""


def pattern(wrong: Tensor, expected: Tensor, got: Tensor, allowance: Tensor) -> str:
    """Where the wrong elements lie, and what stands there if it is the same everywhere; "" if none is wrong.

    wrong: a bool mask shaped like the other three, of which `expected` and `allowance` are float64.
    An expected value within its allowance of 0 shows no error that is a factor, so it neither makes a region nor
    breaks one.
    """
    if not bool(wrong.any()):
        return ""
    wrong, expected, got, allowance = (x.detach().cpu() for x in (wrong, expected, got, allowance))
    silent = ~wrong & ~(expected.abs() > allowance)
    where = _where(wrong, silent)
    what = _what(expected[wrong].double(), got[wrong].double(), allowance[wrong])
    return f"{where}; {what}" if what else where


# ---------------------------------------------------------------------------------------------------------- where


def place(wrong: Tensor) -> str:
    """Where the elements lie that are marked, of which there is one at least."""
    return _where(wrong.detach().cpu(), torch.zeros(wrong.shape, dtype=torch.bool))


def _where(wrong: Tensor, silent: Tensor) -> str:
    count, total = int(wrong.sum()), wrong.numel()
    if total == 1:
        return "the only element"
    if count == 1:
        index = tuple(int(i) for i in wrong.nonzero()[0])
        end = _tail(range(total - 1, total), total) if bool(wrong.reshape(-1)[-1]) and wrong.ndim == 1 else ""
        return f"one element of {total}: {list(index)}{', ' + end if end else ''}"
    if bool((wrong | silent).all()):
        return f"every element ({total})" if count == total else f"every element that is not 0 ({count} of {total})"
    region = _box(wrong, silent)
    if region is not None:
        return _named(region, tuple(wrong.shape))
    flat = _box(wrong.reshape(-1), silent.reshape(-1))
    if flat is not None and wrong.is_contiguous():
        words = _named(flat, (total,))
        return f"{words} (in row-major order)"
    return f"scattered: {count} of {total} elements"


def _box(wrong: Tensor, silent: Tensor) -> Region | None:
    """The product of ranges that holds all wrong elements, if nothing else that could show an error lies in it."""
    hits = []
    for axis in range(wrong.ndim):
        others = [a for a in range(wrong.ndim) if a != axis]
        hits.append((wrong.any(others) if others else wrong).nonzero().flatten())
    whole = [range(int(hit[0]), int(hit[-1]) + 1) for hit in hits]
    for axis in range(wrong.ndim):  # what shows nothing may belong to a region or not
        whole[axis] = _widened(whole, axis, wrong, silent)
    stepped = [_stepped(hit, r, length) for hit, r, length in zip(hits, whole, wrong.shape, strict=True)]
    for found in (whole, stepped):
        if bool((wrong | silent)[tuple(slice(r.start, r.stop, r.step) for r in found)].all()):
            return tuple(found)
    return None


def _stepped(hit: Tensor, whole: range, length: int) -> range:
    """Every second, third, ... index, if the hits are so spaced."""
    steps = hit.diff()
    if len(hit) < NUMBERS or bool((steps != steps[0]).any()):
        return whole
    step = int(steps[0])
    return range(int(hit[0]), min(int(hit[-1]) + step, length), step)


def _widened(found: list[range], axis: int, wrong: Tensor, silent: Tensor) -> range:
    """The range on one axis, from the roundest possible start and to the end of the axis if that is possible."""
    own = found[axis]
    strip = (wrong | silent)[tuple(slice(None) if a == axis else slice(r.start, r.stop) for a, r in enumerate(found))]
    others = [a for a in range(wrong.ndim) if a != axis]
    free = strip if wrong.ndim == 1 else strip.permute(axis, *others).flatten(1).all(1)
    right = (~free).nonzero().flatten()
    low = int(right[right < own.start].max()) + 1 if bool((right < own.start).any()) else 0
    high = int(right[right >= own.stop].min()) if bool((right >= own.stop).any()) else len(free)
    if high < len(free) or not own.start:
        return range(high) if low == 0 and high == len(free) else own
    return range(high) if low == 0 else range(_roundest(low, own.start), high)


def _roundest(low: int, high: int) -> int:
    """The number from low > 0 to high that the largest power of two divides."""
    block = 1 << high.bit_length()
    while high // block * block < low:
        block //= 2
    return high // block * block


def _named(region: Region, shape: tuple[int, ...]) -> str:
    """A region in words and as slices."""
    bounded = [axis for axis, (r, length) in enumerate(zip(region, shape, strict=True)) if len(r) < length]
    single = [axis for axis in bounded if len(region[axis]) == 1]
    slices = "[" + ", ".join(_slice(r, length) for r, length in zip(region, shape, strict=True)) + "]"
    (axis, *others) = bounded
    span = region[axis]
    if others and len(single) == len(bounded):
        name = "one line" if len(bounded) == len(shape) - 1 else "one slice"
        return f"{name}: {slices}"
    if others:
        return f"a tile: {slices}"
    tail = _tail(span, shape[axis])
    if len(shape) == 1:
        name = f"elements {span.start} to {span[-1]} of {shape[0]}"
    else:
        word = ("row", "column")[axis] if len(shape) == 2 else f"slice of axis {axis}"
        name = f"{word if single else _plural(word)}"
        name = f"a {name}" if single else name
    if span.step > 1:
        name = f"one of {span.step} {_plural(word)}" if len(shape) > 1 else f"one of {span.step} elements"
    return f"{name}: {slices}" + (f", {tail}" if tail else "")


def _plural(word: str) -> str:
    return word.replace("row", "rows").replace("column", "columns").replace("slice", "slices")


def _slice(r: range, length: int) -> str:
    if len(r) == length:
        return ":"
    if len(r) == 1:
        return str(r.start)
    start, stop = str(r.start or ""), "" if r.stop >= length else str(r.stop)
    return f"{start}:{stop}" + (f":{r.step}" if r.step > 1 else "")


def _tail(span: range, length: int) -> str:
    """What the end of an axis is called where it begins at a multiple of a block."""
    if span.stop < length or span.step > 1 or not span.start:
        return ""
    block = span.start & -span.start  # the largest power of two that divides it
    if block < SMALLEST_BLOCK:
        return "the end"
    if length - span.start < block:
        return f"the tail after the last full block of {block}"
    if span.start == block:
        return f"all after the first block of {block}"
    return f"the end, from a multiple of {block} on"


# ----------------------------------------------------------------------------------------------------------- what


def _what(expected: Tensor, got: Tensor, allowance: Tensor) -> str:
    """What stands in the wrong elements: NaN, 0, or the right values times a factor."""
    if bool(got.isnan().all()):
        return "NaN stands there"
    if bool((got == 0).all()):
        return "0 stands there"
    factor = common_factor(expected, got, allowance)
    return "" if factor is None or factor == 1 else f"{beside_one(factor)} times what is due"


def common_factor(expected: Tensor, got: Tensor, allowance: Tensor) -> float | None:
    """The factor between two lists of numbers, if it is the same for all within their allowances.

    It is read off the number that is known best.  None if fewer than three numbers show it, or nothing differs.
    """
    if len(expected) > 2 * ENOUGH:  # most lists have none, and some of their numbers say so
        some = slice(None, None, len(expected) // ENOUGH)
        if common_factor(expected[some], got[some], allowance[some]) is None:
            return None
    known = expected.isfinite() & got.isfinite() & allowance.isfinite() & (expected.abs() > allowance)
    expected, got, allowance = expected[known], got[known], allowance[known]
    if len(expected) < NUMBERS or bool((expected == expected[0]).all()):
        return None
    best = int((expected.abs() / allowance.clamp(min=torch.finfo(torch.float64).tiny)).argmax())
    factor = float(got[best] / expected[best])
    own = float(allowance[best] / expected[best].abs())  # how well the factor is known, relatively
    scale = max(1.0, abs(factor))
    off = (got - factor * expected).abs()
    return factor if bool((off <= scale * (allowance + own * expected.abs())).all()) else None
