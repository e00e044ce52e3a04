"""The cases of a search: which are looked at, by argument, and at which edits are asked first."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any

import torch

from manual_bp.oracle.case import Case
from manual_bp.oracle.diagnosis.points import LARGE, MANY, VISIBLE, Point, evenly, spread, worth
from manual_bp.oracle.diagnosis.program import PAGE, Traced
from manual_bp.oracle.diagnosis.records import Record, end_of
from manual_bp.oracle.diagnosis.samples import samples_of
from manual_bp.oracle.diagnosis.tracing import UntraceableError
from manual_bp.oracle.truth.conventions import Conventions
from manual_bp.rule import Rule

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
        every = [(end_of(r) if r.evidence.row is not None else r) or r for r in records]
        kinks = [samples_of(rule.arguments, r, True, dtype) for r in every]
        points = [
            Point(r, samples_of(rule.arguments, r, False, dtype), rule, conventions, at_kink)
            for r, at_kink in zip(every, kinks, strict=True)
        ]
        at_kinks = [Point(r, at_kink, rule, conventions) for r, at_kink in zip(every, kinks, strict=True)]
        self._first: dict[Any, Point] = {}  # by the shape of the first input
        for point in points:
            self._first.setdefault(_shape(point.record.evidence.case), point)
        for argument in rule.arguments:
            if argument in wrong:
                for several in (points, at_kinks):
                    there = [p for p in several if argument in p.samples and (argument, p.name) not in excused]
                    if any(p.samples[argument].is_wrong for p in there):
                        self.every[argument] = [p for p in there if p.size <= LARGE] or there[:2]
                        self.points[argument] = spread(there, argument)
                        self.left_out |= {argument} if len(self.points[argument]) < len(there) else set()
                        break

    def thin(self) -> None:
        """Of a page that takes long to be written down, as in a loop, look at fewer cases, the same for all arguments;
        those at which edits are asked first are among them."""
        start = time.thread_time()
        probes = [probe for probe, _ in self.by_probe(self.points)]
        with suppress(UntraceableError, RuntimeError, TypeError, ValueError, AttributeError):
            for probe in probes[:1]:
                probe.traced(PAGE)
        most = max(int(WRITTEN / max(time.thread_time() - start, NO_TIME)), FEWEST) // 2
        every = dict.fromkeys(p for points in self.points.values() for p in points)
        wrong = [p for p in every if any(p.samples[a].is_wrong for a in self.points if a in p.samples)]
        right = [p for p in every if p not in wrong]
        kept = {id(p) for some in (wrong, right) for p in evenly(some, most)} | {id(p) for p in probes}
        for argument, points in self.points.items():
            self.points[argument] = [p for p in points if id(p) in kept]
            self.left_out |= {argument} if len(self.points[argument]) < len(points) else set()

    def by_probe(self, arguments: Collection[str]) -> list[tuple[Point, list[str]]]:
        """The cases at which edits are asked first, and of which of these arguments: of several together where it can
        be."""
        found: dict[int, tuple[Point, list[str]]] = {}
        for argument in arguments:
            probe = self.probe(argument)
            count = min(int(probe.samples[argument].wrong.sum()), MANY)
            for other, _ in found.values():
                sample = other.samples.get(argument)
                if sample and sample.is_telling and int(sample.wrong.sum()) >= max(count, 1) and sample.error > VISIBLE:
                    probe = other
            found.setdefault(id(probe), (probe, []))[1].append(argument)
        return list(found.values())

    def probe(self, argument: str) -> Point:
        """The case at which edits are asked first: small, with numbers that tell, and as many wrong as there are."""
        wrong = [p for p in self.points[argument] if p.samples[argument].is_wrong]
        telling = [p for p in wrong if p.samples[argument].is_telling] or wrong
        return max(telling, key=lambda p: worth(p, argument))

    def of_first(self, program: Traced) -> Traced | None:
        """The program at the first case with such a shape; None if it is that."""
        first = self._first.get(_shape(program.case))
        return None if first is None or first.name == program.case.name else first.traced(program.by)


def _shape(case: Case) -> Any:
    return case.inputs[0].shape if case.inputs and case.inputs[0] is not None else None
