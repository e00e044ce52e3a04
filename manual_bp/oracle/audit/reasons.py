"""Why wrong programs pass: what the checker was shown, and what that says of it.

A wrong program that passes was either never shown to be wrong, as all its results were right at the checker's own
numbers, or its wrong results were seen and let pass.  Which it was is known, as every call is watched.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import torch

from manual_bp.oracle.audit.conditions import NOT_CONSTANT, constant_dy
from manual_bp.oracle.audit.degenerate import (
    CONSTANT,
    DTYPE,
    INFINITE,
    NOT_A_NUMBER,
    NOTHING,
    RAISES,
    SHAPE,
    SIGN,
    VALUE,
)
from manual_bp.oracle.audit.formulas import LENGTH, MISTAKE
from manual_bp.oracle.audit.handed import is_wrong_at
from manual_bp.oracle.audit.places import PLACE
from manual_bp.oracle.audit.programs import Program, judged, results_at
from manual_bp.oracle.audit.remembered import OVERWRITES, SECOND, STATE
from manual_bp.oracle.audit.report import AuditReport, Outcome
from manual_bp.oracle.audit.seen import Seen
from manual_bp.oracle.audit.sizes import ELEMENT, FACTORS, KINDS, ROW, SIDES, SIZES, written
from manual_bp.oracle.words import counted, of_cases
from manual_bp.outputs import parts, whole
from manual_bp.rule import Rule

# So many cases are named.
NAMED = 3
# An error of one sign that must be so many times one of the other to be seen is not looked for.
MUCH = 30.0
# A checker that accepts programs whose every number is off by this much does not look at numbers.
WHOLE = 1.0
# Kinds whose own reason says more than that no number is looked at.
PLAIN_TO_SEE = (NOT_A_NUMBER, NOTHING, RAISES, SHAPE, DTYPE, OVERWRITES)
NO_NUMBERS = (NOTHING, RAISES, SHAPE, DTYPE)
PLACES = (ELEMENT, ROW)
# An error in one place, or of both signs, that must be so many times one everywhere to be seen is averaged away.
AVERAGED = 5.0


def explain(report: AuditReport, rule: Rule, seen: Seen, programs: dict[str, Program]) -> None:
    """Say of each wrong program that passes why, and gather the reasons in the report.

    programs: by name.
    """
    reasons = Reasons(report, rule, seen, programs)
    for outcome in report.lets_pass:
        outcome.why = reasons.why(outcome)
    counts = Counter(o.why for o in report.lets_pass if not o.why.startswith((UNSEEN, SHOWN)))
    ranked = [(why, number) for why, number in counts.most_common() if why]
    ranked += _together(report.lets_pass)
    report.reasons = [f"{why} ({number} of {len(report.lets_pass)})" for why, number in ranked]


UNSEEN, SHOWN = "at the numbers that it tries", "shown an error"
"""How reasons begin that say less than others: they are told once, after all others."""


def _together(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, int]]:
    unseen = [o for o in outcomes if o.why.startswith(UNSEEN)]
    if unseen:
        cases = of_cases([o.shows for o in unseen], NAMED)
        yield f"{UNSEEN} programs are right that are wrong elsewhere, as in {cases}", len(unseen)
    shown = [o for o in outcomes if o.why.startswith(SHOWN)]
    if shown:
        largest = _rough(max(o.shown for o in shown))
        yield f"{SHOWN} of up to {largest} times the largest number due, it lets the program pass", len(shown)


class Reasons:
    """The reasons of one audit."""

    def __init__(self, report: AuditReport, rule: Rule, seen: Seen, programs: dict[str, Program]) -> None:
        self.report, self.rule, self.seen, self.programs = report, rule, seen, programs

    def why(self, outcome: Outcome) -> str:
        """Why a wrong program passes."""
        return next(filter(None, self._each(outcome)), "")

    def _each(self, o: Outcome) -> Iterator[str]:
        """What may be the reason, the most telling first."""
        if not o.calls:
            yield (
                "it never asks for a gradient: y alone is looked at"
                if self.seen.values
                else "it never calls the program"
            )
        if looks_at_nothing(self.report) and o.kind not in PLAIN_TO_SEE and o.shown > 0:
            yield "its verdict does not depend on the numbers that come for gradients"
        if compares_with_itself(self.report):
            yield "it compares the program with itself: nothing is rejected but what differs between two equal calls"
        program = self.programs[o.name]
        if o.shown == 0 and o.kind in (*KINDS, SIGN, LENGTH) and self.seen.is_zero(o.argument):
            yield self._zero(o.argument)
        if o.shown == 0:
            yield from self._unseen(o, program)
        else:
            yield from self._overlooked(o)

    # ------------------------------------------------------------------------------------------------ never shown

    def _zero(self, argument: str) -> str:
        every = not any(o.rejected for o in self.report.wrong if o.argument == argument and o.kind in FACTORS)
        factors = f"{'every factor' if every else 'factors'} of {argument} {'passes' if every else 'pass'}"
        if self.seen.constants == {1.0} and not self._dy_varies:
            return (
                f"{factors}: with dy = 1 the gradient of {self.rule.name} is 0, up to rounding, and so is any multiple"
            )
        return f"{factors}: in all calls {argument} is 0, up to rounding, and so is any multiple of it"

    @property
    def _dy_varies(self) -> bool:
        return NOT_CONSTANT in self.seen.held

    def _unseen(self, o: Outcome, program: Program) -> Iterator[str]:
        if program.unmet is not None:
            yield program.unmet(self.seen)
        if self.rule.has_backward and not self._dy_varies and self.seen.calls and self._shows_where_dy_varies(program):
            yield constant_dy(self.seen)
        yield f"{UNSEEN} the program is right; it shows in case {o.shows!r}"

    def _shows_where_dy_varies(self, program: Program) -> bool:
        """Whether the program is wrong at the checker's own inputs, with cotangents that are not constant."""
        generator = torch.Generator().manual_seed(0)
        for case in self.seen.kept:
            dys = [torch.randn(d.shape, generator=generator, dtype=torch.float64).to(d) for d in parts(case.dy)]
            inputs = case.inputs
            other = type(case)(inputs, whole(dys, like=case.dy), case.hyper)
            if is_wrong_at(self.rule, program.begin(), other, results_at(self.rule, other)):
                return True
        return False

    # ------------------------------------------------------------------------------------------- seen and let pass

    def _overlooked(self, o: Outcome) -> Iterator[str]:
        if o.calls > self.seen.calls_each and len({right.calls for right in self.report.right}) == 1:
            most, once = max(p.calls for p in self.report.lets_pass), counted(self.seen.calls_each, "time")
            yield f"it tries again until a program passes: up to {most} times, where it calls a right one {once}"
        if o.argument and self._is_never_looked_at(o.argument):
            yield f"{o.argument} is not looked at: whatever comes for it passes"
        if looks_at_nothing(self.report) and o.kind == NOT_A_NUMBER:
            yield "its verdict does not depend on the numbers that come for gradients"
        if o.kind == NOT_A_NUMBER:
            yield "NaN passes: no comparison with NaN is true, so an error of NaN is above no limit"
        if o.kind == NOTHING:
            yield "None passes: what is not there is not compared"
        if o.kind == RAISES:
            yield "a program that raises passes: its exception is caught, and nothing is rejected for it"
        if o.kind == SHAPE:
            if not self.seen.directly:
                yield f"{ENGINE}: a gradient is summed or repeated there until it has the shape of its input"
            yield "another shape passes: shapes are not compared, and what is of another is broadcast"
        if o.kind == DTYPE:
            if not self.seen.directly:
                yield f"{ENGINE}: a gradient is converted there to the dtype of its input"
            yield "another dtype passes: dtypes are not compared"
        if o.kind == OVERWRITES:
            yield "that the program overwrites what it is given is not looked for"
        if o.kind == SIGN and self._from(o.argument, FACTORS) is not None:
            yield f"a wrong sign passes: {o.argument} × -1 is not told from {o.argument}, whose size alone is compared"
        if o.kind == PLACE and self._from(o.argument, FACTORS) is not None and self._places_pass(o.argument):
            yield f"right numbers of {o.argument} in the wrong place pass: its size is compared, and not each element"
        if o.kind == MISTAKE and not self.seen.directly and self._is_of_another_shape(self.programs[o.name]):
            yield f"{ENGINE}: a gradient is summed or repeated there until it has the shape of its input"
        yield from self._of_right_total(o)
        yield from self._cancelling(o)
        if o.size is not None:
            yield from self._sized(o)
        threshold = self._from(o.argument, FACTORS) if o.argument else None
        if threshold is not None and o.shown < threshold * MUCH:
            yield self._tolerance(o.argument, FACTORS[0])
        yield f"{SHOWN} of {_rough(o.shown)} times the largest number due, it lets the program pass"

    def _is_never_looked_at(self, argument: str) -> bool:
        # What is of another shape torch.autograd may reject, and what is None a checker that does not ask further.
        of = [o for o in self.report.wrong if o.argument == argument and o.shown > 0 and o.kind not in NO_NUMBERS]
        return bool(of) and all(o.accepted for o in of) and any(o.rejected for o in self.report.wrong)

    def _places_pass(self, argument: str) -> bool:
        """Whether several programs pass that only put the right numbers of an argument elsewhere."""
        return sum(o.accepted and o.shown > 0 for o in self.report.of_kind(PLACE) if o.argument == argument) > 1

    def _is_of_another_shape(self, program: Program) -> bool:
        """Whether a result has not the shape that is due, at some call."""
        for case in self.seen.kept:
            right = results_at(self.rule, case)
            got = program.begin()(case, right)
            if any(isinstance(got[a], torch.Tensor) and got[a].shape != right[a].shape for a in right):
                return True
        return False

    def _sized(self, o: Outcome) -> Iterator[str]:
        assert o.size is not None
        argument = o.argument
        up, down = (self.report.smallest_seen(argument, side) for side in SIDES)
        if o.kind in (*SIDES, *PLACES) and self._one_passes(up, down):
            above, below = SIDES
            passing, seen = (below, above) if down is None or (up is not None and down > up) else (above, below)
            # Which way a factor moves one place depends on the sign of what is there.
            from_where = min(s for s in (up, down) if s is not None)
            if o.kind == passing or (o.kind in PLACES and o.shown >= from_where):
                yield f"errors of one sign pass: {argument} {passing} passes, and {argument} {seen} is seen"
        large, small = (self.report.smallest_seen(argument, kind) for kind in FACTORS)
        if o.kind in FACTORS and large is None and small is not None and small >= WHOLE:
            yield f"every positive factor of {argument} passes: its direction alone is compared"
        if o.kind in FACTORS and self._one_passes(large, small):
            yield f"errors of one sign pass: a {argument} {o.kind} passes, and what is off to the other side is seen"
        if o.kind in PLACES:
            own, factor = self.report.smallest_seen(argument, o.kind), self._surely_from(argument)
            off = o.size if o.kind == ELEMENT else o.shown  # a row of small numbers is little off
            if factor is not None and (own is None or own > AVERAGED * factor) and off >= factor:
                where = "one element" if o.kind == ELEMENT else "the last row"
                if own is None:
                    yield f"{where} of {argument} may be off by {SIZES[-1]:g} times the largest: not all is compared"
                elif self._places_pass(argument):
                    yield (
                        f"an error in {where} of {argument} passes that does not change one number made of all of it, "
                        f"such as its largest: it is seen only from {own:.0e} on"
                    )
                else:
                    yield f"an error in {where} of {argument} is averaged away: it is seen only from {own:.0e} on"
        threshold, factor = self.report.smallest_seen(argument, o.kind), self._from(argument, FACTORS)
        smaller = [p.size for p in self._same(o) if p.rejected and p.size is not None and p.size < o.size]
        if smaller:
            yield f"large errors of {argument} pass where smaller ones are seen ({o.kind}: {min(smaller):.0e} is)"
        if threshold is not None and factor is not None and threshold <= MUCH * factor:
            yield self._tolerance(argument, FACTORS[0])
        if threshold is not None:
            yield self._tolerance(argument, o.kind)

    def _of_right_total(self, o: Outcome) -> Iterator[str]:
        """Results that are off by more than what is seen of one sign, and whose sum is right in every call."""
        found: dict[str, tuple[bool, bool]] = {}
        for case in self.seen.kept:
            right = results_at(self.rule, case)
            got = self.programs[o.name].begin()(case, right)
            for argument in judged(self.rule):
                due, came, seen = right[argument], got[argument], self.report.smallest_seen(argument, SIDES[0])
                if not isinstance(due, torch.Tensor) or not isinstance(came, torch.Tensor) or came.shape != due.shape:
                    return
                off, most = (came.double() - due.double()).cpu(), float(due.double().abs().sum())
                limit = (seen or 0.0) * most
                is_off = seen is not None and float(off.abs().sum()) >= AVERAGED * limit
                if is_off and not abs(float(off.sum())) < limit:
                    return
                was_off, was_0 = found.get(argument, (False, True))
                found[argument] = was_off or is_off, was_0 and abs(float(due.double().sum())) < limit
        off_in = [(argument, is_0) for argument, (is_off, is_0) in found.items() if is_off]
        if len(off_in) == 1 and self._alike_in_total_pass(*off_in[0]):
            ((argument, is_0),) = off_in
            why = "which is 0, and so is any multiple of it" if is_0 else "which is right where its elements are not"
            yield f"errors of both signs cancel: {argument} is compared by its sum or mean, {why}"

    def _alike_in_total_pass(self, argument: str, is_0: bool) -> bool:
        """Whether what has the same elements elsewhere passes, and the other sign, if the sum is 0: who compares a
        direction sees both."""
        own = [o for o in self.report.wrong if o.argument == argument and o.shown > 0]
        alike = [o for o in own if o.kind == PLACE or (is_0 and o.kind == SIGN)]
        return bool(alike) and all(o.accepted for o in alike)

    def _cancelling(self, o: Outcome) -> Iterator[str]:
        """Errors of both signs, of which the sum or mean is small."""
        if o.kind == "off at random":
            own, factor = self.report.smallest_seen(o.argument, o.kind), self._surely_from(o.argument)
            if factor is not None and (own is None or own > AVERAGED * factor) and (o.size or 0) >= factor:
                yield (
                    f"errors of both signs cancel: {o.argument} is compared by one number made of all of it, "
                    "such as a sum, a mean or a norm"
                )

    def _one_passes(self, up: float | None, down: float | None) -> bool:
        if up is None or down is None:
            return up is not down
        return max(up, down) > MUCH * min(up, down)

    def _same(self, o: Outcome) -> list[Outcome]:
        return [p for p in self.report.of_kind(o.kind) if p.argument == o.argument]

    def _from(self, argument: str, kinds: Sequence[str]) -> float | None:
        found = [s for s in (self.report.smallest_seen(argument, kind) for kind in kinds) if s is not None]
        return min(found) if found else None

    def _surely_from(self, argument: str) -> float | None:
        """From where a factor is seen above 1 and below: of fresh numbers one of them may be seen early by chance."""
        each = [self.report.smallest_seen(argument, kind) for kind in FACTORS]
        return None if None in each else max(s for s in each if s is not None)

    def _tolerance(self, argument: str, kind: str) -> str:
        """Where an error of a kind begins to be seen."""
        seen = self.report.smallest_seen(argument, kind)
        of = [o for o in self.report.of_kind(kind) if o.argument == argument and o.size is not None]
        below = [o.size for o in of if o.accepted and o.size is not None and seen is not None and o.size < seen]
        if seen is None or not below:
            return ""
        if kind in FACTORS:
            return (
                f"a tolerance: the smallest factor of {argument} that it sees is {written(1 + seen)}; "
                f"{written(1 + max(below))} passes"
            )
        return f"a tolerance: of {argument} '{kind}' is seen from {seen:.0e} of it; {max(below):.0e} passes"


