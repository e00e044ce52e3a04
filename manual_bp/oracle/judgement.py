"""Judging one result at a time: is it of the right kind at all, and does every number lie within its allowance?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.foreign import named as named_type
from manual_bp.oracle.calling.calls import call
from manual_bp.oracle.calling.results import same_bits
from manual_bp.oracle.case import Case, Further, in_dtype
from manual_bp.oracle.kinds import Kinds
from manual_bp.oracle.pattern import pattern
from manual_bp.oracle.reports.mismatch import Mismatch, Worst
from manual_bp.oracle.reports.report import Report
from manual_bp.oracle.truth.either_side import EitherSide
from manual_bp.oracle.truth.errors import errors
from manual_bp.oracle.truth.evidence import Evidence
from manual_bp.oracle.vacuity import Judged
from manual_bp.outputs import parts
from manual_bp.rule import Rule, Vjp

NOTES = ("digits", "16-bit")
"""Kinds of mismatch that are notes unless the comparison is strict."""
# What stands in place of NaN to see what depends on it: either side of most corners, near to them and far.
FILLED = (1.0, -1.0, 8.0, -8.0)


class Judge:
    """Judges results of one rule in one dtype, and gathers what is wrong in a report.

    judged: of each required argument, what was due in small cases.  excused: mismatches that are notes, by argument,
    kind and words.
    """

    def __init__(
        self, rule: Rule, dtype: torch.dtype, device: str, kinds: Kinds, strict: bool, tells_kinds: bool
    ) -> None:
        """tells_kinds: whether to tell the kinds of mismatches apart; else all are "wrong"."""
        self.rule, self.dtype = rule, dtype
        self.kinds, self.strict, self.tells_kinds = kinds, strict, tells_kinds
        self.report = Report(rule.name, str(dtype).removeprefix("torch."), device)
        self.arguments = rule.arguments
        self.outputs = len(rule.outputs)
        self.required = tuple(a for a, is_wanted in zip(rule.arguments, rule.wanted, strict=True) if is_wanted)
        self.report.worst = {argument: Worst() for argument in self.required}
        self.judged: dict[str, list[Judged]] = {argument: [] for argument in self.required}
        self.excused: dict[tuple[str, str, str], list[Mismatch]] = {}
        self._spread: Case | None = None
        self._either_side = EitherSide(rule, dtype, kinds.contract, strict)
        self._own_dtypes: dict[str, torch.dtype | None] = {}

    def finding(self, argument: str, case: Case, text: str) -> None:
        if self.strict:
            self.trap(argument, case, text)
        elif text not in self.report.findings:
            self.report.findings.append(text)

    def fits(self, argument: str, found: Evidence, got: Any) -> bool:
        """Whether a result is of the right kind at all: there or not, shape, dtype, device."""
        position = self.arguments.index(argument)
        expected, case = found.expected[position], found.case
        if expected is None:
            if got is not None:
                is_absent = self._input(argument, case) is None
                why = "this input is absent" if is_absent else "this input has no cotangent"
                why = "there is no such output here" if self.is_output(argument) else why
                self.trap(argument, case, f"{why}: None is due")
            return False
        if got is None and self.is_optional(argument):
            self.note(f"{argument} is None: it is optional and was not judged")
            return False
        if not isinstance(got, Tensor):
            may_have_none = got is None and hasattr(self.rule.page, "FUNCTION") and not self.is_output(argument)
            hint = "; if it has no cotangent, pass it as Input(draw, cotangent=False)" if may_have_none else ""
            self.trap(argument, case, f"a tensor is due, {_came(got)}{hint}")
            return False
        if got.layout is not torch.strided or got.is_quantized or got.is_nested:
            kind = "a nested one" if got.is_nested else f"one of layout {got.layout}"
            self.trap(argument, case, f"a dense tensor is due, {kind} came")
            return False
        # A count or a truth value may be an output; an input may be called y as well, and the output's cotangent is dy.
        kind = self.rule.annotation(f"d{argument}" if self.is_output(argument) else argument)
        due = (
            self.dtype if kind.dtype is Float or str(got.dtype).removeprefix("torch.") not in kind.dtypes else got.dtype
        )
        if got.dtype is not due and got.dtype is self._own_dtype(argument, case):
            due = got.dtype
        for what, is_, should in (
            ("shape", tuple(got.shape), tuple(expected.shape)),
            ("dtype", got.dtype, due),
            ("device", got.device.type, case.tensors[0].device.type),
        ):
            if is_ != should:
                self.trap(argument, case, f"{what} must be {should}; came {is_}")
                return False
        return True

    def _own_dtype(self, argument: str, case: Case) -> torch.dtype | None:
        """In which dtype somebody's function returns an output of inputs as these: of 16 bits it may return a loss, or
        the logarithm of a sum, in float32."""
        if not self.is_output(argument) or not hasattr(self.rule.page, "FUNCTION"):
            return None
        if argument not in self._own_dtypes:
            inputs = (None if x is None else x.clone() for x in case.inputs)
            try:
                with torch.no_grad():
                    own = parts(self.rule.page.FUNCTION(*inputs, **case.hyper))[self.arguments.index(argument)]
            except Exception:  # whatever it is that a function of somebody's raises
                own = None
            self._own_dtypes[argument] = own.dtype if isinstance(own, Tensor) else None
        return self._own_dtypes[argument]

    def is_output(self, argument: str) -> bool:
        return argument in self.arguments[: self.outputs]

    def is_optional(self, argument: str) -> bool:
        return not self.is_output(argument) and self.rule.inputs[argument.removeprefix("d")].optional

    def _input(self, argument: str, case: Case) -> Tensor | None:
        """The input of which this is the cotangent; None if it is absent, or the argument an output."""
        position = self.arguments.index(argument) - self.outputs
        found: Tensor | None = case.inputs[position] if position >= 0 else None
        return found

    def note(self, text: str) -> None:
        if text not in self.report.notes:
            self.report.notes.append(text)

    def judge(
        self, candidate: Vjp | None, argument: str, found: Evidence, got: Tensor, grads: Sequence[Any], rows: str = ""
    ) -> None:
        """Compare one argument.  rows: what to say after the pattern, if one row is judged for many."""
        position = self.arguments.index(argument)
        expected, allowance = found.expected[position], found.allowance[position]
        assert expected is not None
        assert allowance is not None
        if not expected.numel():
            return
        if isinstance(found.case, Further) and bool(((got.cpu().double() - expected).abs() <= allowance).all()):
            return  # there are many of these, and what is right tells nothing more
        if found.row is not None and torch.equal(got, got[:1].expand_as(got)):
            if self._row_is_right(argument, found.row, got[0]):
                return
            alone = None if candidate is None else call(candidate, self.rule, found.row.case).results
            if alone is not None and isinstance(alone[position], Tensor) and same_bits(alone[position], got[0]):
                self.judge(candidate, argument, found.row, got[0], alone[self.outputs :], "; alike in every row")
                return
        ratio, ulps = errors(got, expected, allowance, self.dtype)
        excused = self._excused(position, found, expected) | self._overflows_alike(position, found, got, ratio)
        excused |= self._spreads_nan(found.case, expected, got, self.is_output(argument))
        excused |= self._is_undefined(argument, found.case, expected, got)
        excused |= self._through_nan(position, found, (ratio > 1) & ~excused)
        excused |= self._overflows_on_the_way(argument, found.case, expected, got, (ratio > 1) & ~excused)
        excused |= self._on_either_side(argument, found, got, (ratio > 1) & ~excused)
        if bool(excused.any()):
            ratio, ulps = torch.where(excused, 0, ratio), torch.where(excused, 0, ulps)
            self.judged[argument].append(Judged(found.case, expected[~excused], allowance[~excused]))
        else:
            self._expects(argument, found.row or found)
        beyond = ratio > 1
        if self.kinds.as_declared(found, position, grads, beyond):
            whose = "torch's" if hasattr(self.rule.page, "FUNCTION") else "the rule's, as declared"
            self.note(f"{argument}: at kinks or ties a valid subgradient other than {whose}")
            return
        worst = int(torch.argmax(ratio.reshape(-1)))
        self.report.worst[argument].note(float(ratio.max()), float(ulps.max()))
        if float(ratio.reshape(-1)[worst]) <= 1:
            return
        kind, detail = "wrong", ""
        if self.tells_kinds:
            kind, detail = self.kinds.kind(candidate, position, found, got, grads, beyond)
        mismatch = Mismatch(
            kind,
            argument,
            found.case.name,
            detail,
            tuple(int(i) for i in np.unravel_index(worst, expected.shape)),  # torch's own imports SymPy
            float(expected.reshape(-1)[worst]),
            float(got.reshape(-1)[worst]),
            float(ulps.reshape(-1)[worst]),
            float(ratio.reshape(-1)[worst]),
            pattern(beyond, expected, got, allowance) + rows,
        )
        if kind in NOTES and not self.strict:
            self.excused.setdefault((argument, kind, detail), []).append(mismatch)
        else:
            self.report.mismatches.append(mismatch)

    def _row_is_right(self, argument: str, row: Evidence, got: Tensor) -> bool:
        """Whether a result of one row, to which all others are alike, is right."""
        position = self.arguments.index(argument)
        expected, allowance = row.expected[position], row.allowance[position]
        assert expected is not None
        assert allowance is not None
        ratio, ulps = errors(got, expected, allowance, self.dtype)
        if float(ratio.max()) > 1:
            return False
        self.report.worst[argument].note(float(ratio.max()), float(ulps.max()))
        self._expects(argument, row)
        return True

    def _expects(self, argument: str, found: Evidence) -> None:
        """Note what was due, for the question whether anything was tested, which small cases answer."""
        if isinstance(found.case, Further):
            return
        expected, allowance = (values[self.arguments.index(argument)] for values in (found.expected, found.allowance))
        assert expected is not None
        assert allowance is not None
        self.judged[argument].append(Judged(found.case, expected, allowance))

    def _excused(self, position: int, found: Evidence, like: Tensor) -> Tensor:
        """Where nothing is judged: the gradient at a NaN input, and that of a function none of whose values is a number
        (a mean of nothing, 0 / 0): right programs differ in what they make of it.  Nor where torch's derivative of a
        function is NaN at finite numbers, as 0 · ∞ beside the root of what it has cancelled to 0."""
        values = [y for y in found.expected[: self.outputs] if y is not None and y.numel()]
        is_grad = position >= self.outputs and hasattr(self.rule.page, "FUNCTION")
        if is_grad and values and not any(bool(y.isfinite().any()) for y in values):
            return torch.ones_like(like, dtype=torch.bool)
        if is_grad and bool(like.isnan().any()) and _is_finite(found.case):
            return like.isnan()
        x = self._input(self.arguments[position], found.case)
        is_number = x is not None and x.is_floating_point()
        return x.cpu().isnan() if x is not None and is_number else torch.zeros_like(like, dtype=torch.bool)

    def _spreads_nan(self, case: Case, expected: Tensor, got: Tensor, is_output: bool) -> Tensor:
        """Where an input has NaN, and of what is due and what came one is NaN: whether a NaN is dropped by a function
        or multiplied by 0 is decided by no derivation, and the reference is one formula of several.  Where an output
        has it, no cotangent is judged.  Of a page without backward (a parameter that is NaN, times a decay of 0) it is
        in the NaN's own row that nothing is judged, and there alone."""
        got = got.detach().cpu()
        if case is self._spread:
            return torch.ones_like(got, dtype=torch.bool)
        apart = got.isnan() != expected.isnan()
        numbers = [x for x in case.inputs if x is not None and x.is_floating_point()]
        is_free = hasattr(self.rule.page, "FUNCTION") or not self.rule.has_backward
        if not is_free or not bool(apart.any()) or not _has_nan(case):
            return torch.zeros_like(apart)
        if not self.rule.has_backward:
            return apart & got.isnan() & _rows_with_nan(numbers, got)
        came = got.isnan() & apart
        if is_output and bool(came.any()):
            self.note("NaN in an input is NaN in results where the function has none")
            self._spread = case
        elif got.ndim:
            apart &= expected.isnan() | _rows_with_nan(numbers, got)
        return apart

    def _is_undefined(self, argument: str, case: Case, expected: Tensor, got: Tensor) -> Tensor:
        """Where somebody's function has no value at finite numbers, and what came is no number either: the logarithm
        that stands for acosh is -inf where acosh is NaN."""
        none = expected.isnan() & got.detach().cpu().isinf()
        if self.strict or not hasattr(self.rule.page, "FUNCTION") or not bool(none.any()) or not _is_finite(case):
            return torch.zeros_like(none)
        self.note(f"{argument} is infinite where the function itself is NaN at finite numbers: not judged there")
        return none

    def _through_nan(self, position: int, found: Evidence, beyond: Tensor) -> Tensor:
        """Where a cotangent depends on that of an output that is NaN: how a mask falls there (u > 0, or not u <= 0) is
        decided by no derivation.  Asked of the rule, with numbers in place of the NaN, and NaN in that cotangent."""
        case, through = found.case, torch.zeros_like(beyond)
        if position < self.outputs or not bool(beyond.any()) or not _has_nan(case):
            return through
        given = [x for x in case.inputs if x is not None]
        pairs = zip(found.expected[: self.outputs], parts(case.dy), strict=True)
        nan = [torch.zeros_like(dy.cpu()) > 0 if y is None else y.isnan() for y, dy in pairs if dy is not None]
        for scale in FILLED:
            inputs = [_filled(x, scale) if x.is_floating_point() else x for x in given]
            cotangents = case.tensors[len(given) :]
            hidden = [dy.masked_fill(n.to(dy.device), torch.nan) for dy, n in zip(cotangents, nan, strict=True)]
            try:
                was, is_ = (self._grad(case.with_tensors([*inputs, *dy]), position) for dy in (cotangents, hidden))
            except ValueError:  # not defined for these numbers
                continue
            through |= is_.isnan() & ~was.isnan()
        return through & beyond

    def _grad(self, case: Case, position: int) -> Tensor:
        """The rule's own cotangent."""
        found = self.rule.vjp(case.inputs, case.dy, **case.hyper)[1][position - self.outputs]
        assert found is not None
        return found.cpu()

    def _overflows_alike(self, position: int, found: Evidence, got: Tensor, ratio: Tensor) -> Tensor:
        """Where NaN came, a step on the way may overflow, and the page itself has NaN."""
        allowance = found.allowance[position]
        assert allowance is not None
        nan = (ratio > 1) & allowance.isinf() & got.detach().cpu().isnan()
        if bool(nan.any()):
            y, grads = self.rule.vjp(found.case.inputs, found.case.dy, **found.case.hyper)
            own = (*parts(y), *grads)[position]
            assert own is not None
            nan &= own.cpu().isnan()
        return nan

    def _overflows_on_the_way(self, argument: str, case: Case, expected: Tensor, got: Tensor, beyond: Tensor) -> Tensor:
        """Where no number came, one is due, and a step of the function itself overflows, in the arithmetic that was
        promised: nobody said that the function is of use there.  A number that came is judged there as elsewhere."""
        none = beyond & expected.isfinite() & ~got.detach().cpu().isfinite()
        if self.strict or not hasattr(self.rule.page, "FUNCTION") or not bool(none.any()):
            return torch.zeros_like(none)
        there = in_dtype(case, self.kinds.contract.compute, "cpu")
        inputs = tuple(None if x is None else x.clone() for x in there.inputs)  # it may write into them
        found = self.rule.page.WITHOUT_OVERFLOWN(inputs, there.dy, case.hyper)
        if not found:
            return torch.zeros_like(none)
        none &= found[self.arguments.index(argument)].isnan()
        if bool(none.any()):
            self.note(f"{argument} is NaN or infinite where a step of the function itself overflows: not judged there")
        return none

    def _on_either_side(self, argument: str, found: Evidence, got: Tensor, beyond: Tensor) -> Tensor:
        """Where the precision under test cannot tell on which side of a kink it is, and what came is right on one."""
        here, position = torch.zeros_like(beyond), self.arguments.index(argument)
        if bool(beyond.any()):
            knows = self.kinds.knows_kinks(found)
            few_bits = partial(self.kinds.excuses.is_of_few_bits, found, position, got)
            for words, where in self._either_side.told(found.case, position, got, beyond, knows, few_bits):
                self.note(f"{argument}: {words}")
                here |= where
        return here

    def trap(self, argument: str, case: Case, detail: str) -> None:
        self.report.mismatches.append(Mismatch("trap", argument, case.name, detail))


