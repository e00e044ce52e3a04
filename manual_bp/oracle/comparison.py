"""`compare` and `check`: one candidate, one rule, one report."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import Contract, contract_of, widths
from manual_bp.oracle.cases import NOT_RECORDED, Case, generated
from manual_bp.oracle.conventions import Conventions
from manual_bp.oracle.diagnosis import Record, diagnose
from manual_bp.oracle.errors import errors
from manual_bp.oracle.evidence import Evidence, certified_module, evidence, generated_evidence
from manual_bp.oracle.pattern import pattern
from manual_bp.oracle.report import Mismatch, Report, Worst
from manual_bp.rule import DTYPES, RULES, Rule, Vjp

NOTES = ("digits", "16-bit")
"""Kinds of mismatch that are notes unless the comparison is strict."""


OTHER_PRECISION = {
    torch.float64: torch.float32,
    torch.float32: torch.float64,
    torch.bfloat16: torch.float32,
    torch.float16: torch.float32,
}
ONE = torch.ones((), dtype=torch.float64)
# A rounding error shrinks with eps, give or take a factor of luck; a wrong formula's does not shrink.
LUCK = 1000.0


class GradientMismatch(AssertionError):
    """A candidate's gradient is wrong; the message is the whole report."""

    def __init__(self, report: Report) -> None:
        super().__init__(str(report))
        self.report = report


def check(candidate: Vjp | None, rule: str | Rule, **options: Any) -> Report:
    """`compare`, raising GradientMismatch (an AssertionError) with the report's text unless it passed."""
    report = compare(candidate, rule, **options)
    if not report.passed:
        raise GradientMismatch(report)
    return report


def compare(
    candidate: Vjp | None,
    rule: str | Rule,
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    cases: Sequence[Case] | None = None,
    contract: Contract | None = None,
    conventions: Mapping[str, Any] | None = None,
    strict: bool = False,
) -> Report:
    """Judge a candidate's value and cotangents against the rule's reference.

    candidate: a Vjp; None to judge results recorded in `cases`. cases: replaces the generated ones; their
    floating-point inputs must have `dtype`. contract: the precisions in which the candidate promises to compute and
    store; by default 16-bit inputs are computed in
        float32 and rounded once.
    conventions: what the candidate declares to do otherwise than the rule (see `manual_bp.oracle.conventions`).
    strict: lost digits and 16-bit arithmetic are mismatches and not notes.
    Raises ValueError for an unknown rule, dtype or convention, or a case that does not fit the rule.
    """
    rule = RULES[rule] if isinstance(rule, str) else rule
    if not isinstance(rule, Rule):
        raise ValueError(f"rule must be a rule or its name; came {rule!r}. The names are {', '.join(RULES)}.")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device must be one that torch can use here; came {device!r}: {error}") from None
    if contract is not None and not isinstance(contract, Contract):
        raise ValueError(f"contract must be a Contract(compute, storage); came {contract!r}.")
    if dtype not in DTYPES:
        raise ValueError(
            f"dtype must be one of {[str(d) for d in DTYPES]}; came {dtype}. Pass dtype=torch.float32, say."
        )
    if candidate is None and cases is None:
        raise ValueError(
            "without a candidate there is nothing to judge; came candidate=None and no cases. Pass recorded cases=."
        )
    contract = contract or contract_of(dtype)
    declared = Conventions.declared(conventions)
    found: Iterable[Evidence | str]
    if cases is None and RULES.get(rule.name) is rule:
        found = generated_evidence(rule, dtype, device, contract, declared)
    else:
        chosen = generated(rule, dtype, device) if cases is None else cases
        found = (evidence(rule, _supplied(rule, case, dtype, device), contract, declared) for case in chosen)
    comparison = _Comparison(rule, dtype, device, contract, declared, strict)
    for item in found:
        comparison.judge_case(candidate, item)
    return comparison.finish()


def rejects(candidate: Vjp, rule: Rule, dtype: torch.dtype, device: str = "cpu") -> bool:
    """Whether the strict comparison finds anything wrong with a candidate; it stops at the first mismatch."""
    contract = contract_of(dtype)
    comparison = _Comparison(rule, dtype, device, contract, Conventions(), strict=True)
    for item in generated_evidence(rule, dtype, device, contract):
        comparison.judge_case(candidate, item)
        if comparison.report.mismatches:
            return True
    return False


