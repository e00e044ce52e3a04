"""What each mistake makes of a cotangent, at a small case where it shows: due, got, and the difference.

Of an element-wise page with one number per element the mistake is a curve beside the right one; elsewhere, and where
only an edge shows it, tensors are shown cell by cell.  What is due is the evidence by which candidates are judged:
certified truth, where there is any.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import contract_of
from manual_bp.book.curves import (
    INK,
    OURS,
    POINTS,
    SOFT,
    SPAN,
    THEIRS,
    Picture,
    at,
    axes,
    bent,
    broken,
    is_drawn,
    of_lost_digits,
)
from manual_bp.book.planes import COLUMNS, ROWS, Plane, plane_of, window_of
from manual_bp.inputs import Mistake, Value
from manual_bp.oracle.case import Case
from manual_bp.oracle.cases.generated import generated
from manual_bp.oracle.truth.errors import errors, ulp
from manual_bp.oracle.truth.evidence import Evidence, evidence
from manual_bp.outputs import parts
from manual_bp.rule import Rule

DTYPE = torch.float32
# So many elements have a case small enough to be looked at, and so many one in which a mistake that needs room shows.
SMALL, LARGE = 64, 4096
# A difference of this share of what is largest is seen in three digits.
VISIBLE = 0.02
# From here on float32 has lost three of its digits.
LOST_ULPS = 1e3
# Of a curve that shows lost digits: to where float32's gradients have underflowed (114).
FAR = 120.0


@dataclass(frozen=True)
class Failure:
    """A mistake's picture: planes of cells or a curve, and what they show in words."""

    caption: str
    planes: tuple[Plane, ...] = ()
    curve: Picture | None = None


@dataclass(frozen=True)
class Seen:
    """A mistake at a case: whether of y, which result, what is due and what came, and how far they are apart."""

    case: Case
    of_y: bool
    position: int
    due: Tensor
    got: Tensor

    @cached_property
    def share(self) -> float:
        """The largest difference over the largest number due; infinite where one of the two is no number."""
        same = (self.due == self.got) | (self.due.isnan() & self.got.isnan())
        if bool(same.all()):
            return 0.0
        finite = self.due.isfinite() & self.got.isfinite()
        if bool((~finite & ~same).any()):
            return math.inf
        largest = float(self.due[finite].abs().max()) if bool(finite.any()) else 0.0
        return float((self.due - self.got)[finite].abs().max()) / largest if largest else math.inf

    @cached_property
    def ulps(self) -> float:
        """The largest error in ulp."""
        error = ((self.got.double() - self.due.double()).abs() / ulp(self.due.double(), DTYPE)).nan_to_num(0.0)
        return float(error.max()) if error.numel() else 0.0

    @property
    def telling(self) -> tuple[bool, bool, bool, int]:
        """The larger, the more it tells: whether it is seen, in finite numbers, of which there are several; and the
        fewer the better."""
        numbers = self.due.numel()
        return self.share >= VISIBLE, self.share < math.inf, 4 <= numbers <= ROWS * COLUMNS, -numbers


