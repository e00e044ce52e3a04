"""What a mismatch is, if it is not simply wrong: another convention, arithmetic in 16 bits, or lost digits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import Contract, contract_of, widths
from manual_bp.oracle.calling import call, is_dense
from manual_bp.oracle.cases import Case, is_moderate, many_rows
from manual_bp.oracle.conventions import Conventions
from manual_bp.oracle.errors import errors
from manual_bp.oracle.evidence import Evidence, Values, certified_module, evidence
from manual_bp.oracle.memory import copy, whole
from manual_bp.rule import Rule, Vjp

OTHER_PRECISION = {
    torch.float64: torch.float32,
    torch.float32: torch.float64,
    torch.bfloat16: torch.float32,
    torch.float16: torch.float32,
}
ONE = torch.ones((), dtype=torch.float64)
# A rounding error shrinks with eps, give or take a factor of luck; a wrong formula's does not shrink.
LUCK = 1000.0
# Whether an error is systematic is seen in as many more runs, at other numbers of the same sign and size.
RUNS = 8
VARIED = 1 / 2
# The rounding of a constant has the same sign in all runs; a formula has a few constants.
FEW_ROUNDINGS = 4
# Inputs so many times nearer to 0 are where a program that has lost all digits has some.
NEARER = (1 / 4, 1 / 16, 1 / 64, 1 / 256)
# A random error keeps its sign in 8 runs with probability 1/256.
CHANCE = 1 / 16


@dataclass(frozen=True)
class Kinds:
    """Tells the kind of a mismatch of one rule, under what was declared."""

    rule: Rule
    dtype: torch.dtype
    contract: Contract
    conventions: Conventions
    _known: dict[Any, tuple[Case, Values]] = field(default_factory=dict)
    _others: dict[Any, tuple[Case, Evidence | str]] = field(default_factory=dict)

    def kind(
        self,
        candidate: Vjp | None,
        position: int,
        found: Evidence,
        got: Tensor,
        grads: Sequence[Any],
        beyond: Tensor,
    ) -> tuple[str, str]:
        """Its kind and a few words.

        candidate: None for recorded results, else called again.  position: 0 for y, from 1 on the inputs.  got, grads:
        what it returned there, and all its cotangents.  beyond: the elements that are wrong.
        """
        case, expected, kinks = found.case, found.expected[position], found.kinks[position]
        assert expected is not None
        assert kinks is not None
        error = (got.cpu().double() - expected).abs()
        if position and bool(kinks[beyond].all()) and self.is_subgradient(found, grads):
            return "convention", "a valid subgradient, and not the one of the declared convention"
        if position and _is_undefined_at_infinity(case.dy, expected, got, beyond):
            return "digits", "loses all digits of an infinite cotangent: NaN where infinity or 0 is due"
        judged, largest, where = case, error, beyond
        if found.row is not None:  # all rows alike: the largest error stands
            judged, largest, where = found.row.case, torch.where(beyond, error, 0).amax(0), beyond.any(0)

        def within(contract: Contract, formula: Any = None) -> bool:
            width = self.widths_of(judged, contract, formula)[position]
            assert width is not None
            # Where a right program may overflow the bound is infinite: nothing can be said there, of a NaN neither.
            return bool(((largest <= width) | width.isinf())[where].all())

        again = _Again(self, candidate, position, found, got.detach().cpu().double(), error, beyond)
        if again.is_unsteady():
            return "wrong", "another value came when it was called again"
        narrow = Contract(self.dtype, self.dtype)
        if self.contract != narrow and within(narrow) and again.is_narrow():
            return "16-bit", f"right for arithmetic in {self._name}, not for {self.contract.compute}"
        for mistake in self.rule.mistakes if position else ():
            if mistake.loses_digits and (
                within(self.contract, mistake.backward)
                or (within(narrow, mistake.backward) and again.is_narrow(mistake.backward))
            ):
                return "digits", f"loses digits, as the formula {mistake.name} does"
        if words := again.rounding():
            return "digits", words
        return "wrong", ""

    def widths_of(self, case: Case, contract: Contract, formula: Any) -> Values:
        """The widths at a case, kept for the case's other arguments."""
        key = (case.name, contract, formula)
        if key not in self._known or self._known[key][0] is not case:
            found = widths(self.rule, case.inputs, case.dy, contract, backward=formula, **case.hyper)
            self._known[key] = (case, (found.y, *found.grads))
        return self._known[key][1]

    def evidence_at(self, case: Case) -> Evidence | str:
        """The evidence at a case, under the contract of its own precision."""
        return evidence(self.rule, case, contract_of(case.dy.dtype), self.conventions)

    def evidence_in(self, case: Case, dtype: torch.dtype) -> Evidence | str:
        """The evidence at the same case in another precision, kept for the case's other arguments."""
        key = (case.name, dtype)
        if key not in self._others or self._others[key][0] is not case:
            self._others[key] = (case, self.evidence_at(in_precision(case, dtype)))
        return self._others[key][1]

    @property
    def _name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def as_declared(self, found: Evidence, position: int, grads: Sequence[Any], beyond: Tensor) -> bool:
        """Whether all that differs is a kink or tie, where any subgradient was declared and this is one."""
        kinks = found.kinks[position]
        if position == 0 or kinks is None or not bool(beyond.any()) or not bool(kinks[beyond].all()):
            return False
        return self.conventions.any_subgradient(self.rule) and self.is_subgradient(found, grads)

    def is_subgradient(self, found: Evidence, grads: Sequence[Any]) -> bool:
        """Whether the cotangents are a subgradient at the case, as far as that can be certified."""
        balls = certified_module()
        if balls is None or not all(g is None or isinstance(g, Tensor) for g in grads):
            return False
        case = found.case
        inputs = tuple(x.detach().cpu() for x in case.inputs)
        cpu = tuple(None if g is None else g.detach().cpu() for g in grads)
        return bool(balls.is_subgradient(self.rule, inputs, case.dy.cpu(), cpu, **case.hyper).passed)