def _supplied(rule: Rule, case: Case, dtype: torch.dtype, device: str) -> Case:
    """A user's case as tensors on the device, checked."""
    if not isinstance(case, Case):
        raise ValueError(f"cases must be Case(inputs, dy, ...); came a {type(case).__name__}.")
    try:
        inputs = tuple(_tensor(x, dtype, device) for x in case.inputs)
        dy = _tensor(case.dy, dtype, device)
        hyper = dict(case.hyper)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"case {case.name!r}: inputs must be a tuple of tensors, arrays or lists of numbers, dy one of these, and "
            f"hyper a mapping; {error}"
        ) from error
    numbers = [x for x, name in zip(inputs, rule.inputs, strict=False) if rule.is_number(name)]
    wrong = [str(x.dtype) for x in (*numbers, dy) if x.dtype != dtype]
    if wrong:
        raise ValueError(
            f"case {case.name!r}: floating-point inputs and dy must have dtype {dtype}; came {wrong[0]}. "
            "Pass that dtype to compare, or cast the case."
        )
    y, _ = rule.forward(*inputs, **hyper)
    if dy.shape != y.shape:
        raise ValueError(f"case {case.name!r}: dy must be shaped like y, {tuple(y.shape)}; came {tuple(dy.shape)}.")
    if case.grads is not None and len(case.grads) != len(rule.inputs):
        raise ValueError(
            f"case {case.name!r}: grads must hold one entry per input {list(rule.inputs)}; came {len(case.grads)}. "
            "Put NOT_RECORDED for a missing one."
        )
    return Case(inputs, dy, case.hyper, case.name, case.y, case.grads)


def _tensor(x: Any, dtype: torch.dtype, device: str) -> Tensor:
    """A tensor or an array as it is, and a list of numbers in `dtype`."""
    if hasattr(x, "dtype"):
        return torch.as_tensor(x, device=device)
    plain = torch.tensor(x)
    return plain.to(device) if plain.dtype == torch.bool else torch.tensor(x, dtype=torch.float64).to(device, dtype)