class Failures:
    """The pictures of a rule's mistakes; what several have in common is found once."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self._evidence: dict[int, Evidence | str] = {}
        self._dues: dict[tuple[bool, int], tuple[Any, ...] | None] = {}

    def of(self, mistake: Mistake | Value) -> Failure | None:
        """The picture of one mistake, or of a formula for y that loses digits; None if no small case shows it."""
        if is_drawn(self.rule) and (drawn := self._curve(mistake)) is not None:
            return drawn
        if (seen := self._seen(mistake)) is not None:
            return self._planes(seen)
        return self._of_another_kind(mistake)

    # -------------------------------------------------------------------------------------------------------- curves

    def _curve(self, mistake: Mistake | Value) -> Failure | None:
        rule = self.rule
        for hyper in self._settings:
            for dy in (1.0, 2.0):
                for place, name in enumerate(rule.inputs):
                    if not rule.inputs[name].cotangent:
                        continue
                    position = 0 if self._is_of_y(mistake) else place
                    if getattr(mistake, "loses_digits", True):
                        found = self._digits(mistake, hyper, dy, position, name)
                    else:
                        found = self._values(mistake, hyper, dy, position, name)
                    if found is not None:
                        return found
        return None

    @cached_property
    def _settings(self) -> list[dict[str, Any]]:
        """The ordinary hyperparameters, and others that edges set and that are no larger than the picture."""
        rule = self.rule
        found = [rule.ordinary]
        for edge in rule.edges:
            own = {name: value for name, value in edge.given.items() if name in rule.hyper}
            fits = all(not isinstance(v, float | int) or abs(v) <= SPAN for v in own.values())
            if edge.raises is None and fits and {**rule.ordinary, **own} not in found:
                found.append({**rule.ordinary, **own})
        return found

    def _both(
        self, mistake: Mistake | Value, x: Tensor, hyper: Mapping[str, Any], dy: float, position: int, name: str
    ) -> tuple[Tensor, Tensor] | None:
        """What is due by the page, and what the mistake gives, as functions of one input."""
        case = Case(at(self.rule, name, x), torch.full_like(x, dy), hyper)
        due, got = self._called(None, case, self._is_of_y(mistake)), self._called(mistake, case, self._is_of_y(mistake))
        return None if due is None or got is None or got[position] is None else (due[position], got[position])

    def _values(
        self, mistake: Mistake | Value, hyper: Mapping[str, Any], dy: float, position: int, name: str
    ) -> Failure | None:
        x = torch.linspace(-SPAN, SPAN, POINTS, dtype=torch.float64)
        both = self._both(mistake, x, hyper, dy, position, name)
        if both is None or not (both[1].isfinite().sum() > POINTS // 2):
            return None
        due, got = both
        apart = (due - got).abs() > VISIBLE * due.abs().max()
        if int(apart.sum()) < POINTS // 40:  # a single point, such as the kink, is no curve
            return None
        with axes(1.9) as (drawn, svg):
            drawn.axhline(0, color=SOFT, linewidth=0.6)
            drawn.fill_between(x, due, got, color=THEIRS, alpha=0.18, linewidth=0)
            drawn.plot(x, broken(due), color=OURS, linewidth=2, label="due")
            drawn.plot(x, broken(got), color=THEIRS, linewidth=1.5, linestyle=(0, (5, 2)), label="got")
            drawn.set_xlabel(name)
            drawn.set_xlim(-SPAN, SPAN)
            _bounded(drawn, due)
            drawn.legend(frameon=False, loc="best", labelcolor=INK, ncols=2)
        caption = f"{self._name(mistake, name)} against {name}{_words(hyper)}, dy = {dy:g}. The shade is the error."
        return Failure(caption, curve=Picture(svg[0], caption, "what is due, and what the mistake gives"))

    def _digits(
        self, mistake: Mistake | Value, hyper: Mapping[str, Any], dy: float, position: int, name: str
    ) -> Failure | None:
        x = bent(FAR, POINTS)
        both = self._both(mistake, x, hyper, dy, position, name)
        exact = self._both(mistake, x.double(), hyper, dy, position, name)
        if both is None or exact is None:
            return None
        due = exact[0]  # the page in float64 is right to far more digits than float32 has
        normal = due.abs() >= torch.finfo(DTYPE).smallest_normal
        unit = ulp(due, DTYPE)
        ours, theirs = (
            torch.where(normal, (got.double() - due).abs() / unit, 0).nan_to_num(nan=1e9, posinf=1e9) for got in both
        )
        if float(theirs.max()) < LOST_ULPS:
            return None
        with axes(1.9) as (drawn, svg):
            of_lost_digits(drawn, name, FAR)
            drawn.plot(x, theirs, color=THEIRS, linewidth=1.8, label="the mistake")
            drawn.plot(x, ours, color=OURS, linewidth=1.4, label="the page")
            drawn.legend(frameon=False, loc="best", labelcolor=INK)
        caption = f"Error of {self._name(mistake, name)} in float32 against the page in float64{_words(hyper)}, "
        caption += f"dy = {dy:g}: from the dotted line on every digit is lost."
        return Failure(caption, curve=Picture(svg[0], caption, "error in ulp"))

    # --------------------------------------------------------------------------------------------------------- cells

    @cached_property
    def _cases(self) -> list[Case]:
        """The cases by which candidates are judged, the small ones first."""
        found = [case for case in generated(self.rule, DTYPE) if 0 < case.elements <= LARGE]
        return sorted(found, key=lambda case: case.elements > SMALL)

    def _due(self, number: int, of_y: bool) -> tuple[Any, ...] | None:
        """What the page gives at a case."""
        if (of_y, number) not in self._dues:
            self._dues[of_y, number] = self._called(None, self._cases[number], of_y)
        return self._dues[of_y, number]

    def _is_of_y(self, mistake: Mistake | Value) -> bool:
        return isinstance(mistake, Value) or not self.rule.has_backward

    def _called(self, mistake: Mistake | Value | None, case: Case, of_y: bool) -> tuple[Any, ...] | None:
        """The values, or the cotangents, by a mistake or by the page; None where it raises."""
        rule = self.rule
        copied = case.with_tensors(x.clone() for x in case.tensors)
        try:
            if isinstance(mistake, Value):
                given = dict(zip(rule.inputs, copied.inputs, strict=True))
                return parts(mistake.forward(**given, **{**rule.ordinary, **copied.hyper}))
            if of_y:
                candidate = rule.values_alone if mistake is None else rule.mistaken(mistake.backward)
                return parts(candidate(copied.inputs, **copied.hyper))
            candidate = rule.vjp if mistake is None else rule.mistaken(mistake.backward)
            return tuple(candidate(copied.inputs, copied.dy, **copied.hyper)[1])
        except Exception:  # whatever a wrong formula does at an edge
            return None

    def _seen(self, mistake: Mistake | Value) -> Seen | None:
        """The mistake where it is best seen."""
        of_y, best = self._is_of_y(mistake), None
        for number, case in enumerate(self._cases):
            if best is not None and case.elements > SMALL and best.telling[0]:
                break
            dues, gots = self._due(number, of_y), self._called(mistake, case, of_y)
            for position, (due, got) in enumerate(zip(dues or (), gots or (), strict=False)):
                if due is None or got is None or due.shape != got.shape or not due.numel():
                    continue
                # A count or a truth value is a number too.
                found = Seen(case, of_y, position, *(x if x.is_floating_point() else x.double() for x in (due, got)))
                if found.share <= 0 or (found.share < VISIBLE and found.ulps < LOST_ULPS):
                    continue
                if best is None or found.telling > best.telling:
                    best = found
            if best is not None and best.telling[:3] == (True, True, True):
                break
        return best

    def _of_another_kind(self, mistake: Mistake | Value) -> Failure | None:
        """A result of another shape, or one where none is due."""
        of_y = self._is_of_y(mistake)
        for number, case in enumerate(self._cases):
            dues, gots = self._due(number, of_y) or (), self._called(mistake, case, of_y) or ()
            for name, due, got in zip(self._names(of_y), dues, gots, strict=False):
                if due is None and isinstance(got, Tensor):
                    return Failure(f"{name} comes where none is due: the input is a constant.")
                if due is not None and got is not None and due.numel() and due.shape != got.shape:
                    return Failure(f"{name} comes as {tuple(got.shape)} where {tuple(due.shape)} is due.")
        return None

    def _name(self, mistake: Mistake | Value, name: str) -> str:
        return "y" if self._is_of_y(mistake) else f"d{name}"

    def _names(self, of_y: bool) -> tuple[str, ...]:
        """Of what is compared."""
        outputs = len(self.rule.outputs)
        return self.rule.arguments[:outputs] if of_y else self.rule.arguments[outputs:]

    def _planes(self, seen: Seen) -> Failure:
        rule, case = self.rule, seen.case
        if id(case) not in self._evidence:
            try:
                self._evidence[id(case)] = evidence(rule, case, contract_of(DTYPE))
            except (ValueError, RuntimeError) as error:
                self._evidence[id(case)] = str(error)
        judged = self._evidence[id(case)]
        argument = seen.position + (0 if seen.of_y else len(rule.outputs))
        due, wrong, source = seen.due.double(), seen.due != seen.got, "the page in float32"
        if isinstance(judged, Evidence):
            expected, allowance = judged.expected[argument], judged.allowance[argument]
            if expected is not None and allowance is not None:
                due, source = expected, judged.source
                wrong = ~(errors(seen.got, expected, allowance, DTYPE)[0] <= 1)
        got = seen.got.double()
        name = self._names(seen.of_y)[seen.position]
        window, place = window_of(due, wrong)
        digits = 3 if seen.share >= VISIBLE else 8
        right = torch.zeros_like(wrong)
        drawn = (("due", due, right), ("got", got, wrong), ("got − due", got - due, wrong))
        planes = tuple(plane_of(title, values[window], marks[window], digits) for title, values, marks in drawn)
        caption = f"{name}{place} in the case “{case.name}”"
        caption += _words({n: v for n, v in case.hyper.items() if v != rule.ordinary.get(n)}) + ": "
        caption += f"{int(wrong.sum())} of {wrong.numel()} numbers are wrong. Due by {source}."
        return Failure(caption, planes)


def _words(hyper: Mapping[str, Any]) -> str:
    return "".join(f", {name} = {value}" for name, value in hyper.items())


def _bounded(drawn: Any, due: Tensor) -> None:
    """A mistake that runs away does not squeeze what is due into a line."""
    finite = due[due.isfinite()]
    low, high = float(finite.min()), float(finite.max())
    height = max(high - low, abs(high), 1e-30)
    bottom, top = drawn.get_ylim()
    drawn.set_ylim(max(bottom, low - 1.5 * height), min(top, high + 1.5 * height))
