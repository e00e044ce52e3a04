"""Cases drawn to tell one claim from another: what is said of the cases that came has to hold in these too.

What is due there is what the page gives in float64, and what is off is so visibly: by more than the root of a rounding,
so that nothing hangs on how far off a right program may be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from manual_bp import axes
from manual_bp.hyperparameters import kinds
from manual_bp.inputs import Edge
from manual_bp.oracle.calling.calls import call
from manual_bp.oracle.case import Case
from manual_bp.oracle.cases.drawing import draw
from manual_bp.oracle.cases.variation import in_precision, wide
from manual_bp.oracle.diagnosis.deadline import Deadline
from manual_bp.oracle.diagnosis.points import LARGE, Point, evenly
from manual_bp.oracle.diagnosis.records import Record
from manual_bp.oracle.diagnosis.samples import samples_of
from manual_bp.oracle.diagnosis.search import Search
from manual_bp.oracle.truth.evidence import OF_ITS_VALUES, Evidence
from manual_bp.outputs import parts
from manual_bp.rule import Rule, Vjp

# How a case is called is put together with the lengths of another, of so many that are wrong and right.
OF_EACH = 4
# For so many seconds they are drawn for one question.
SECONDS = 0.3
# So many are drawn whatever the time is: of none everything holds.
AT_LEAST = 4
# By what hyperparameters are multiplied, each by less than the last: a share stays one.
OTHER = 0.9
# A case of more elements takes long.
MOST = 16 * LARGE


def lengths_of(rule: Rule, case: Case) -> axes.Sizes:
    """Every axis of a case by name, with its lengths."""
    sizes: axes.Sizes = {}
    shapes = {n: tuple(x.shape) for n, x in zip(rule.inputs, case.inputs, strict=True) if x is not None}
    axes.bind(rule.annotations, shapes, sizes, case.hyper)
    return sizes


class Drawn:
    """Of a search: the cases that were drawn, each once."""

    def __init__(self, search: Search, candidate: Vjp | None) -> None:
        self.search, self.candidate = search, candidate
        self._points: dict[Any, Point | None] = {}
        self._others: dict[int, Case] = {}  # of a case, that with other hyperparameters

    def point(self, like: Case, sizes: Mapping[str, Any], seed: int = 0) -> Point | None:
        """A case that is called as another one, with such lengths; None where the page is not defined or the candidate
        gives nothing."""
        key = id(like), str(sizes), seed
        if key not in self._points:
            with suppress(Exception):  # the page is not defined for these lengths or numbers
                self._points[key] = self._drawn(like, sizes, seed)
        return self._points.setdefault(key, None)

    def _drawn(self, like: Case, sizes: Mapping[str, Any], seed: int) -> Point | None:
        search, rule, conventions = self.search, self.search.rule, self.search.conventions
        absent = [name for name, x in zip(rule.inputs, like.inputs, strict=True) if x is None]
        name = ", ".join(f"{axis} = {length}" for axis, length in sizes.items())
        edge = Edge(f"{name} (drawn)", given={**like.hyper, **dict.fromkeys(absent)}, sizes=sizes)
        case = Case(*draw(rule, edge, torch.Generator().manual_seed(seed)), edge.name)
        case = in_precision(case, search.dtype)
        wider = case.with_tensors(wide(x) for x in case.tensors)
        results = call(self.candidate, rule, case).results if self.candidate is not None else None
        if not results:
            return None
        y, grads = rule.vjp(wider.inputs, wider.dy, **conventions.hyper(rule, case.hyper))
        due = [wide(x).double() if isinstance(x, Tensor) else None for x in (*parts(y), *(grads or ()))]
        beyond = [None if x is None else _beyond(x, search.dtype) for x in due]
        found = Evidence(case, tuple(due), tuple(beyond), (None,) * len(due), OF_ITS_VALUES)
        record = Record(found, results)
        visible = torch.finfo(search.dtype).eps ** 0.5
        samples = samples_of(rule.arguments, record, False, search.dtype)
        samples = {argument: replace(sample, slack=visible) for argument, sample in samples.items()}
        return Point(record, samples, rule, conventions)

    def fresh(self, argument: str, wrong: Sequence[Point], right: Sequence[Point]) -> list[Point]:
        """Cases that are called as one that is wrong, or right, with the lengths of another, so that what came together
        by chance comes apart; and longer ones than those that are wrong, and such as have one more on one axis."""
        if self.candidate is None:
            return []
        several = [[p for p in points if p.size <= MOST and not p.is_part] for points in (wrong, right)]
        one, two = ([p.case for p in evenly(points, OF_EACH)] for points in several)
        crossed = [(one[i % len(one)], two[i % len(two)]) for i in range(OF_EACH)] if one and two else []
        pairs = [*crossed, *((b, a) for a, b in crossed), *((case, case) for case in one)]
        wanted = [(like, lengths_of(self.search.rule, other)) for like, other in pairs]
        beside = [(case, lengths_of(self.search.rule, case)) for case in (*one[:2], *two[:2])]
        wanted[:0] = [(case, lengths) for like, lengths in beside for case in self._at_other_numbers(like)]
        wanted += [(case, longer) for case, lengths in beside[: len(one[:2])] for longer in _longer(lengths)]
        wanted += [(case, next_to) for case, lengths in beside for next_to in _one_more(lengths)]
        deadline, found = Deadline(SECONDS), []
        for seed, (like, lengths) in enumerate(wanted):
            point = self.point(like, lengths, seed) if deadline.left or seed < AT_LEAST else None
            found += [point] if point is not None and argument in point.samples else []
        return found

    def _at_other_numbers(self, case: Case) -> list[Case]:
        """Of a function, which may have been called with the same hyperparameters in all cases, the case with others: a
        number is told from what it is made of."""
        rule = self.search.rule
        given = {**rule.defaults, **case.hyper}
        numbers = [n for n, h in given.items() if type(h) in (int, float) and float in kinds(rule.annotations[n])]
        if not hasattr(rule.page, "FUNCTION") or not numbers:
            return []
        others = {name: given[name] * (OTHER - i / 10) for i, name in enumerate(numbers)}
        return [self._others.setdefault(id(case), replace(case, hyper={**case.hyper, **others}))]


def _longer(sizes: axes.Sizes) -> Iterator[axes.Sizes]:
    """One axis longer: one short of a power of two, which leaves another remainder of every block, or the longest twice
    as long and one."""
    lengths = {axis: length[0] for axis, length in sizes.items() if len(length) == 1}
    for axis, n in lengths.items():
        yield {**sizes, axis: ((1 << (n + 1).bit_length()) - 1,)}
        if n == max(lengths.values()):
            yield {**sizes, axis: (2 * n + 1,)}


def _one_more(sizes: axes.Sizes) -> Iterator[axes.Sizes]:
    """One axis longer by one: an odd length becomes an even one, and a multiple of a block none."""
    for axis, length in sizes.items():
        if len(length) == 1:
            yield {**sizes, axis: (length[0] + 1,)}


def _beyond(due: Tensor, dtype: torch.dtype) -> Tensor:
    largest = float(due.abs().nan_to_num(0, 0, 0).max()) if due.numel() else 0.0
    return torch.full(due.shape, torch.finfo(dtype).eps ** 0.5 * largest, dtype=torch.float64)