@dataclass(frozen=True)
class _Again:
    """Calls a candidate again, to learn whether its error at a case is that of rounding or of the formula."""

    kinds: Kinds
    candidate: Vjp | None
    position: int
    found: Evidence
    got: Tensor
    error: Tensor
    beyond: Tensor

    @property
    def case(self) -> Case:
        return self.found.case

    def is_unsteady(self) -> bool:
        """Whether what is wrong differs by more than the allowance when the candidate is called again: a race."""
        allowance = self.found.allowance[self.position]
        if self.candidate is None or allowance is None:
            return False
        got = self._result(self.case, self.found.expected[self.position])
        return got is not None and bool(((got - self.got).abs() > allowance)[self.beyond].any())

    def is_narrow(self, formula: Any = None) -> bool:
        """Whether an error that 16-bit arithmetic may make (of `formula`, if it is not the page's) is of that origin.

        The same program at the same numbers in float32 is right then, where it can be called so.  Recorded results
        cannot be called: there the bound has to do.
        """
        if self.candidate is None:
            return True
        found = self.kinds.evidence_in(self.case, torch.float32)
        there = self._at(found)
        if there is None or (bool(there.got.any()) and self._is_held_by(self.kinds.dtype, there.got)):
            return not self._is_systematic()  # it cannot do float32, or computes in 16 bits whatever comes
        wrong = (there.ratio > 1) & (there.error > self._shrunk(self.error, torch.float32)) & self.beyond
        if formula is not None and isinstance(found, Evidence) and bool(wrong.any()):
            width = self.kinds.widths_of(found.case, contract_of(torch.float32), formula)[self.position]
            assert width is not None
            wrong &= there.error > width
        return not bool(wrong.any())

    @staticmethod
    def _is_held_by(dtype: torch.dtype, x: Tensor) -> bool:
        """Whether every number is one of `dtype`."""
        return bool(((x == x.to(dtype).double()) | x.isnan()).all())

    def rounding(self) -> str:
        """In words, that the error is so much smaller in the finer of two precisions, and varies like a rounding error,
        or that no digit is left to tell by; "" if that is not so."""
        if self.candidate is None or (is_moderate(self.case) and self._overflows()):
            return ""
        dtype, other = self.kinds.dtype, OTHER_PRECISION[self.kinds.dtype]
        finer = torch.finfo(other).eps < torch.finfo(dtype).eps
        there = self._error_in(other, finer)
        if there is None:
            return ""  # it cannot do that precision: nothing is learnt
        fine, coarse = (there, self.error) if finer else (self.error, there)
        shrinks = bool(((fine <= self._shrunk(coarse, other)) & fine.isfinite())[self.beyond].all())
        if shrinks and not (finer and self._is_systematic()):
            return "loses digits: its error shrinks with the precision, as that of a wrong formula would not"
        if self._has_lost_all(fine, other):
            return "loses all digits: what is due is smaller than the rounding of numbers that the program subtracts"
        return ""

    def _overflows(self) -> bool:
        """Whether infinity or NaN stands where a finite number is due: of moderate numbers no rounding makes that."""
        expected = self.found.expected[self.position]
        assert expected is not None
        return bool((expected.isfinite() & ~self.got.isfinite())[self.beyond].any())

    def _has_lost_all(self, fine: Tensor, other: torch.dtype) -> bool:
        """Whether what is wrong is too small to have a digit left in either precision, as the difference 1 + tanh(x/2)
        is far on the left: then no error shrinks there, but on the way to moderate inputs they are those of rounding,
        and so large that the one here is no surprise.  fine: the errors in the finer of the two precisions."""
        dtype, case = self.kinds.dtype, self.case
        if not case.dy.numel() or not bool(case.dy.isfinite().all()):
            return False
        finest = min(torch.finfo(dtype).eps, torch.finfo(other).eps)
        size = max(1.0, float(case.dy.abs().max()))
        if self.found.row is not None or not float(fine[self.beyond].max()) <= FEW_ROUNDINGS * finest * size:
            return False
        errors, largest = [(fine[self.beyond], fine[self.beyond])], torch.zeros(())
        for scale in NEARER:
            named = zip(self.kinds.rule.inputs, case.inputs, strict=True)
            inputs = tuple(scale * x if self.kinds.rule.is_number(name) else x for name, x in named)
            pairs = [
                self._at(self.kinds.evidence_at(in_precision(replace(case, inputs=inputs), d))) for d in (dtype, other)
            ]
            here, there = pairs
            if here is None or there is None:
                return False
            is_finer = torch.finfo(other).eps < torch.finfo(dtype).eps
            coarse, finer = (here.error, there.error) if is_finer else (there.error, here.error)
            errors.append((finer, self._shrunk(coarse, other)))
            largest = largest.maximum(coarse.max())
        bound = self._shrunk(largest, other)
        return all(
            bool((finer <= bound.maximum(shrunk if i else bound)).all()) for i, (finer, shrunk) in enumerate(errors)
        )

    def _error_in(self, other: torch.dtype, finer: bool) -> Tensor | None:
        """The error at the same case in another precision; None if there is no evidence or no result."""
        expected = self.found.expected[self.position]
        if not finer:  # else the numbers are the same, and so is what is due
            found = self.kinds.evidence_in(self.case, other)
            expected = None if isinstance(found, str) else found.expected[self.position]
        got = self._result(in_precision(self.case, other), expected)
        if got is None or expected is None:
            return None
        return torch.where(got == expected, 0, (got - expected).abs()).nan_to_num(nan=torch.inf, posinf=torch.inf)

    def _shrunk(self, error: Tensor, other: torch.dtype) -> Tensor:
        eps, other_eps = torch.finfo(self.kinds.dtype).eps, torch.finfo(other).eps
        return error * (LUCK * min(eps, other_eps) / max(eps, other_eps))

    def _is_systematic(self) -> bool:
        """Whether the error keeps its sign, relative to the value, while the numbers vary: a rounding error would not.

        What a few roundings of a constant may do (of lam/n, say) is left out.
        """
        generator = torch.Generator().manual_seed(0)
        few = FEW_ROUNDINGS * torch.finfo(self.kinds.dtype).eps
        stable = self.beyond.clone()
        own = None
        for run in range(RUNS + 1):
            there = self._at(self.found if run == 0 else self.kinds.evidence_at(self._varied(generator)))
            if there is None:
                return False
            sign = torch.sign(there.got - there.expected) * torch.where(there.expected < 0, -1, 1)
            own = sign if own is None else own
            large = (there.error > few * there.expected.abs()) & (there.error > there.allowance)
            stable &= (sign == own) & large | ~there.got.isfinite()
        return int(stable.sum()) > int(self.beyond.sum()) * CHANCE

    def _varied(self, generator: torch.Generator) -> Case:
        row = self.found.row
        rule = self.kinds.rule
        return varied(rule, self.case, generator) if row is None else many_rows(varied(rule, row.case, generator))

    def _at(self, found: Evidence | str) -> _There | None:
        """The error at a case; None if there is no evidence or no result."""
        if isinstance(found, str):
            return None
        expected, allowance = found.expected[self.position], found.allowance[self.position]
        got = self._result(found.case, expected)
        if got is None or expected is None or allowance is None:
            return None
        error, _ = errors(got, expected, ONE, torch.float64)
        ratio, _ = errors(got, expected, allowance, found.case.dy.dtype)
        return _There(got, expected, allowance, error, ratio)

    def _result(self, case: Case, expected: Tensor | None) -> Tensor | None:
        """What the candidate returns for the argument, in float64 on the CPU; None if it is nothing to compare."""
        assert self.candidate is not None
        results = call(self.candidate, self.kinds.rule, case).results
        got = results[self.position] if results else None
        if expected is None or not isinstance(got, Tensor) or not is_dense(got) or got.shape != expected.shape:
            return None
        return got.detach().cpu().double()


