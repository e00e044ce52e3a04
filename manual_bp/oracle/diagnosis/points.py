"""Points: the cases of a search, which of them are looked at, and at which edits are asked first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from manual_bp.oracle.case import Case
from manual_bp.oracle.cases.variation import wide
from manual_bp.oracle.diagnosis.edit import Edit
from manual_bp.oracle.diagnosis.program import PAGE, Called, Traced
from manual_bp.oracle.diagnosis.records import Record
from manual_bp.oracle.diagnosis.samples import Sample
from manual_bp.oracle.diagnosis.tracing import called, traced
from manual_bp.oracle.diagnosis.words import PLAIN
from manual_bp.oracle.truth.conventions import Conventions
from manual_bp.rule import Rule
from manual_bp.signature import computing_dtype

# A case of more elements takes long, and shows nothing that a smaller one does not, unless it is the only one.
LARGE = 4096
# So many cases with something wrong, and without, are looked at.
WRONG, RIGHT = 60, 48
# An error of so many allowances is told from what other edits would do.
VISIBLE = 64
# More numbers that are wrong tell no more.
MANY = 12
# Where all numbers of an input are smaller or larger, a curve is a line, and edits that differ give the same.
SMALL, GREAT = 0.1, 100.0


@dataclass(eq=False)
class Point:
    """A case, with what was returned for each argument there."""

    record: Record
    samples: dict[str, Sample]
    rule: Rule
    conventions: Conventions
    at_kinks: Mapping[str, Sample] = field(default_factory=dict)
    """As samples, judged where no derivative exists too."""
    _traced: dict[tuple[str, bool], Traced] = field(default_factory=dict)
    _called: dict[bool, Called] = field(default_factory=dict)

    @property
    def case(self) -> Case:
        return self.record.evidence.case

    @property
    def name(self) -> str:
        return self.case.name

    @property
    def size(self) -> int:
        return self.record.evidence.case.elements

    @property
    def is_part(self) -> bool:
        """Whether it is the end of a larger case, at which alone the candidate was called."""
        return self.record.evidence.row is not None

    @property
    def is_extreme(self) -> bool:
        """Whether all numbers of an input are small or great."""
        inputs = [x for x in self.record.evidence.case.inputs if x is not None]
        largest = [float(x.abs().max()) for x in inputs if x.is_floating_point() and x.numel()]
        return not all(SMALL < x < GREAT for x in largest)

    def traced(self, by: str = PAGE, moved: bool = False) -> Traced:
        """The program at this case; moved: with every number moved by a rounding."""
        if (by, moved) not in self._traced:
            self._traced[by, moved] = traced(self.rule, self._declared(moved), by)
        return self._traced[by, moved]

    def called(self, moved: bool = False) -> Called:
        """The page as it is called at this case; moved: with every number moved by a rounding."""
        if moved not in self._called:
            self._called[moved] = called(self.rule, self._declared(moved))
        return self._called[moved]

    def program(self, edit: Edit, by: str, moved: bool = False) -> Traced | Called:
        """What an edit is one of."""
        return self.called(moved) if edit.is_registered else self.traced(by, moved)

    def _declared(self, moved: bool) -> Case:
        case = self.record.evidence.case
        case = replace(case, hyper=self.conventions.hyper(self.rule, case.hyper))
        return _moved(case) if moved else case


def _moved(case: Case) -> Case:
    """The case with every number moved by about a rounding of its dtype, at random, alike in every run."""
    generator = torch.Generator().manual_seed(0)

    def other(x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return x
        by = torch.finfo(computing_dtype(x.dtype)).eps * torch.randn(x.shape, generator=generator, dtype=torch.float64)
        return wide(x) * (1 + by)

    return case.with_tensors([other(x) for x in case.tensors])


def spread(points: list[Point], argument: str) -> list[Point]:
    """So many of the cases at most, evenly spread; what is wrong and small comes first."""
    several: tuple[list[Point], list[Point]] = [], []
    for point in points:
        several[not point.samples[argument].is_wrong].append(point)
    kept = [p for part, most in zip(several, (WRONG, RIGHT), strict=True) for p in _some(part, most)]
    return sorted(kept, key=lambda p: (not p.samples[argument].is_wrong, p.size > LARGE, -p.samples[argument].error))


def _some(points: list[Point], most: int) -> list[Point]:
    return evenly([p for p in points if p.size <= LARGE] or points[:2], most)


def evenly(points: list[Point], most: int) -> list[Point]:
    """At most so many of them."""
    count = min(most, len(points))
    return [points[i * len(points) // count] for i in range(count)]


def worth(point: Point, argument: str) -> tuple[Any, ...]:
    """How much is learnt from asking edits at a case, the smallest comes last."""
    sample = point.samples[argument]
    inputs = [x for x in point.record.evidence.case.inputs if x is not None]
    spread = len({n for x in inputs for n in x.shape if n > 1})
    given = point.record.evidence.case.hyper
    options = len([n for n, h in given.items() if h not in PLAIN]) if given else 0
    wrong = min(int(sample.wrong.sum()), MANY)
    is_plain = point.size <= LARGE, not point.is_extreme
    return *is_plain, wrong, sample.error > VISIBLE, len(inputs), spread, options, -point.size
