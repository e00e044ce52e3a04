"""The search: which edit of the page gives what a candidate returned."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from manual_bp.oracle.diagnosis.deadline import Deadline, TimeIsUp
from manual_bp.oracle.diagnosis.edit import Edit
from manual_bp.oracle.diagnosis.edits import often_met, seldom_met
from manual_bp.oracle.diagnosis.looked_at import LookedAt
from manual_bp.oracle.diagnosis.multiples import multiples
from manual_bp.oracle.diagnosis.orders import kept_values
from manual_bp.oracle.diagnosis.pairs import multiplied, paired
from manual_bp.oracle.diagnosis.points import Point
from manual_bp.oracle.diagnosis.program import PAGE, TORCH, Called, Traced, Values
from manual_bp.oracle.diagnosis.records import Record
from manual_bp.oracle.diagnosis.samples import Sample
from manual_bp.oracle.diagnosis.sketch import LONG, Sketch
from manual_bp.oracle.diagnosis.tracing import UNTRACEABLE
from manual_bp.oracle.diagnosis.values import misshapen
from manual_bp.oracle.diagnosis.verdict import ANOTHER, Verdict
from manual_bp.oracle.diagnosis.whole import mistakes, whole_edits
from manual_bp.oracle.truth.conventions import Conventions
from manual_bp.oracle.truth.evidence import OUR_CONVENTIONS
from manual_bp.rule import Rule

# Of one argument so many edits are looked at that hold in every case: what comes later is met more seldom.
ENOUGH = 4
# A claim about a part of the numbers rests on so many that are wrong.
EVIDENT = 3
# These are asked before all others are so much as made, which takes long in a loop of many rounds.
FIRST = 1.6
# How much sooner something is rounded where all is off by little.
LITTLE = -1.5
# Edits that are met so often are asked of the page and of torch's derivative before any others.
SOON = 3.3
# How seldom a part of a registered mistake is met.
PART = 2.6
# Seconds that are taken for what the page lists: a tenth of one mostly, and what a process of some GB takes to collect
# its garbage meanwhile.  They are part of the search's own.
LISTED = 2.5
# How much more seldom an edit of forward is met where y is right, and one of what is made in backward too.
FORWARD, BOTH = 1.0, 0.4
# Of so many edits it is asked which is the nearest.
NEAREST = 300
# Of one argument so many edits are kept that hold in some cases alone: beside them an exact one is sought.
PARTIAL = 16
# Of what may be one of many a number that is fitted says something from the second case on.
TOLD = 2


class Asked(NamedTuple):
    """An edit that is to be asked at a case, and how seldom it is met.  is_part: of a registered mistake, of which
    only one argument is as it makes it."""

    cost: float
    edit: Edit
    sketch: Sketch
    is_part: bool = False


class Nearest(NamedTuple):
    """An edit that gives a share of the numbers that are wrong in a case."""

    share: float
    edit: Edit
    case: str


class Search(LookedAt):
    """Of the cases that are looked at, what was found.

    exact, partial: by argument: edits that hold in every case, and those that give all that is wrong.
    fresh: cases that are drawn to tell what is said of an argument from what is so by chance.
    nearest: by argument the edit that gives most of what is wrong at the case that was asked first.
    """

    def __init__(
        self,
        rule: Rule,
        records: Sequence[Record],
        wrong: Collection[str],
        dtype: torch.dtype,
        deadline: Deadline,
        conventions: Conventions = OUR_CONVENTIONS,
        excused: Collection[tuple[str, str]] = (),
    ) -> None:
        super().__init__(rule, records, wrong, dtype, conventions, excused)
        self.deadline = deadline
        self.tried = 0
        self._parts: dict[Point, list[Edit]] = {}  # by the case asked first
        self._telling: dict[str, list[Point]] = {}  # by argument the cases that refuted an edit, the last one first
        self.exact: dict[str, list[Verdict]] = {}
        self.partial: dict[str, list[Verdict]] = {}
        self.fresh: Callable[[str, Sequence[Point], Sequence[Point]], list[Point]] = lambda *_: []
        self.nearest: dict[str, Nearest] = {}

    @property
    def open(self) -> list[str]:
        """The arguments that nothing explains so far."""
        return self._left_of(self.points)

    def _left_of(self, arguments: Iterable[str]) -> list[str]:
        return [argument for argument in arguments if argument not in self.exact]

    def run_listed(self) -> None:
        """Ask the mistakes that the page lists, each at one case, and in all others where it fits: they are few, and
        are asked at any rate, unless they take long to be computed, however busy the machine is."""
        deadline, self.deadline = self.deadline, Deadline(LISTED, patience=math.inf)
        try:
            for probe, arguments in self.by_probe(self.open):
                with suppress(TimeIsUp, *UNTRACEABLE):
                    self._ask_listed(probe, {a: probe.samples[a] for a in arguments})
        finally:
            self.deadline = deadline

    def _ask_listed(self, probe: Point, samples: Mapping[str, Sample]) -> None:
        """All of them, even if one was found: of several that hold that is told which holds in most cases.  Of those
        that give one argument alone of what came parts are asked later, as these are seldom made."""
        refuted = set[Edit | None]()
        parts = self._parts.setdefault(probe, [])
        for edit in mistakes(probe.called):
            self.deadline.check()
            if edit.exact in refuted:  # its roundings are not what is off
                continue
            self.tried += 1
            try:
                values = edit.results(probe.called)
            except Exception:  # not defined for these shapes or kinds
                continue
            if all(s.is_far_from(values.get(a)) for a, s in samples.items()):
                refuted.add(edit)
            if not self._is_contradicted(probe, values):
                self._enter(edit, samples, values, probe.called)
            elif self._given(edit, samples, values):
                parts.append(replace(edit, cost=PART))

    def run(self) -> None:
        """Fill `exact` and `partial`; TimeIsUp leaves what was found so far."""
        for probe, arguments in self.by_probe(self.open):
            self._search(probe, {a: probe.samples[a] for a in arguments})

    def _search(self, probe: Point, samples: Mapping[str, Sample]) -> None:
        """Beside its mistakes ask the page as a whole, edits of the families that are met often, of the page and of
        torch's derivative, then all others, then two at once: what comes later is not so much as made before."""
        often: dict[Sketch, list[Asked]] = {}
        left: list[Asked] = []
        for by in (PAGE, TORCH):
            if not self._left_of(samples) or (sketch := self._sketch(probe, by, samples)) is None:
                continue
            program, often[sketch] = sketch.program, []
            if by == PAGE:
                left = self._asked(sketch, samples, whole_edits(program), kept_values(program, self.of_first))
                left = self._ask_all(left, samples, FIRST)
                left += [Asked(PART, edit, sketch, True) for edit in self._parts.get(probe, [])]
                if not self._left_of(samples):
                    return
            families = [multiples(sketch, len(program.nodes) > LONG), often_met(program, sketch.needed)]
            for argument, sample in samples.items():
                if sample.got.shape != sample.expected.shape and argument in program.results:
                    families.append(misshapen(program, argument, tuple(sample.got.shape)))
            often[sketch] = self._asked(sketch, samples, *families)
            left = self._ask_all([*often[sketch], *left], samples, SOON)
        for sketch, met in often.items():
            if self._left_of(samples):
                late = multiples(sketch) if len(sketch.program.nodes) > LONG else iter(())
                seldom = seldom_met(sketch.program, sketch.needed, [each.edit for each in met])
                left += self._asked(sketch, samples, seldom, late)
        self._ask_all(left, samples)
        for sketch in often:
            self._ask_two(sketch)
            self._note_nearest(sketch)

    def _sketch(self, probe: Point, by: str, samples: Mapping[str, Sample]) -> Sketch | None:
        """Of a program at a case; None where there is none."""
        with suppress(*UNTRACEABLE):
            return Sketch(probe.traced(by), samples, lambda: self.deadline.check())
        return None

    def _asked(self, sketch: Sketch, samples: Mapping[str, Sample], *families: Iterator[Edit]) -> list[Asked]:
        """The edits of some families that say something in this precision."""
        found, program = [], sketch.program
        more = ANOTHER if program.by == TORCH else 0.0
        is_little = all(sample.is_off_by_little for sample in samples.values())
        with suppress(*UNTRACEABLE):  # it has no more
            for edit in itertools.chain(*families):
                self.deadline.check()
                if self.dtype == torch.float64 or "rounded to float32" not in edit.words:
                    found.append(Asked(edit.cost + self._unlikely(program, edit, is_little) + more, edit, sketch))
        return found

    def _ask_all(self, edits: Sequence[Asked], samples: Mapping[str, Sample], most: float = math.inf) -> list[Asked]:
        """Ask one edit after another, those that are met most often first.  most: those that are met more seldom are
        left, and returned."""
        ordered = sorted(edits, key=lambda each: each.cost)
        for cost, edit, sketch, is_part in (each for each in ordered if each.cost <= most):
            self.deadline.check()
            if not self._left_of(samples):
                break
            if is_part:
                for argument in self.open:
                    self._confirm(edit, argument, PAGE, exactly=True)
                continue
            self.tried += 1
            try:
                change, values = sketch.change(edit)
            except Exception:  # not defined for these shapes or kinds
                continue
            sketch.tried.append((cost, edit, change))
            if len(sketch.samples) < len(samples) or sketch.fitting(change):
                self._enter(edit, samples, values, sketch.program)
        return [each for each in ordered if each.cost > most]

    def _enter(self, edit: Edit, samples: Mapping[str, Sample], values: Values, program: Called) -> None:
        """Confirm an edit of what it gives at a case, unless that is what the program gives without it: of a page that
        is wrong itself each such edit would be told."""
        by = program.by if isinstance(program, Traced) else PAGE
        for argument in self._given(edit, samples, values):
            value, right = values[argument], program.right.get(argument)
            if value is not None and (right is None or not torch.equal(value.double(), right.double())):
                self._confirm(edit, argument, by)

    def _given(self, edit: Edit, samples: Mapping[str, Sample], values: Values) -> list[str]:
        """The arguments of which an edit gives what was returned at a case."""
        found = []
        for argument, sample in samples.items():
            value = values.get(argument)
            if not isinstance(value, Tensor) or value.is_complex():
                continue
            value = value.double()
            is_wrong_so = int(sample.wrong.sum()) >= EVIDENT and sample.agrees(value, sample.wrong)
            gives = (sample.agrees(value) or is_wrong_so) and sample.shows(value)
            found += [argument] if gives or (edit.is_registered and sample.breaks_as(value)) else []
        return found

    def _ask_two(self, sketch: Sketch) -> None:
        """Seek two causes at once of what no single edit gives."""
        for argument in sketch.samples:
            if argument in self.exact or argument in self.partial:
                continue
            edits = [*multiplied(sketch, argument), *paired(sketch, argument)]
            for edit in sorted(edits, key=lambda e: e.cost):
                self.deadline.check()
                if argument in self.exact:
                    break
                with suppress(Exception):  # it is not defined here
                    value = edit.results(sketch.program, sketch.needed).get(argument)
                    if value is not None and sketch.samples[argument].agrees(value.double()):
                        self._confirm(edit, argument, sketch.program.by, exactly=True)

    def _note_nearest(self, sketch: Sketch) -> None:
        """Which of the edits that are met most often gives most of what is wrong."""
        left = {a: s for a, s in sketch.samples.items() if a not in self.exact and a not in self.partial}
        for _, edit, _ in sketch.tried[:NEAREST] if left else ():
            self.deadline.check()
            with suppress(Exception):  # it is not defined here
                values = edit.results(sketch.program, sketch.needed)
                for argument, sample in left.items():
                    if (value := values.get(argument)) is not None:
                        share = sample.reproduced(value) / int(sample.wrong.sum())
                        found = Nearest(share, edit, sketch.program.case.name)
                        self.nearest[argument] = max(self.nearest.get(argument, found), found, key=lambda n: n.share)

    def _is_contradicted(self, probe: Point, values: Values) -> bool:
        """Whether an edit visibly changes what was returned otherwise."""
        pairs = [(probe.samples.get(a), x.double()) for a, x in values.items() if isinstance(x, Tensor)]
        return any(s and bool(s.differs(x).any()) and not (s.agrees(x) or s.breaks_as(x)) for s, x in pairs)

    def _unlikely(self, program: Traced, edit: Edit, is_little: bool) -> float:
        """An edit of forward changes y too, which may be right; what is off by little was rounded rather."""
        more = LITTLE if is_little and "rounded to" in edit.words else 0.0
        if edit.position is None or any(a in self.points for a in self.rule.arguments if a.startswith("y")):
            return more
        stages = {program.sites[p].stage for p in edit.at(program)}
        if program.sites[edit.position].stage not in ("forward", "inputs"):
            return more
        # What is made in the same way in forward and backward may well be made wrong in a backward that computes both.
        return more + (BOTH if "backward" in stages else FORWARD)

    def _confirm(self, edit: Edit, argument: str, by: str, exactly: bool = False) -> None:
        """Ask an edit in all cases, and enter what comes of it: for every argument that is open too."""
        for name in (argument, *(a for a in self.points if a != argument)):
            found = [*self.exact.get(name, ()), *self.partial.get(name, ())]
            # It has been asked for another argument already: once more it would take the place of another edit.
            is_full = len(self.exact.get(name, ())) >= ENOUGH and not edit.is_registered
            if is_full or any(v.edit is edit for v in found):
                continue
            alone = exactly or len(self.partial.get(name, ())) >= PARTIAL
            verdict = Verdict(edit, by, name, self._in_order(edit, name, alone))
            holds = verdict.holds(self.deadline, self.tried, alone)
            if holds and verdict.is_doubtful:
                holds = verdict.in_others(self.fresh(name, verdict.agreeing, self.points[name]), self.deadline)
                holds = holds and verdict.is_known
            if holds and (not exactly or verdict.explained >= TOLD) and (not alone or verdict.is_exact):
                (self.exact if verdict.is_exact else self.partial).setdefault(name, []).append(verdict)
                continue
            # Where numbers are extreme even the right edit may fail.
            if verdict.left and verdict.last is not None and not verdict.last.is_extreme:
                others = [p for p in self._telling.get(name, ()) if p is not verdict.last]
                self._telling[name] = [verdict.last, *others]
            if name == argument:
                return

    def _in_order(self, edit: Edit, argument: str, exactly: bool) -> list[Point]:
        """The cases in which an edit is asked: what refuted others often refutes it too.  Of one that may hold in some
        alone it is first seen in how many that are wrong."""
        points = (self.every if edit.is_registered else self.points)[argument]
        first = [p for p in self._telling.get(argument, ()) if exactly or p.samples[argument].is_wrong]
        return [*first, *(p for p in points if p not in first)]