class _Comparison:
    """One run of `compare`: gathers a report, case by case."""

    def __init__(
        self, rule: Rule, dtype: torch.dtype, device: str, contract: Contract, conventions: Conventions, strict: bool
    ) -> None:
        self.rule = rule
        self.dtype = dtype
        self.contract = contract
        self.conventions = conventions
        self.strict = strict
        self.report = Report(rule.name, str(dtype).removeprefix("torch."), device)
        self.arguments = ("y", *(f"d{name}" for name in rule.inputs))
        self.required = ("y", *(f"d{name}" for name, spec in rule.inputs.items() if spec.cotangent))
        self.report.worst = {argument: Worst() for argument in self.required}
        self.tested: set[str] = set()
        self.candidate: Vjp | None = None
        self.records: list[Record] = []

    def judge_case(self, candidate: Vjp | None, found: Evidence | str) -> None:
        if isinstance(found, str):
            self.report.not_tested.append(found)
            return
        case, self.candidate = found.case, candidate
        results = self._recorded(case) if candidate is None else self._called(candidate, case)
        if results is None:
            return
        self.report.cases += 1
        self.records.append(Record(found, results))
        if found.dispute:
            self.report.mismatches.append(
                Mismatch("wrong", "y", case.name, f"the page's forward is not torch's function: {found.dispute}")
            )
            return
        for argument, got in zip(self.arguments, results, strict=True):
            if got is not NOT_RECORDED and self._fits(argument, found, got):
                self._judge(argument, found, got, results[1:])

    def finish(self) -> Report:
        if certified_module() is None:
            self.report.not_tested.append(
                "certified truth: python-flint is not installed, so torch in float64 stands for it, and a convention "
                "at a kink cannot be told from an error; pip install 'manual-bp[truth]'"
            )
        left_out = [a for a in self.required if self._is_optional(a) and not self.report.worst[a].by_case]
        self.report.untested_arguments = [a for a in self.required if a not in (*self.tested, *left_out)]
        why = (
            "in no case was there anything to tell a right value from a wrong one"
            if self.report.cases
            else "no case came so far that a result could be judged"
        )
        self.report.not_tested += [f"{a}: {why}" for a in self.report.untested_arguments]
        wrong = {m.argument for m in self.report.mismatches if m.kind == "wrong"}
        if wrong:
            try:
                self.report.diagnoses = diagnose(self.rule, self.candidate, self.records, wrong)
            except Exception as error:  # the verdict stands without it, and the failure is said
                self.report.notes.append(f"no diagnosis: it raised {type(error).__name__}: {error}")
        return self.report

    def _recorded(self, case: Case) -> tuple[Any, ...]:
        y = NOT_RECORDED if case.y is None else case.y
        grads = case.grads if case.grads is not None else (NOT_RECORDED,) * len(self.rule.inputs)
        return tuple(
            g if g is None or g is NOT_RECORDED else _tensor(g, self.dtype, self.report.device) for g in (y, *grads)
        )

    def _called(self, candidate: Vjp, case: Case) -> tuple[Any, ...] | None:
        hyper = self._passable(candidate, case)
        if hyper is None:
            return None
        # The candidate gets copies with the same strides, so that whatever it does to them, the case stays as it is.
        inputs, dy = tuple(_copy(x) for x in case.inputs), _copy(case.dy)
        try:
            returned = candidate(inputs, dy, **hyper)
        except (Exception, SystemExit) as error:
            trace = traceback.format_exc(limit=-3)
            self._trap("y", case, f"raised {type(error).__name__}: {error}")
            self.report.findings.append(f"case {case.name!r}: {trace}")
            return None
        for name, given, x in zip((*self.rule.inputs, "dy"), (*inputs, dy), (*case.inputs, case.dy), strict=True):
            if not torch.equal(_comparable(given), _comparable(x)):
                self._trap(name, case, "the candidate overwrote its argument")
        results = self._unpacked(returned, case)
        if results is not None and case.name == "ordinary":
            self._compare_two_runs(candidate, case, hyper, results)
        return results

    def _compare_two_runs(self, candidate: Vjp, case: Case, hyper: dict[str, Any], first: tuple[Any, ...]) -> None:
        """Bit for bit; a candidate with atomic additions may differ, which is right but worth knowing."""
        try:
            y, grads = candidate(tuple(_copy(x) for x in case.inputs), _copy(case.dy), **hyper)
        except Exception as error:
            self._trap("y", case, f"raised {type(error).__name__} when it was called again: {error}")
            return
        for argument, a, b in zip(self.arguments, first, (y, *grads), strict=False):
            if isinstance(a, Tensor) and isinstance(b, Tensor) and not _same_bits(a, b):
                text = f"{argument} differs between two runs on the same input"
                if self.strict:
                    self._trap(argument, case, text)
                else:
                    self._note_once(text)

    def _unpacked(self, returned: Any, case: Case) -> tuple[Any, ...] | None:
        """y and the cotangents in one tuple, if that is what was returned."""
        if not (isinstance(returned, tuple | list) and len(returned) == 2):
            self._trap("y", case, f"(y, grads) is due; {_described(returned)} came")
            return None
        y, grads = returned
        if not isinstance(grads, tuple | list):
            self._trap("y", case, f"grads must be a tuple with one entry per input; {_described(grads)} came")
            return None
        if len(grads) != len(self.rule.inputs):
            self._trap("y", case, f"{len(self.rule.inputs)} cotangents are due, {len(grads)} came")
            return None
        return (y, *grads)

    def _passable(self, candidate: Vjp, case: Case) -> dict[str, Any] | None:
        """The case's hyperparameters, if the candidate's signature takes them all; a default need not be passed."""
        try:
            parameters = inspect.signature(candidate).parameters.values()
        except (ValueError, TypeError):  # a builtin without a signature
            return dict(case.hyper)
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            return dict(case.hyper)
        names = {p.name for p in parameters}
        lacking = {n: v for n, v in case.hyper.items() if n not in names and v != self.rule.defaults.get(n)}
        if lacking:
            self.report.not_tested.append(f"case {case.name!r}: the candidate takes no {', '.join(lacking)}")
            return None
        return {n: v for n, v in case.hyper.items() if n in names}

    def _fits(self, argument: str, found: Evidence, got: Any) -> bool:
        """Whether a result is of the right kind at all: there or not, shape, dtype, device."""
        position = self.arguments.index(argument)
        expected, case = found.expected[position], found.case
        if expected is None:
            if got is not None:
                self._trap(argument, case, "this input has no cotangent: None is due")
            return False
        if got is None and self._is_optional(argument):
            self._note_once(f"{argument} is None: it is optional and was not judged")
            return False
        if not isinstance(got, Tensor):
            self._trap(argument, case, f"a tensor is due, {'None' if got is None else type(got).__name__} came")
            return False
        if got.layout is not torch.strided or got.is_quantized:
            self._trap(argument, case, f"a dense tensor is due, one of layout {got.layout} came")
            return False
        for what, is_, should in (
            ("shape", tuple(got.shape), tuple(expected.shape)),
            ("dtype", got.dtype, self.dtype),
            ("device", got.device.type, case.dy.device.type),
        ):
            if is_ != should:
                self._trap(argument, case, f"{what} must be {should}; came {is_}")
                return False
        return True

    def _is_optional(self, argument: str) -> bool:
        return argument != "y" and self.rule.inputs[argument.removeprefix("d")].optional

    def _note_once(self, text: str) -> None:
        if text not in self.report.notes:
            self.report.notes.append(text)

    def _judge(self, argument: str, found: Evidence, got: Tensor, grads: Sequence[Any]) -> None:
        position = self.arguments.index(argument)
        expected, allowance = found.expected[position], found.allowance[position]
        assert expected is not None
        assert allowance is not None
        if not expected.numel():
            return
        ratio, ulps = errors(got, expected, allowance, self.dtype)
        ratio, ulps = self._excused(argument, found, ratio), self._excused(argument, found, ulps)
        # Something was tested where neither 0 nor a flushed result would have passed.
        if bool(((expected.abs() > allowance) & (expected.abs() >= torch.finfo(self.dtype).smallest_normal)).any()):
            self.tested.add(argument)
        worst = int(torch.argmax(ratio.reshape(-1)))
        if self._as_declared(found, position, grads, ratio > 1):
            self._note_once(f"{argument}: at kinks or ties a valid subgradient other than the rule's, as declared")
            return
        self.report.worst[argument].note(float(ratio.max()), float(ulps.max()))
        if float(ratio.reshape(-1)[worst]) <= 1:
            return
        kind, detail = self._explain(argument, found, got, grads, ratio > 1)
        mismatch = Mismatch(
            kind,
            argument,
            found.case.name,
            detail,
            tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), expected.shape)),
            float(expected.reshape(-1)[worst]),
            float(got.reshape(-1)[worst]),
            float(ulps.reshape(-1)[worst]),
            float(ratio.reshape(-1)[worst]),
            pattern(ratio > 1, expected, got, allowance),
        )
        if kind in NOTES and not self.strict:
            self.report.notes.append(str(mismatch))
        else:
            self.report.mismatches.append(mismatch)

    def _excused(self, argument: str, found: Evidence, error: Tensor) -> Tensor:
        """`error`, with 0 for the gradient at a NaN input, which is not judged."""
        if argument == "y":
            return error
        like = found.case.inputs[self.arguments.index(argument) - 1].cpu()
        return torch.where(like.isnan(), 0, error) if like.is_floating_point() else error

    def _explain(
        self, argument: str, found: Evidence, got: Tensor, grads: Sequence[Any], beyond: Tensor
    ) -> tuple[str, str]:
        """What kind of mismatch it is, and a few words."""
        position = self.arguments.index(argument)
        case, expected = found.case, found.expected[position]
        kinks = found.kinks[position]
        assert expected is not None
        assert kinks is not None
        error = (got.cpu().double() - expected).abs()
        if position and bool(kinks[beyond].all()) and self._is_subgradient(found, grads):
            return "convention", "a valid subgradient, and not the one of the declared convention"

        def within(contract: Contract, formula: Any = None) -> bool:
            found = widths(self.rule, case.inputs, case.dy, contract, backward=formula, **case.hyper)
            width = (found.y, *found.grads)[position]
            assert width is not None
            # Where a right program may overflow the bound is infinite: nothing can be said there, of a NaN neither.
            return bool(((error <= width) | width.isinf())[beyond].all())

        narrow = Contract(self.dtype, self.dtype)
        if self.contract != narrow and within(narrow):
            return "16-bit", f"right for arithmetic in {self.report.dtype}, not for {self.contract.compute}"
        for mistake in self.rule.mistakes if position else ():
            if mistake.loses_digits and (within(self.contract, mistake.backward) or within(narrow, mistake.backward)):
                return "digits", f"loses digits, as the formula {mistake.name} does"
        if self._is_rounding(position, found, error, beyond):
            return "digits", "loses digits: its error shrinks with the precision, as that of a wrong formula would not"
        return "wrong", ""

    def _is_rounding(self, position: int, found: Evidence, error: Tensor, beyond: Tensor) -> bool:
        """Whether the candidate's error is rounding error: so much smaller in the finer of two precisions."""
        if self.candidate is None:
            return False
        other = OTHER_PRECISION[self.dtype]
        case = found.case
        cast = tuple(x.to(other) if x.is_floating_point() else x for x in (*case.inputs, case.dy))
        recast = evidence(self.rule, replace(case, inputs=cast[:-1], dy=cast[-1]), contract_of(other), self.conventions)
        if isinstance(recast, str):
            return False
        try:
            y, grads = self.candidate(tuple(_copy(x) for x in cast[:-1]), _copy(cast[-1]), **case.hyper)
            there, _ = errors((y, *grads)[position], recast.expected[position], ONE, torch.float64)  # type: ignore[arg-type]
        except Exception:  # it cannot do that precision: nothing is learnt
            return False
        eps, other_eps = torch.finfo(self.dtype).eps, torch.finfo(other).eps
        fine, coarse = (error, there) if eps < other_eps else (there, error)
        shrinks = LUCK * min(eps, other_eps) / max(eps, other_eps)
        return bool((fine <= shrinks * coarse)[beyond].all())

    def _as_declared(self, found: Evidence, position: int, grads: Sequence[Any], beyond: Tensor) -> bool:
        """Whether all that differs is a kink or tie, where any subgradient was declared and this is one."""
        kinks = found.kinks[position]
        if position == 0 or kinks is None or not bool(beyond.any()) or not bool(kinks[beyond].all()):
            return False
        return self.conventions.any_subgradient(self.rule) and self._is_subgradient(found, grads)

    def _is_subgradient(self, found: Evidence, grads: Sequence[Any]) -> bool:
        balls = certified_module()
        if balls is None or not all(g is None or isinstance(g, Tensor) for g in grads):
            return False
        case = found.case
        inputs = tuple(x.detach().cpu() for x in case.inputs)
        cpu = tuple(None if g is None else g.detach().cpu() for g in grads)
        return bool(balls.is_subgradient(self.rule, inputs, case.dy.cpu(), cpu, **case.hyper).passed)

    def _trap(self, argument: str, case: Case, detail: str) -> None:
        self.report.mismatches.append(Mismatch("trap", argument, case.name, detail))


def _copy(x: Tensor) -> Tensor:
    """The same values with the same strides and offset, in memory of its own."""
    storage = torch.UntypedStorage.clone(x.untyped_storage())  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=x.dtype, device=x.device).set_(storage, x.storage_offset(), x.size(), x.stride())


def _same_bits(a: Tensor, b: Tensor) -> bool:
    if (a.shape, a.dtype, a.layout) != (b.shape, b.dtype, b.layout):
        return False
    return a.layout is not torch.strided or torch.equal(_comparable(a), _comparable(b))


def _comparable(x: Tensor) -> Tensor:
    """The values with NaN made comparable."""
    x = x.detach()
    return torch.nan_to_num(x, nan=12345.0) if x.is_floating_point() else x


def _described(value: Any) -> str:
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, tuple | list) else "")
