"""The search: which edit of the page gives what a candidate returned."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from typing import Any

import torch
from torch import Tensor

from manual_bp.oracle.case import Case
from manual_bp.oracle.conventions import Conventions
from manual_bp.oracle.diagnosis.deadline import Deadline
from manual_bp.oracle.diagnosis.edit import Edit
from manual_bp.oracle.diagnosis.edits import edits_of
from manual_bp.oracle.diagnosis.multiples import multiples, names_of, times
from manual_bp.oracle.diagnosis.program import PAGE, TORCH, Traced, UntraceableError, Values, traced
from manual_bp.oracle.diagnosis.records import Record, end_of
from manual_bp.oracle.diagnosis.samples import Sample, samples_of, wide
from manual_bp.oracle.diagnosis.values import misshapen
from manual_bp.oracle.diagnosis.whole import whole_edits
from manual_bp.oracle.diagnosis.words import PLAIN
from manual_bp.oracle.evidence import OUR_CONVENTIONS
from manual_bp.rule import Rule
from manual_bp.signature import computing_dtype

# A case of more elements takes long, and shows nothing that a smaller one does not, unless it is the only one.
LARGE = 4096
# So many cases with something wrong, and without, are looked at.
WRONG, RIGHT = 60, 60
# A claim about a part of the numbers rests on so many that are wrong, and one about a multiple.
EVIDENT = 3
MULTIPLE = 6
# What is computed may be off by so many times what one rounding of the inputs does to it.
SHAKY = 16
# An error of so many allowances is told from what other edits would do.
VISIBLE = 64
# An edit of torch's derivative is told where none of the page is as simple: by so much.
ANOTHER = 0.3
# How seldom a part of a registered mistake is met.
PART = 2.6


@dataclass(eq=False)
class Point:
    """A case, with what was returned for each argument there."""

    record: Record
    samples: dict[str, Sample]
    rule: Rule
    conventions: Conventions
    _traced: dict[tuple[str, bool], Traced] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.record.evidence.case.name

    @property
    def size(self) -> int:
        return self.record.evidence.case.elements

    def traced(self, by: str = PAGE, moved: bool = False) -> Traced:
        """The program at this case; moved: with every number moved by a rounding."""
        if (by, moved) not in self._traced:
            case = self.record.evidence.case
            case = replace(case, hyper=self.conventions.hyper(self.rule, case.hyper))
            self._traced[by, moved] = traced(self.rule, _moved(case) if moved else case, by)
        return self._traced[by, moved]


def _moved(case: Case) -> Case:
    """The case with every number moved by about a rounding of its dtype, at random, alike in every run."""
    generator = torch.Generator().manual_seed(0)

    def other(x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return x
        by = torch.finfo(computing_dtype(x.dtype)).eps * torch.randn(x.shape, generator=generator, dtype=torch.float64)
        return wide(x) * (1 + by)

    return case.with_tensors([other(x) for x in case.tensors])


@dataclass
class Verdict:
    """What an edit is to one argument.  agreeing: cases in which the argument is what the edit gives, and visibly not
    right.  mixed: cases in which only what is wrong is what the edit gives.  contrary: cases in which the argument is
    right, and the edit gives something else.  silent: in how many wrong cases the edit is not defined; undefined: right
    ones.
    """

    edit: Edit
    by: str
    agreeing: list[Point] = field(default_factory=list)
    mixed: list[Point] = field(default_factory=list)
    contrary: list[Point] = field(default_factory=list)
    silent: int = 0
    undefined: list[Point] = field(default_factory=list)
    cases: int = 0

    @property
    def is_exact(self) -> bool:
        return bool(self.agreeing) and not self.mixed and not self.contrary


class Search:
    """rule, records: what was compared.  wrong: the arguments to be explained.

    left_out: arguments of which not every case is looked at.  exact, partial: by argument what was found: edits that
    hold in every case, and those that give all that is wrong.
    nearest: by argument the edit that gives most of what was returned at the case that was asked first, and what share.
    """

    def __init__(
        self,
        rule: Rule,
        records: Sequence[Record],
        wrong: Collection[str],
        dtype: torch.dtype,
        deadline: Deadline,
        conventions: Conventions = OUR_CONVENTIONS,
    ) -> None:
        self.rule, self.deadline, self.dtype = rule, deadline, dtype
        self.tried = 0
        self.points: dict[str, list[Point]] = {}
        self.left_out: set[str] = set()
        self.exact: dict[str, list[Verdict]] = {}
        self.partial: dict[str, list[Verdict]] = {}
        self.nearest: dict[str, tuple[float, Edit]] = {}
        every = [(end_of(r) if r.evidence.row is not None else r) or r for r in records]
        points = [Point(r, samples_of(rule.arguments, r, False, dtype), rule, conventions) for r in every]
        at_kinks = [Point(r, samples_of(rule.arguments, r, True, dtype), rule, conventions) for r in every]
        for argument in rule.arguments:
            if argument in wrong:
                for several in (points, at_kinks):
                    there = [p for p in several if argument in p.samples]
                    if any(p.samples[argument].is_wrong for p in there):
                        self.points[argument] = _spread(there, argument)
                        self.left_out |= {argument} if len(self.points[argument]) < len(there) else set()
                        break

    @property
    def open(self) -> list[str]:
        return [a for a in self.points if a not in self.exact]

    def run(self) -> None:
        """Fill `exact` and `partial`; TimeIsUp leaves what was found so far."""
        by_probe: dict[int, tuple[Point, list[str]]] = {}
        for argument in self.open:
            probe = self.probe(argument)
            by_probe.setdefault(id(probe), (probe, []))[1].append(argument)
        for probe, arguments in by_probe.values():
            self._search(probe, arguments)

    def probe(self, argument: str) -> Point:
        """The case at which edits are asked first: small, with numbers that tell, and as many wrong as there are."""
        wrong = [p for p in self.points[argument] if p.samples[argument].is_wrong]
        telling = [p for p in wrong if p.samples[argument].is_telling] or wrong
        return max(telling, key=lambda p: _worth(p, argument))

    def _edits(self, program: Traced, samples: dict[str, Sample]) -> Iterator[tuple[float, Edit]]:
        """All edits of a program that may give what was returned at a case, with how seldom they are met."""
        needed = program.needed(list(samples))
        edits = [*multiples(program, needed, samples), *edits_of(program, needed)]
        edits += [*whole_edits(program)] if program.by == PAGE else []
        for argument, sample in samples.items():
            if sample.got.shape != sample.expected.shape and argument in program.results:
                edits += misshapen(program, argument, tuple(sample.got.shape))
        for edit in edits:
            yield edit.cost + self._unlikely(program, edit) + (ANOTHER if program.by == TORCH else 0.0), edit

    def _search(self, probe: Point, arguments: list[str]) -> None:
        samples = {a: probe.samples[a] for a in arguments}
        edits: list[tuple[float, Edit, str]] = []
        for by in (PAGE, TORCH):
            try:
                edits += [(cost, edit, by) for cost, edit in self._edits(probe.traced(by), samples)]
            except (UntraceableError, RuntimeError, TypeError, ValueError, AttributeError):
                continue  # there is no such program
        edits.sort(key=lambda each: each[0])
        later: list[tuple[float, int, Edit, str, str]] = []
        number = itertools.count()
        for cost, edit, by in edits:
            self.deadline.check()
            while later and later[0][0] <= cost:
                _, _, multiple, argument, own = heappop(later)
                if argument not in self.exact:
                    self._confirm(multiple, argument, own, exactly=True)
            if all(a in self.exact for a in arguments):
                return
            program = probe.traced(by)
            needed, named = program.needed(arguments), program.quantities
            self.tried += 1
            try:
                values = edit.results(program, needed)
            except Exception:  # not defined for these shapes or kinds
                continue
            if edit.is_registered and self._is_contradicted(probe, values):  # a part of a mistake is seldom made alone
                edit = replace(edit, cost=PART)
                for argument in arguments:
                    heappush(later, (edit.cost, next(number), edit, argument, by))
                continue
            for argument in arguments:
                value = values.get(argument)
                if not isinstance(value, Tensor) or value.is_complex():
                    continue
                value, sample = value.double(), samples[argument]
                if edit.is_registered and sample.breaks_as(value):
                    self._confirm(edit, argument, by)
                    continue
                if not bool(sample.differs(value).any()):
                    continue
                if sample.agrees(value):
                    self._confirm(edit, argument, by)
                elif value.shape == sample.got.shape == sample.expected.shape and argument not in self.exact:
                    share = float((sample.right_by(value) & sample.wrong).sum() / sample.wrong.sum().clamp(min=1))
                    if share == 1 and int(sample.wrong.sum()) >= EVIDENT:
                        self._confirm(edit, argument, by)
                    elif share > self.nearest.get(argument, (0.0, edit))[0]:
                        self.nearest[argument] = share, edit
                    for factor, off in _multiple(sample, value) if not edit.is_registered else ():
                        for more, words, quantity in names_of(factor, off, program, named):
                            multiple = times(edit, argument, words, quantity, more)
                            heappush(later, (multiple.cost, next(number), multiple, argument, by))
        for _, _, multiple, argument, own in sorted(later):
            if argument not in self.exact:
                self._confirm(multiple, argument, own, exactly=True)

    def _is_contradicted(self, probe: Point, values: Values) -> bool:
        """Whether an edit visibly changes what was returned otherwise."""
        pairs = [(probe.samples.get(a), x.double()) for a, x in values.items() if isinstance(x, Tensor)]
        return any(s is not None and bool(s.differs(x).any()) and not s.agrees(x) for s, x in pairs)

    def _unlikely(self, program: Traced, edit: Edit) -> float:
        """An edit of forward changes y too, which may be right."""
        if edit.position is None or any(a in self.points for a in self.rule.arguments if a.startswith("y")):
            return 0.0
        return 1.0 if program.sites[edit.position].stage in ("forward", "inputs") else 0.0

    def _confirm(self, edit: Edit, argument: str, by: str, exactly: bool = False) -> None:
        """Ask an edit in all cases, and enter what comes of it: for every argument that is open too."""
        for name in (argument, *(a for a in self.points if a != argument)):
            if name in self.exact and name != argument and len(self.exact[name]) > 3:
                continue
            verdict = self.confirmed(edit, name, by)
            if exactly and verdict is not None and len(verdict.agreeing) + len(verdict.mixed) < TOLD:
                verdict = None
            if verdict is not None and (verdict.is_exact or not exactly):
                (self.exact if verdict.is_exact else self.partial).setdefault(name, []).append(verdict)
            elif name == argument:
                return

    def confirmed(self, edit: Edit, argument: str, by: str) -> Verdict | None:
        """What the edit is in all cases; None if something is wrong that it does not give."""
        verdict = Verdict(edit, by)
        for point in self.points[argument]:
            self.deadline.check()
            sample = point.samples[argument]
            try:
                program = point.traced(by)
                values = edit.results(program, program.needed([argument]))
            except UntraceableError:
                return None
            except Exception:  # there is no such operation there, or it is not defined
                verdict.silent += sample.is_wrong and sample.is_telling
                verdict.undefined += [] if sample.is_wrong else [point]
                continue
            value = values.get(argument, program.right.get(argument))
            if value is None:
                return None
            value = value.double()
            if sample.agrees(value):
                verdict.cases += 1
                if value.shape != sample.expected.shape or bool(sample.differs(value).any()):
                    verdict.agreeing.append(point)
            elif edit.is_registered and sample.breaks_as(value):
                verdict.agreeing.append(point)
            elif (
                not sample.is_telling or not value.isfinite().all() or self._is_shaky(edit, argument, point, by, value)
            ):
                continue
            elif sample.is_wrong:
                if not bool(sample.wrong.any()) or not sample.agrees(value, sample.wrong):
                    return None
                verdict.mixed.append(point)
            else:
                verdict.contrary.append(point)
        if edit.is_registered and not verdict.cases:  # NaN alone is no formula
            return None
        explained = len(verdict.agreeing) + len(verdict.mixed)
        return verdict if explained > verdict.silent else None

    def _is_shaky(self, edit: Edit, argument: str, point: Point, by: str, value: Tensor) -> bool:
        """Whether what an edit gives in a case hangs on the roundings of its inputs, so that a program need not give
        the same."""
        sample = point.samples[argument]
        if not value.shape == sample.got.shape == sample.expected.shape:
            return False
        try:
            program = point.traced(by, moved=True)
            other = edit.results(program, program.needed([argument]))[argument]
        except Exception:
            return False
        if other is None or other.shape != value.shape:
            return False
        tolerance = sample.tolerance(value) + SHAKY * (other.double() - value).abs().max()
        return not bool((~((value - sample.got).abs() <= tolerance) & sample.judged).any())


# A number that is fitted says something from the second case on.
TOLD = 2
# A factor so near to 0 or 1 is none that anybody writes: what is that much off is rounding of float32 (6e-8) added up.
NO_FACTOR = 1e-6
# How far off a fitted factor may be for a quantity to be recognised in it: n/(n - 1) for n up to 50 is told from 1.
KNOWN_TO = 0.02


def _multiple(sample: Sample, value: Tensor) -> list[tuple[float, float]]:
    """By which number a value is multiplied, if what was returned is a multiple of it, and how far off that may be."""
    judged = sample.judged & value.isfinite()
    v, g = value[judged], sample.got[judged]
    square = float(v @ v) if v.numel() >= MULTIPLE else 0.0
    if not square or not torch.isfinite(g).all():
        return []
    factor = float(v @ g) / square
    tolerance = sample.tolerance(value)[judged] * max(abs(factor), 1)
    if min(abs(factor), abs(factor - 1)) < NO_FACTOR or bool(((g - factor * v).abs() > tolerance).any()):
        return []
    off = float(tolerance @ v.abs()) / square
    return [(factor, off)] if off < KNOWN_TO * abs(factor) else []


def _spread(points: list[Point], argument: str) -> list[Point]:
    """So many of the cases at most, evenly spread; what is wrong and small comes first."""
    several: tuple[list[Point], list[Point]] = [], []
    for point in points:
        several[not point.samples[argument].is_wrong].append(point)
    kept = [p for part, most in zip(several, (WRONG, RIGHT), strict=True) for p in _some(part, most)]
    return sorted(kept, key=lambda p: (not p.samples[argument].is_wrong, p.size > LARGE, -p.samples[argument].error))


def _some(points: list[Point], most: int) -> list[Point]:
    small = [p for p in points if p.size <= LARGE] or points[:2]
    return small if len(small) <= most else [small[i * len(small) // most] for i in range(most)]


def _worth(point: Point, argument: str) -> tuple[Any, ...]:
    sample = point.samples[argument]
    inputs = [x for x in point.record.evidence.case.inputs if x is not None]
    spread = len({n for x in inputs for n in x.shape if n > 1})
    given = point.record.evidence.case.hyper
    options = len([n for n, h in given.items() if h not in PLAIN]) if given else 0
    wrong = min(int(sample.wrong.sum()), 12)
    return point.size <= LARGE, wrong, sample.error > VISIBLE, spread, options, -point.size
