"""What excuses a result that is off: arithmetic in 16 bits, or lost digits.

An excuse is a finite bound, derived in the precision under test: every wrong number must lie within it.  How the same
program does in another precision may refute an excuse, never grant one: a kernel is often another program for another
dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import Contract, How, contract_of, widths
from manual_bp.inputs import Mistake, Value
from manual_bp.oracle.calling.calls import call
from manual_bp.oracle.calling.results import is_dense
from manual_bp.oracle.case import Case
from manual_bp.oracle.cases.variation import in_precision, wide
from manual_bp.oracle.truth.certified import Values
from manual_bp.oracle.truth.conventions import Conventions
from manual_bp.oracle.truth.evidence import Evidence
from manual_bp.oracle.truth.lost_digits import PER_OPERATION, lost_digits, reach_of
from manual_bp.outputs import parts
from manual_bp.rule import Rule, Vjp

FINER = {
    torch.float32: torch.float64,
    torch.bfloat16: torch.float32,
    torch.float16: torch.float32,
}
"""The next finer precision."""
# A rounding error shrinks by 2⁻¹³ or more in the next finer precision, that of a formula stays.
SHRINKS = 1 / 2
# An error of a formula changes as little as its inputs, by some hundredths; one of rounding is drawn anew with inputs
# that differ by several units of 16 bits, and is then no nearer to what it was than half of it in eight draws but by
# chance: once in 2⁸, and more rarely where several numbers are wrong.
NEARBY, MOVED, SAME = 8, 2.0**-5, 1 / 2
# A sum that cancels may be small, and its digits are those of its terms: a bound of arithmetic in few bits leaves two
# bits of what they add up to, or is no wider than the largest number that is due.
LEFT = 4.0
# Bounds are kept beside a case of up to so many elements, which is 64 KB for each: of a recurrence they take up to a
# second.  Of a larger case they are kept no longer than it is judged.
BOUNDED = 2**13
_BOUNDS: WeakKeyDictionary[Case, tuple[Any, dict[Any, Values]]] = WeakKeyDictionary()
"""Of a case: the rule with its text, and what was found of it there."""


class Excuse(NamedTuple):
    """Why a result may be off, in words, and by how much: float64, shaped like the result.

    bounds: the same in any precision, of y and all cotangents.  finer: the precision in which an error that is due to
    rounding is much smaller; None if there is none.  is_listed: whether it is that of a formula that the page lists.
    """

    kind: str
    words: str
    bound: Tensor
    bounds: Callable[[Contract], Values]
    finer: torch.dtype | None
    is_listed: bool = False


class Latest:
    """What was found at the case that was asked about last, by what it is: it is asked for its other arguments too."""

    def __init__(self) -> None:
        self._found: dict[Any, tuple[Case, Values]] = {}

    def at(self, case: Case, what: Any, find: Callable[[], Values]) -> Values:
        if what not in self._found or self._found[what][0] is not case:
            self._found[what] = (case, find())
        return self._found[what][1]


@dataclass(frozen=True)
class Excuses:
    """What may excuse a result of one rule, under what was declared, and what refutes that."""

    rule: Rule
    dtype: torch.dtype
    contract: Contract
    conventions: Conventions
    _latest: Latest = field(default_factory=Latest)

    def told(
        self, candidate: Vjp | None, position: int, found: Evidence, got: Tensor, beyond: Tensor
    ) -> tuple[str, str]:
        """The kind of the first excuse that holds and its words; "wrong" if none does.

        candidate: None for recorded results, else called again.  position: among the rule's arguments.  got: what came
        there, in float64.  beyond: the elements that are off.
        """
        case, due, where = found.case, found.expected[position], beyond
        assert due is not None
        largest = (got - due).abs()
        if found.row is not None:  # all rows alike: the largest error stands, and the largest number due
            case, largest, where = found.row.case, torch.where(beyond, largest, 0).amax(0), beyond.any(0)
            due = due.abs().amax(0)
        for excuse in self._of(case, position, due):
            # A NaN is within nothing; an infinity, where the page lists a formula that may overflow there.
            overflows = largest.isinf() if excuse.is_listed else torch.zeros_like(largest, dtype=torch.bool)
            within = (largest <= excuse.bound) & (excuse.bound.isfinite() | overflows)
            if bool(within[where].all()) and not self._is_refuted(excuse, candidate, position, found, got, beyond):
                return excuse.kind, excuse.words
        return "wrong", self._excess(case, position, largest, where)

    def _of(self, case: Case, position: int, expected: Tensor) -> Iterator[Excuse]:
        """What may stand at a case: each with its bound, the most telling first."""
        if self.contract != self._narrow:
            words = f"right for arithmetic in {self._name(self.dtype)}, not for {self._name(self.contract.compute)}"
            wide_sums = partial(self._widths_of, case, how=How(accumulate=self.contract.compute))
            for bounds in (wide_sums, partial(self._widths_of, case)):
                bound = self._within_reach(bounds(self._narrow), case, position, expected)
                yield Excuse("16-bit", words, bound, bounds, FINER[self.dtype])
        losing = [m for m in self.rule.mistakes if m.loses_digits] if is_grad(self.rule, position) else self.rule.values
        for formula in losing:
            words = f"loses digits, as the formula {formula.name} does"
            bounds = partial(self._widths_of, case, formula=formula)
            yield self._digits(words, position, bounds)._replace(is_listed=True)
            if hasattr(self.rule.page, "FUNCTION"):  # torch's kernels approximate what the formula calls
                looser = partial(self._widths_of, case, formula=formula, how=How(roundings=PER_OPERATION))
                yield self._digits(f"{words}, in a few roundings", position, looser)
            if self.contract != self._narrow:
                bound = self._within_reach(bounds(self._narrow), case, position, expected, formula)
                yield Excuse("digits", f"{words}, in {self._name(self.dtype)}", bound, bounds, FINER[self.dtype])
        if hasattr(self.rule.page, "FUNCTION"):  # which goes one way through these numbers, of several
            tiny = torch.finfo(self.contract.compute).tiny
            bound = torch.where(expected.abs() < tiny, tiny, 0.0)
            yield Excuse("digits", "loses digits of what is below the smallest normal number", bound, self._none, None)
        # Not in 16 bits: so many roundings there are as much as is due.
        yield self._digits(self._rounding(position), position, partial(self._lost, case))

    @staticmethod
    def _none(contract: Contract) -> Values:
        return ()

    def _digits(self, words: str, position: int, bounds: Callable[[Contract], Values]) -> Excuse:
        """Digits lost in the declared precision."""
        bound = bounds(self.contract)[position]
        assert bound is not None
        return Excuse("digits", words, bound, bounds, FINER.get(self.contract.compute))

    def _rounding(self, position: int) -> str:
        """The general bound, in words."""
        if not self.rule.elementwise:
            return "loses digits: it is within a few roundings of the terms into which each operation expands"
        what = "|dy| times the largest slope" if is_grad(self.rule, position) else "the largest value"
        return f"loses digits: it is within a few roundings of {what} up to max(1, |x|)"

    def _within_reach(
        self, bounds: Values, case: Case, position: int, expected: Tensor, formula: Mistake | Value | None = None
    ) -> Tensor:
        """A bound of arithmetic in few bits, infinite where it is wider than what is due: there no digit is left, and
        anything would be excused."""
        bound = bounds[position]
        assert bound is not None
        reach = self._bound(("reach", formula), case, lambda: reach_of(self.rule, case, formula))[position]
        assert reach is not None
        if not self.rule.elementwise:
            finite = expected[expected.isfinite()].abs()
            reach = (reach / LEFT).clamp(min=float(finite.max()) if finite.numel() else 0.0)
        return torch.where(bound <= reach, bound, torch.inf)

    def is_of_few_bits(self, found: Evidence, position: int, got: Tensor) -> Tensor:
        """Where a result is as far off as arithmetic in 16 bits may be that leaves digits."""
        expected = found.expected[position]
        assert expected is not None
        bound = self._within_reach(self._widths_of(found.case, self._narrow), found.case, position, expected)
        return ((got.detach().cpu().double() - expected).abs() <= bound) & bound.isfinite()

    def _excess(self, case: Case, position: int, error: Tensor, where: Tensor) -> str:
        """In words, that arithmetic in 16 bits may be so far off, where that leaves no digit; "" elsewhere."""
        if self.contract == self._narrow:
            return ""
        bound = self._widths_of(case, self._narrow)[position]
        assert bound is not None
        if not bool((error <= bound)[where].all()):
            return ""
        return f"arithmetic in {self._name(self.dtype)} can be so far off, and then leaves no digit of what is due"

    def _is_refuted(
        self, excuse: Excuse, candidate: Vjp | None, position: int, found: Evidence, got: Tensor, beyond: Tensor
    ) -> bool:
        """Whether the same program at the same numbers in a finer precision has the same error, beyond what that
        precision excuses: then it is no rounding.

        Nothing is learnt from one that cannot do that precision, or whose results there are, once rounded, those here:
        it computes in one precision whatever comes.  If that is the finer one, but for some roundings to this one,
        these are other errors at other numbers nearby, and those of a formula are not.
        """
        if candidate is None or excuse.finer is None:
            return False
        expected = found.expected[position]
        assert expected is not None
        there = result_of(candidate, self.rule, in_precision(found.case, excuse.finer), position, expected)
        if there is None:
            return False
        rounded = there.to(self.dtype).double()
        if torch.equal(rounded.nan_to_num(), got.nan_to_num()):
            of_few_bits = self.contract != self._narrow and excuse.finer is FINER[self.dtype]
            is_finer = of_few_bits and not torch.equal(there.nan_to_num(), rounded.nan_to_num())
            return is_finer and self._is_steady_nearby(excuse, candidate, position, found, there, beyond)
        error = (there - expected).abs()
        stays = (error > SHRINKS * (got - expected).abs()) & beyond
        if not bool(stays.any()):  # as nearly always, and the bound is one of the whole page
            return False
        bound = excuse.bounds(contract_of(excuse.finer))[position]
        assert bound is not None
        return bool((stays & (error > bound)).any())

    def _is_steady_nearby(
        self, excuse: Excuse, candidate: Vjp, position: int, found: Evidence, there: Tensor, beyond: Tensor
    ) -> bool:
        """Whether what a program in the finer precision is off by, beyond that precision, is much the same at numbers
        nearby."""
        assert excuse.finer is not None
        expected, bound = found.expected[position], excuse.bounds(contract_of(excuse.finer))[position]
        assert expected is not None
        assert bound is not None
        error = there - expected
        wrong = beyond & (error.abs() > bound) & error.isfinite()
        if not bool(wrong.any()):
            return False
        generator, case = torch.Generator().manual_seed(0), in_precision(found.case, excuse.finer)
        for _ in range(NEARBY):
            moved = case.with_tensors(
                x * (1 + MOVED * (torch.rand(x.shape, generator=generator) - 0.5)).to(x) if x.is_floating_point() else x
                for x in case.tensors
            )
            wide_case = moved.with_tensors(map(wide, moved.tensors))
            try:
                y, grads = self.rule.vjp(
                    wide_case.inputs, wide_case.dy, **self.conventions.hyper(self.rule, case.hyper)
                )
            except ValueError:  # somebody's function may be defined for the numbers as they are alone
                return False
            due, got = (*parts(y), *grads)[position], result_of(candidate, self.rule, moved, position, expected)
            if due is None or got is None or not bool((got - due - error)[wrong].norm() <= SAME * error[wrong].norm()):
                return False
        return True

    def _widths_of(
        self, case: Case, contract: Contract, formula: Mistake | Value | None = None, how: How | None = None
    ) -> Values:
        """The widths of the page, or of a formula that loses digits, kept for the case's other arguments and for other
        candidates."""

        def find() -> Values:
            instead = formula.instead if formula else {}
            found = widths(self.rule, case.inputs, case.dy, contract, how=how, **instead, **case.hyper)
            return (*found.outputs, *found.grads)

        return self._bound(("width", formula, how, contract), case, find)

    def _lost(self, case: Case, contract: Contract) -> Values:
        return self._bound(("lost", contract), case, lambda: lost_digits(self.rule, case, contract))

    def _bound(self, what: Any, case: Case, find: Callable[[], Values]) -> Values:
        """Likewise what no candidate changes, kept as long as the case is, for the next one that is off there."""
        if case.elements > BOUNDED:
            return self._latest.at(case, what, find)
        page = self.rule.page
        of = (self.rule, page.forward, getattr(page, "backward", None))
        if case not in _BOUNDS or _BOUNDS[case][0] != of:
            _BOUNDS[case] = (of, {})
        bounds = _BOUNDS[case][1]
        if what not in bounds:
            bounds[what] = find()
        return bounds[what]

    @property
    def _narrow(self) -> Contract:
        return Contract(self.dtype, self.dtype)

    @staticmethod
    def _name(dtype: torch.dtype) -> str:
        return str(dtype).removeprefix("torch.")


def is_grad(rule: Rule, position: int) -> bool:
    """Whether an argument of the rule is a cotangent, and no output."""
    return position >= len(rule.outputs)


def result_of(candidate: Vjp, rule: Rule, case: Case, position: int, expected: Tensor) -> Tensor | None:
    """What the candidate returns for the argument, in float64 on the CPU; None if it is nothing to compare."""
    results = call(candidate, rule, case).results
    got = results[position] if results else None
    if not isinstance(got, Tensor) or not is_dense(got) or got.shape != expected.shape:
        return None
    return got.detach().cpu().double()
