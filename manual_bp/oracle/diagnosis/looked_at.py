"""The cases of a search: which are looked at, by argument, and at which edits are asked first."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any

import torch

from manual_bp.oracle.case import Case
from manual_bp.oracle.diagnosis.points import LARGE, Point
from manual_bp.oracle.diagnosis.program import Traced
from manual_bp.oracle.diagnosis.records import Record, end_of
from manual_bp.oracle.diagnosis.samples import samples_of
from manual_bp.oracle.diagnosis.tracing import UNTRACEABLE
from manual_bp.oracle.diagnosis.words import PLAIN
from manual_bp.oracle.truth.conventions import Conventions
from manual_bp.rule import Rule

# So many cases with something wrong, and without, are looked at.
WRONG, RIGHT = 60, 48
# An error of so many allowances is told from what other edits would do.
VISIBLE = 64
# More numbers that are wrong tell no more.
MANY = 12
# In so many seconds a page is written down at the cases that are looked at, but at so many cases at least.
WRITTEN, FEWEST = 1.2, 16
# Seconds below which the time of one page is the clock's noise, and all cases are taken anyway.
NO_TIME = 1e-3


class LookedAt:
    """rule, records: what was compared.  wrong: the arguments to be explained.  excused: of these, cases that tell
    nothing.

    points, every: by argument the cases that are looked at, and all that are small: of what the page lists.
    left_out: arguments of which not every case is looked at.
    """

    def __init__(
        self,
        rule: Rule,
        records: Sequence[Record],
        wrong: Collection[str],
        dtype: torch.dtype,
        conventions: Conventions,
        excused: Collection[tuple[str, str]],
    ) -> None:
        self.rule, self.wrong, self.dtype, self.conventions = rule, frozenset(wrong), dtype, conventions
        self.points: dict[str, list[Point]] = {}
        self.every: dict[str, list[Point]] = {}
        self.left_out: set[str] = set()
        self._first: dict[Any, Point] = {}  # by the shape of the first input
        points, at_kinks = list[Point](), list[Point]()
        for r in [(end_of(r) if r.evidence.row is not None else r) or r for r in records]:
            usual, kinks = (samples_of(rule.arguments, r, is_kink, dtype) for is_kink in (False, True))
            points.append(Point(r, usual, rule, conventions, kinks))
            at_kinks.append(Point(r, kinks, rule, conventions))
            self._first.setdefault(_shape(r.evidence.case), points[-1])
        for argument in (a for a in rule.arguments if a in wrong):
            for several in (points, at_kinks):
                there = [p for p in several if argument in p.samples and (argument, p.name) not in excused]
                if any(p.samples[argument].is_wrong for p in there):
                    self.every[argument] = [p for p in there if p.size <= LARGE] or there[:2]
                    self._look_at(argument, _spread(there, argument), there)
                    break

    def _look_at(self, argument: str, points: list[Point], of: Sequence[Point]) -> None:
        self.points[argument] = points
        self.left_out |= {argument} if len(points) < len(of) else set()

    def thin(self) -> None:
        """Of a page that takes long to be written down, as in a loop, look at fewer cases, the same for all arguments;
        those at which edits are asked first are among them."""
        start = time.thread_time()
        probes = [probe for probe, _ in self.by_probe(self.points)]
        with suppress(*UNTRACEABLE):
            for probe in probes[:1]:
                probe.traced()
        most = max(int(WRITTEN / max(time.thread_time() - start, NO_TIME)), FEWEST) // 2
        every = dict.fromkeys(p for points in self.points.values() for p in points)
        wrong = [p for p in every if any(p.samples[a].is_wrong for a in self.points if a in p.samples)]
        right = [p for p in every if p not in wrong]
        kept = {*evenly(wrong, most), *evenly(right, most), *probes}
        for argument, points in self.points.items():
            self._look_at(argument, [p for p in points if p in kept], points)

    def by_probe(self, arguments: Collection[str]) -> list[tuple[Point, list[str]]]:
        """The cases at which edits are asked first, and of which of these arguments: of several together where it can
        be."""
        found: dict[Point, list[str]] = {}
        for argument in arguments:
            probe = self.probe(argument)
            count = min(int(probe.samples[argument].wrong.sum()), MANY)
            for other in found:
                sample = other.samples.get(argument)
                if sample and sample.is_telling and int(sample.wrong.sum()) >= max(count, 1) and sample.error > VISIBLE:
                    probe = other
            found.setdefault(probe, []).append(argument)
        return list(found.items())

    def probe(self, argument: str) -> Point:
        """The case at which edits are asked first: small, with numbers that tell, and as many wrong as there are."""
        wrong = [p for p in self.points[argument] if p.samples[argument].is_wrong]
        telling = [p for p in wrong if p.samples[argument].is_telling] or wrong
        return max(telling, key=lambda p: _worth(p, argument))

    def of_first(self, program: Traced) -> Traced | None:
        """The program at the first case with such a shape; None if it is that."""
        first = self._first.get(_shape(program.case))
        return None if first is None or first.name == program.case.name else first.traced(program.by)


def _shape(case: Case) -> Any:
    return case.inputs[0].shape if case.inputs and case.inputs[0] is not None else None


def _spread(points: Sequence[Point], argument: str) -> list[Point]:
    """So many of the cases at most, evenly spread; what is wrong and small comes first."""
    kept: list[Point] = []
    for is_wrong, most in ((True, WRONG), (False, RIGHT)):
        part = [p for p in points if p.samples[argument].is_wrong == is_wrong]
        kept += evenly([p for p in part if p.size <= LARGE] or part[:2], most)
    return sorted(kept, key=lambda p: (not p.samples[argument].is_wrong, p.size > LARGE, -p.samples[argument].error))


def evenly(points: Sequence[Point], most: int) -> list[Point]:
    """At most so many of them."""
    count = min(most, len(points))
    return [points[i * len(points) // count] for i in range(count)]


def _worth(point: Point, argument: str) -> tuple[Any, ...]:
    """How much is learnt from asking edits at a case, the smallest comes last."""
    sample, case = point.samples[argument], point.case
    inputs = [x for x in case.inputs if x is not None]
    lengths = len({n for x in inputs for n in x.shape if n > 1})
    options = len([n for n, h in case.hyper.items() if h not in PLAIN])
    wrong = min(int(sample.wrong.sum()), MANY)
    is_plain = point.size <= LARGE, not point.is_extreme
    return *is_plain, wrong, sample.error > VISIBLE, len(inputs), lengths, options, -point.size