def _is_undefined_at_infinity(dy: Tensor, expected: Tensor, got: Tensor, beyond: Tensor) -> bool:
    """Whether all that is wrong is NaN where an infinite cotangent makes infinity due, or is dropped and makes 0 due.

    A right formula that takes a difference (dy - dy y²) or multiplies by 0 (dy · mask) has it so, and nobody goes on
    with either.
    """
    infinite = dy.isinf().cpu()
    due = expected.isinf()
    if dy.shape == expected.shape:  # element by element, so that nothing else is excused
        due |= (expected == 0) & infinite
    return bool(infinite.any()) and bool((due & got.cpu().isnan())[beyond].all())


class _There(NamedTuple):
    got: Tensor
    expected: Tensor
    allowance: Tensor
    error: Tensor
    ratio: Tensor


def in_precision(case: Case, dtype: torch.dtype) -> Case:
    """The case in another precision, in the same layout."""
    *inputs, dy = (copy(x, dtype) if x.is_floating_point() else x for x in (*case.inputs, case.dy))
    return replace(case, inputs=tuple(inputs), dy=dy)


def varied(rule: Rule, case: Case, generator: torch.Generator) -> Case:
    """The case with every number moved by up to half of it, in the same layout; masks, 0 and NaN stay."""

    def moved(x: Tensor) -> Tensor:
        same = copy(x)
        numbers = whole(same)  # what shares memory stays alike
        noise = 2 * torch.rand(numbers.shape, generator=generator, dtype=torch.float64) - 1
        numbers.mul_((1 + VARIED * noise).to(x.device, x.dtype))
        return same

    named = zip(rule.inputs, case.inputs, strict=True)
    inputs = tuple(moved(x) if rule.is_number(name) else x for name, x in named)
    return replace(case, inputs=inputs, dy=moved(case.dy))