def _rough(size: float) -> str:
    return f"{size:.1g}" if math.isfinite(size) else "infinitely many"


def _of_numbers(report: AuditReport) -> list[Outcome]:
    """Programs whose numbers are wrong beyond any limit, in the right shape and dtype, at every call."""
    return [o for o in report.wrong if o.kind in (CONSTANT, MISTAKE) or (o.size is not None and o.size >= WHOLE)]


NEVER = "it cannot fail: it never calls the program"
ENGINE = "torch.autograd, through which it asks, does not show it"


def compares_with_itself(report: AuditReport) -> bool:
    """Whether no wrong number is rejected, but numbers that differ between two equal calls are."""
    every = _of_numbers(report)
    again = [o for o in report.wrong if o.name == SECOND]
    return bool(every) and all(o.accepted and o.calls > 1 for o in every) and any(o.rejected for o in again)


def looks_at_nothing(report: AuditReport) -> bool:
    """Whether no gradient of wrong finite numbers is ever rejected, whatever else is."""
    every = [*_of_numbers(report), *report.of_kind(STATE)]
    return bool(every) and all(o.accepted for o in every)


def cannot_fail(report: AuditReport) -> str:
    """What is to be said of a checker that rejects no wrong numbers; empty if it rejects some."""
    if not looks_at_nothing(report):
        return ""
    rejected = {o.kind for o in report.wrong if o.rejected}
    if not rejected and not any(o.calls for o in report.outcomes):
        return "it cannot fail: it never asks the program for a gradient" if report.values else NEVER
    if not rejected:
        return "it cannot fail: whatever the program returns or raises, it passes; its verdict does not depend on it"
    if VALUE in rejected:
        return "it cannot fail whatever gradients come: only y is compared"
    if rejected & {NOT_A_NUMBER, INFINITE}:
        return "it cannot fail whatever finite numbers come: only NaN, infinity or an exception is rejected"
    return "it cannot fail whatever numbers come: only what makes it raise an exception is rejected"
