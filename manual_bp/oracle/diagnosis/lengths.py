"""Lengths: from which length of an axis on it is wrong, found by calling it at cases that are drawn for that."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from manual_bp import axes
from manual_bp.inputs import Edge
from manual_bp.oracle.calling import call
from manual_bp.oracle.case import Case
from manual_bp.oracle.diagnosis.points import Point
from manual_bp.oracle.diagnosis.search import EVIDENT, Search
from manual_bp.oracle.drawing import draw
from manual_bp.oracle.pattern import place
from manual_bp.oracle.variation import in_precision, wide
from manual_bp.outputs import parts
from manual_bp.rule import Vjp

# Of so many axes it is asked.
AXES = 3
# What is wrong in one of so many cases at most may well be a matter of length.
SELDOM = 4
# A length is called right where it is in so many cases drawn, and the last that is so in more.
DRAWN, MORE = 2, 8
# Of more blocks of a length it is not asked whether what is no multiple of them is wrong.
BLOCKS = (2, 4, 8, 16, 32, 64, 128)
# What is wrong at such a length already is no matter of length.
SHORT = 2


class Lengths:
    """Of a search: what was found of each argument, and the cases that were drawn for it."""

    def __init__(self, search: Search, candidate: Vjp | None) -> None:
        self.search, self.candidate = search, candidate
        self.found: dict[str, str] = {}
        self._drawn: dict[tuple[str, str], _Drawn] = {}

    def ask_early(self) -> None:
        """Ask of what is wrong in few cases, and of these alone that are longer than most, before any edit is."""
        for argument, points in self.search.points.items():
            if len(points) >= SELDOM * sum(p.samples[argument].is_wrong for p in points):
                self.longer(self.search, self.candidate, argument)

    def longer(self, search: Search, candidate: Vjp | None, argument: str) -> str:
        """From which length of an axis on, or at which lengths, it is wrong, all else being alike; "" if it is no
        matter of length."""
        if candidate is not None and argument not in self.found:
            self.found[argument] = ""
            for axis, length, like in _suspicious(search, argument):
                drawn = self._drawn.setdefault((axis, like.name), _Drawn(search, candidate, axis, like))
                if said := _of_length(drawn, argument, length):
                    self.found[argument] = said
                    break
        return self.found.get(argument, "")


def _of_length(drawn: _Drawn, argument: str, length: int) -> str:
    def is_wrong(n: int, seeds: int = DRAWN) -> bool:
        return any(wrong is not None and bool(wrong.any()) for wrong in drawn.wrong(n, argument, seeds))

    def has_system(n: int) -> bool:  # one wrong number has none
        every = (w for w in drawn.wrong(n, argument, DRAWN) if w is not None and w.numel())
        return any(int(w.sum()) >= min(EVIDENT, w.numel()) for w in every)

    def said(where: str, n: int) -> str:
        wrong = next(w for w in drawn.wrong(n, argument, MORE) if w is not None and bool(w.any()))
        evidence = f"seen in {len(drawn.asked)} cases drawn for it, all else alike"
        return f"{argument} is {where}; at a length of {n} in {place(wrong)}; {evidence}"

    if not is_wrong(length):
        return ""
    for block in BLOCKS:
        is_right = not any(is_wrong(n) for n in (block, 2 * block, 1, block // 2, block - 1))
        if is_right and is_wrong(block + 1) and is_wrong(2 * block - 1):
            longer = f"longer than {block} and no multiple of {block}"
            return said(f"wrong where the axis {drawn.axis} is {longer}", block + 1)
    low, high = 1, length
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_wrong(middle) else (middle, high)
    while low > 1 and is_wrong(low, MORE):  # what shows by chance alone is not seen in every case
        low, high = low - 1, low
    if high > SHORT and not is_wrong(max(low // 2, 1), MORE) and is_wrong(high + 1) and has_system(2 * high + 1):
        return said(f"right up to a length of {low} of the axis {drawn.axis}, and wrong from {high} on", high)
    return ""


def _suspicious(search: Search, argument: str) -> Iterator[tuple[str, int, Point]]:
    """Axes of which every wrong case has more than most of the right ones, by how many; the least length that is wrong,
    and the case."""
    several: tuple[list[tuple[dict[str, int], Point]], list[tuple[dict[str, int], Point]]] = [], []
    for point in search.points[argument]:
        several[not point.samples[argument].is_wrong].append((_lengths(search, point), point))
    wrong, right = several
    found = []
    for axis in search.rule.axis_names:
        least, like = min(((n.get(axis, 0), i) for i, (n, _) in enumerate(wrong)), default=(0, 0))
        shorter = sum(n.get(axis, 0) < least for n, _ in right)
        if least > SHORT and 2 * shorter > len(right):
            found.append((shorter, axis, least, wrong[like][1]))
    for _, axis, least, point in sorted(found, key=lambda each: -each[0])[:AXES]:
        yield axis, least, point


def _lengths(search: Search, point: Point) -> dict[str, int]:
    rule, case, sizes = search.rule, point.record.evidence.case, axes.Sizes()
    shapes = {n: tuple(x.shape) for n, x in zip(rule.inputs, case.inputs, strict=True) if x is not None}
    axes.bind(rule.annotations, shapes, sizes, case.hyper)
    return {name: math.prod(length) for name, length in sizes.items()}


class _Drawn:
    """Cases in which one axis has another length, and where the candidate is visibly wrong there: what the page gives
    in float64 is near enough to what is due."""

    def __init__(self, search: Search, candidate: Vjp, axis: str, like: Point) -> None:
        self.search, self.candidate, self.axis, self.like = search, candidate, axis, like
        self.asked: dict[tuple[int, int], dict[str, Tensor]] = {}

    def wrong(self, length: int, argument: str, seeds: int) -> Iterator[Tensor | None]:
        """None where the page is not defined, or the candidate gives nothing."""
        for seed in range(seeds):
            if (length, seed) not in self.asked:
                self.search.deadline.check()
                self.asked[length, seed] = self._wrong(length, seed)
            yield self.asked[length, seed].get(argument)

    def _wrong(self, length: int, seed: int) -> dict[str, Tensor]:
        rule, like = self.search.rule, self.like.record.evidence.case
        absent = [name for name, x in zip(rule.inputs, like.inputs, strict=True) if x is None]
        given = {**like.hyper, **dict.fromkeys(absent)}
        edge = Edge(f"{self.axis} = {length}", given=given, sizes={self.axis: length})
        try:
            case = Case(*draw(rule, edge, torch.Generator().manual_seed(seed)), edge.name)
            case = in_precision(case, self.search.dtype)
            wider = case.with_tensors(wide(x) for x in case.tensors)
            y, grads = rule.vjp(wider.inputs, wider.dy, **self.like.conventions.hyper(rule, case.hyper))
        except ValueError:  # the page is not defined for this length
            return {}
        results, found = call(self.candidate, rule, case).results or (), {}
        for name, got, due in zip(rule.arguments, results, (*parts(y), *grads), strict=False):
            if isinstance(got, Tensor) and isinstance(due, Tensor) and got.shape == due.shape:
                beyond = torch.finfo(self.search.dtype).eps ** 0.5 * due.abs().max() if due.numel() else 0.0
                found[name] = ~((wide(got) - due).abs() <= beyond)
        return found
