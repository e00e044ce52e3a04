"""Lengths: from which length of an axis on it is wrong, found by calling it at cases that are drawn for that."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

from manual_bp.oracle.case import Case
from manual_bp.oracle.diagnosis.drawn import Drawn, lengths_of
from manual_bp.oracle.diagnosis.points import Point
from manual_bp.oracle.diagnosis.search import EVIDENT, Search
from manual_bp.oracle.pattern import place
from manual_bp.rule import Vjp

# Of so many axes it is asked.
AXES = 3
# A length is called right where it is in so many cases drawn, and the last that is so in more.
DRAWN, MORE = 2, 8
# Of more blocks of a length it is not asked whether what is no multiple of them is wrong.
BLOCKS = (2, 4, 8, 16, 32, 64, 128)
# What is wrong at such a length already is no matter of length.
SHORT = 2


def longer(drawn: Drawn, search: Search, candidate: Vjp | None, argument: str) -> str:
    """From which length of an axis on, or at which lengths, it is wrong, all else being alike; "" if it is no matter of
    length."""
    if candidate is None:
        return ""
    asked = (_Along(drawn, axis, like.case, argument) for axis, like in _suspicious(search, argument))
    return next((said for along in asked if (said := along.said())), "")


class _Along:
    """Whether an argument is wrong at each length of one axis, all else being called alike."""

    def __init__(self, drawn: Drawn, axis: str, like: Case, argument: str) -> None:
        self.drawn, self.axis, self.like, self.argument = drawn, axis, like, argument
        self.asked: set[tuple[int, int]] = set()

    def wrong(self, length: int, seeds: int = DRAWN) -> Iterator[Tensor]:
        """Where it is wrong in cases of a length, one after the other."""
        for seed in range(seeds):
            self.drawn.search.deadline.check()
            point = self.drawn.point(self.like, {self.axis: length}, seed)
            self.asked.add((length, seed))
            if point is not None and self.argument in point.samples:
                yield point.samples[self.argument].wrong

    def is_wrong(self, length: int, seeds: int = DRAWN) -> bool:
        return any(bool(wrong.any()) for wrong in self.wrong(length, seeds))

    def has_system(self, length: int) -> bool:
        """One wrong number has none."""
        return any(int(w.sum()) >= min(EVIDENT, w.numel()) for w in self.wrong(length) if w.numel())

    def said(self) -> str:
        """At which lengths it is wrong, of which that of the case is one; "" if it is right at none below."""
        is_wrong, length = self.is_wrong, _lengths(self.drawn.search, self.like).get(self.axis, 0)
        if not is_wrong(length):
            return ""
        for block in BLOCKS:
            is_right = not any(is_wrong(n) for n in (block, 2 * block, 3 * block, 1, block // 2, block - 1))
            if is_right and is_wrong(block + 1) and is_wrong(2 * block - 1) and is_wrong(2 * block + 1):
                longer = f"longer than {block} and no multiple of {block}"
                return self._seen(f"wrong where the axis {self.axis} is {longer}", block + 1)
        low, high = 1, length
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if is_wrong(middle) else (middle, high)
        while low > 1 and is_wrong(low, MORE):  # what shows by chance alone is not seen in every case
            low, high = low - 1, low
        is_longer = high > SHORT and not is_wrong(max(low // 2, 1), MORE) and is_wrong(high + 1)
        if is_longer and self.has_system(2 * high + 1):
            return self._seen(f"right up to a length of {low} of the axis {self.axis}, and wrong from {high} on", high)
        return ""

    def _seen(self, where: str, length: int) -> str:
        wrong = next(w for w in self.wrong(length, MORE) if bool(w.any()))
        evidence = f"seen in {len(self.asked)} cases drawn for it, all else alike"
        return f"{self.argument} is {where}; at a length of {length} in {place(wrong)}; {evidence}"


def _suspicious(search: Search, argument: str) -> Iterator[tuple[str, Point]]:
    """Axes of which every wrong case has more than most of the right ones, by how many, with the shortest of these."""
    lengths = {point: _lengths(search, point.case) for point in search.points[argument]}
    wrong = [p for p in lengths if p.samples[argument].is_wrong]
    found = []
    for axis in search.rule.axis_names if wrong else ():
        like = min(wrong, key=lambda p: lengths[p].get(axis, 0))
        least = lengths[like].get(axis, 0)
        shorter = sum(own.get(axis, 0) < least for own in lengths.values())
        if least > SHORT and 2 * shorter > len(lengths) - len(wrong):
            found.append((shorter, axis, like))
    yield from ((axis, like) for _, axis, like in sorted(found, key=lambda each: -each[0])[:AXES])


def _lengths(search: Search, case: Case) -> dict[str, int]:
    return {name: math.prod(length) for name, length in lengths_of(search.rule, case).items()}
