"""A verdict: what an edit is to one argument in all cases, asked in one after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from torch import Tensor

from manual_bp.oracle.diagnosis.deadline import Deadline, TimeIsUp
from manual_bp.oracle.diagnosis.edit import Edit, RefusedError
from manual_bp.oracle.diagnosis.points import Point
from manual_bp.oracle.diagnosis.program import TORCH
from manual_bp.oracle.diagnosis.quantities import CONSTANTS, UNDEFINED, Always, OfHyperparameter
from manual_bp.oracle.diagnosis.samples import CERTAIN, Sample
from manual_bp.oracle.diagnosis.tracing import UntraceableError

# An edit is told where it fits by chance less often than once among as many as were tried, by so many bits; of what a
# page lists, which people ship, less is enough.
MORE = 14
# Of a page of several branches an edit is one of a branch: of so many wrong cases it is defined in one at least.
OTHERS = 3
# What is seen in so few cases is asked in more, drawn for that.
SELDOM = 6
# An edit of torch's derivative is told where none of the page is as simple: by so much.
ANOTHER = 0.3


@dataclass
class Verdict:
    """left: cases not yet asked; last: the one that was asked last. agreeing: cases in which the argument is what the
    edit gives, and visibly not right. mixed: cases in which only what is wrong is what the edit gives. contrary: cases
    in which the argument is right, and the edit gives something else. undefined: cases in which the edit is not
    defined, as in another branch of the page. agreed: cases in which it is what came; alike: in which it is that where
    no derivative exists, or nothing is finite, too. evidence: how improbable it is, in bits, that an edit fits what is
    wrong by chance, and better than its program fits without any edit, which may lose digits. is_broken: whether what
    is not finite was evidence; is_finite: whether elsewhere what came is finite where it gives what is not. fresh: what
    it is in cases drawn to tell. is_drawn: whether what is off is off visibly in all these cases, so that large numbers
    tell as well.
    """

    edit: Edit
    by: str
    argument: str
    left: list[Point]
    agreeing: list[Point] = field(default_factory=list)
    mixed: list[Point] = field(default_factory=list)
    contrary: list[Point] = field(default_factory=list)
    undefined: list[Point] = field(default_factory=list)
    agreed: list[Point] = field(default_factory=list)
    alike: list[Point] = field(default_factory=list)
    evidence: float = 0.0
    is_broken: bool = False
    is_finite: bool = False
    last: Point | None = None
    fresh: Verdict | None = None
    is_drawn: bool = False

    @property
    def cost(self) -> float:
        return self.edit.cost + (ANOTHER if self.by == TORCH else 0.0)

    @property
    def explained(self) -> int:
        """In how many cases it gives what is wrong."""
        return len(self.agreeing) + len(self.mixed)

    @property
    def silent(self) -> int:
        """In how many wrong cases the edit is not defined."""
        samples = (point.samples[self.argument] for point in self.undefined)
        return sum(sample.is_wrong and sample.is_telling for sample in samples)

    @property
    def is_exact(self) -> bool:
        """Whether it gives what came in every case in which it is defined, and that is most of them."""
        others = [v for v in (self, self.fresh) if v is not None and (v.mixed or v.contrary)]
        return bool(self.agreeing) and self.explained > self.silent and not others

    def holds(self, deadline: Deadline, tried: int, exactly: bool = False) -> bool:
        """Ask it in all cases up to the first right one that it contradicts; False if something is wrong that it does
        not give, or that chance may give as well, among so many as were tried.  exactly: also if it is not exact."""
        points = list(self.left)
        while self.left and not self.contrary:
            if not self._ask_next(deadline) or (exactly and (self.mixed or self.contrary)):
                return False
        if self.edit.is_registered and not self.agreed:  # NaN alone is no formula
            return False
        needed = CERTAIN if self.edit.is_registered else math.log2(max(tried, 1)) + MORE
        # Whatever overflows gives NaN: it tells only where it came wherever the edit gives it.
        evidence = math.inf if self.is_broken and not self.is_finite else self.evidence
        return evidence >= needed and self._is_of_argument(points) and self.explained > self.silent // OTHERS

    @property
    def is_doubtful(self) -> bool:
        """Whether cases are to be drawn for it: few show it, or it is a number that may be another one elsewhere, or
        all of a function's are called with the same hyperparameters."""
        settings = {repr(p.case.hyper) for p in self.agreeing if hasattr(p.rule.page, "FUNCTION") and p.rule.hyper}
        is_number = isinstance(self.edit.fitted, Always) or not self.is_known
        return self.explained <= SELDOM or is_number or len(settings) == 1

    @property
    def is_known(self) -> bool:
        """Whether a name for what was fitted holds for several numbers: for one many names do, and that of a
        hyperparameter is told where it is the same in all cases."""
        quantity = self.edit.fitted
        if quantity is None or (isinstance(quantity, Always) and quantity.number in CONSTANTS.values()):
            return True
        if isinstance(quantity, Always):  # any number may be read off one case
            return self.explained > 1

        def numbers(points: Sequence[Point]) -> set[float]:
            found = set()
            for point in points:
                with suppress(*UNDEFINED):
                    found.add(float(f"{quantity(point.traced(self.by)):.6g}"))
            return found

        drawn = self.fresh.agreeing if self.fresh is not None else []
        if len(numbers([*self.agreeing, *self.mixed, *drawn])) > 1:
            return True
        every = [*self.agreeing, *self.mixed, *self.agreed, *self.contrary]
        return isinstance(quantity, OfHyperparameter) and self.explained > 1 and len(numbers(every)) == 1

    def in_others(self, points: list[Point], deadline: Deadline) -> bool:
        """Ask it in more cases, drawn for that; False if in one of them it is not what came.  The counts are those of
        the cases that came before."""
        self.fresh = Verdict(self.edit, self.by, self.argument, list(points), is_drawn=True)
        with suppress(TimeIsUp):
            while self.fresh.left:
                if not self.fresh._ask_next(deadline):
                    return False
        return True

    def complete(self, deadline: Deadline) -> None:
        """Of an edit that is contradicted in a right case, ask it in the others too, as far as there is time."""
        with suppress(TimeIsUp):
            while self.left:
                self._ask_next(deadline)

    def _is_of_argument(self, points: list[Point]) -> bool:
        """Whether a registered mistake is one of this argument, and not of another alone while digits that a right
        formula loses too are all that is off here: in some case it gives in float64 too what came, and that is visibly
        not right."""
        exact = self.edit.exact
        if exact is None or self.is_broken or self.evidence == math.inf:
            return True
        for point in points:
            with suppress(Exception):  # it is not defined there
                value, sample = point.given(exact, self.by, self.argument), point.samples[self.argument]
                if value is not None and sample.agrees(value) and sample.shows(value):
                    return True
        return False

    def _ask_next(self, deadline: Deadline) -> bool:
        """Ask it in one more case; False if it is not what is wrong there."""
        deadline.check()
        edit, argument, point = self.edit, self.argument, self.left.pop(0)
        self.last, sample = point, point.samples[argument]
        try:
            value = point.given(edit, self.by, argument)
        except UntraceableError:
            return False
        except RefusedError:
            self.contrary += [] if sample.is_wrong else [point]
            return not sample.is_wrong
        except Exception:  # there is no such operation there, or it is not defined
            self.undefined.append(point)
            return True
        if value is None:
            return False
        unedited = point.program(edit, self.by).right.get(argument)
        is_shaped = unedited is not None and unedited.shape == sample.got.shape
        own = sample.evidence(unedited.double()) if unedited is not None and is_shaped else 0.0
        if sample.agrees(value):
            self.agreed.append(point)
            self.alike += [point] if point.at_kinks.get(argument, sample).agrees(value) else []
            if sample.shows(value) and own < CERTAIN:
                self.agreeing.append(point)
        elif edit.is_registered and sample.breaks_as(value):
            self.agreeing.append(point)
            self.alike.append(point)
            self.is_broken = True
            return True
        elif edit.is_registered and sample.is_finite_where(value):
            self.is_finite = True
            return True
        elif not (sample.is_telling or (self.is_drawn and sample.got.isfinite().all())) or not value.isfinite().all():
            return True  # that an edit gives something else here tells nothing
        elif self._is_near(sample, value):
            return True
        elif not sample.is_wrong:
            self.contrary.append(point)
            return True
        elif bool(sample.wrong.any()) and sample.agrees(value, sample.wrong):
            self.mixed.append(point)
        else:
            return False
        self.evidence += max(sample.evidence(value) - own, 0.0)
        return True

    @staticmethod
    def _is_near(sample: Sample, value: Tensor) -> bool:
        """Whether what came is off by no more than roundings may make of other numbers of the case: sums may cancel
        where those of the page do not."""
        if not value.shape == sample.got.shape == sample.expected.shape or not bool(sample.judged.any()):
            return False
        error, tolerance = (x[sample.judged].max() for x in ((value - sample.got).abs(), sample.tolerance(value)))
        return bool(error <= tolerance)