def _rows_with_nan(inputs: Sequence[Tensor], like: Tensor) -> Tensor:
    """The rows of a result beside which an input has NaN; all, if no input has such rows."""
    if not like.ndim:
        return torch.ones_like(like, dtype=torch.bool)
    rows = [x.cpu().reshape(len(x), -1).isnan().any(1) for x in inputs if x.ndim and len(x) == len(like)]
    beside = torch.stack([*rows, rows[0]]).any(0) if rows else torch.ones(len(like), dtype=torch.bool)
    return beside.reshape(-1, *(1,) * (like.ndim - 1))


def _is_finite(case: Case) -> bool:
    return all(bool(x.isfinite().all()) for x in case.tensors if x.is_floating_point())


def _has_nan(case: Case) -> bool:
    """Whether an input has NaN."""
    return any(x is not None and bool(x.isnan().any()) for x in case.inputs)


def _filled(x: Tensor, scale: float) -> Tensor:
    """Other numbers of it, times a scale, in place of NaN; the scale itself if it has no others."""
    others = x[~x.isnan()] if not bool(x.isnan().all()) else torch.ones_like(x).reshape(-1)
    repeated = others[torch.arange(x.numel(), device=x.device) % len(others)].reshape(x.shape)
    return torch.where(x.isnan(), scale * repeated, x)


def _came(value: Any) -> str:
    """What came in place of a tensor."""
    if value is None:
        return "None came"
    hint = "; wrap functions on arrays with from_functions" if hasattr(value, "__array__") else ""
    return f"a {named_type(value)} came{hint}"
