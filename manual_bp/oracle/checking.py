"""`compare` and `check`: one candidate, one rule, one report."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import Contract, contract_of
from manual_bp.oracle.calling.accepted import for_inputs, for_rule, require_candidate, variants
from manual_bp.oracle.calling.surroundings import plain
from manual_bp.oracle.case import Case, Further
from manual_bp.oracle.cases.declared import Declared
from manual_bp.oracle.cases.supplied import supplied
from manual_bp.oracle.cases.variation import in_precision
from manual_bp.oracle.comparison import Comparison
from manual_bp.oracle.excuses import FINER, SHRINKS, result_of
from manual_bp.oracle.explaining import explain
from manual_bp.oracle.functions import rule_of
from manual_bp.oracle.own_masks import compare_own_mask, with_the_other
from manual_bp.oracle.own_sizes import judge_own_sizes, lengths_of
from manual_bp.oracle.practice import compare_practice, is_practice
from manual_bp.oracle.reports.report import Report
from manual_bp.oracle.truth.conventions import Conventions
from manual_bp.oracle.truth.evidence import Evidence, evidence
from manual_bp.oracle.truth.kept import Generated, generated_evidence, said
from manual_bp.oracle.words import counted
from manual_bp.outputs import parts
from manual_bp.registry import RULES
from manual_bp.rule import Rule, Vjp, as_vjp
from manual_bp.signature import DTYPES

# For so long the cause of what is wrong is sought, unless it is said otherwise.
SECONDS = 3.0


class GradientMismatch(AssertionError):
    """A candidate's gradient is wrong; the message is the whole report."""

    def __init__(self, report: Report) -> None:
        super().__init__(str(report))
        self.report = report


def check(candidate: Vjp | None, rule: str | Rule | Callable[..., Any], **options: Any) -> Report:
    """`compare`, raising GradientMismatch (an AssertionError) with the report's text unless it passed."""
    report = compare(candidate, rule, **options)
    if not report.passed:
        raise GradientMismatch(report)
    return report


@plain()
def compare(
    candidate: Vjp | None,
    rule: str | Rule | Callable[..., Any],
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    cases: Sequence[Case] | None = None,
    contract: Contract | None = None,
    conventions: Mapping[str, Any] | None = None,
    strict: bool = False,
    diagnose: float = SECONDS,
    on_verdict: Callable[[Report], None] | None = None,
    hyper: Mapping[str, Any] | None = None,
    ndim: int | Sequence[int] | None = None,
    min_size: int = 0,
    given: str | Sequence[str] = (),
    inputs: Mapping[str, Any] | None = None,
    sizes: Mapping[str, int | tuple[int, ...]] | None = None,
    mask: str = "",
) -> Report:
    """Judge a candidate's value and cotangents against the rule's reference.

    rule: a rule or its name; or any differentiable torch function, which is then the reference itself; or a practice of
        training, "early_stopping", "overfitting" or "augmentation" (see `manual_bp.oracle.practice`).
    inputs: of such a function, by parameter: a shape, a tensor, an `Input` or `Index`, or a function that draws (see
        `manual_bp.oracle.functions`); what annotations or `cases` tell need not be said.
    sizes: lengths of axes by name, of a case of one's own that is judged beside the others, block by block if it is
        large (`manual_bp.oracle.own_sizes`).
    candidate: a Vjp; None to judge results recorded in `cases`. cases: replaces the generated ones; their
    floating-point inputs must have `dtype`. contract: the precisions in which the candidate promises to compute and
    store; by default 16-bit inputs are computed in
        float32 and rounded once.
    conventions: what the candidate declares to do otherwise than the rule (see `manual_bp.oracle.truth.conventions`).
    strict: lost digits and 16-bit arithmetic are mismatches and not notes.
    diagnose: seconds that the search for the cause of what is wrong may take; 0 for none.
    on_verdict: is called with the report when all is judged, before a cause is sought.
    hyper: values of hyperparameters that are all that the candidate promises; only cases with them are made.
    ndim, min_size: numbers of axes of the rule's first input, and the shortest axis of any input, for which the
        candidate is meant.  No other case is made, nor one of `cases` judged.
    given: inputs that may be absent, and which the candidate always has, such as ("weight",).  (See
        `manual_bp.oracle.cases.declared` for all four.)
    mask: "own" for a candidate that draws its own: it takes the other inputs alone, and its mask is read off y (see
        `manual_bp.oracle.own_masks`).
    Raises ValueError for an unknown rule, dtype or convention, a case that does not fit the rule, or a
    declaration that no case can fit.
    """
    if isinstance(rule, str) and is_practice(rule):
        if candidate is None:
            raise ValueError(f"{rule} is judged by calling a candidate; came None.")
        report = compare_practice(candidate, rule, hyper, conventions)
        if on_verdict is not None:
            on_verdict(report)
        return report
    if candidate is not None:
        require_candidate(candidate)
    if isinstance(cases, Case):
        raise ValueError("cases must be a list of Case; came one alone. Pass cases=[case].")
    rule = rule_of(rule, inputs, hyper, cases)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device must be one that torch can use here; came {device!r}: {error}") from None
    if contract is not None and not isinstance(contract, Contract):
        raise ValueError(f"contract must be a Contract(compute, storage); came {contract!r}.")
    if dtype not in DTYPES:
        raise ValueError(
            f"dtype must be one of {[str(d) for d in DTYPES]}; came {dtype!r}. Pass dtype=torch.float32, say."
        )
    if candidate is None and cases is None:
        raise ValueError(
            "without a candidate there is nothing to judge; came candidate=None and no cases. Pass recorded cases=."
        )
    if not diagnose >= 0:
        raise ValueError(
            f"diagnose must be the seconds that the search for a cause may take, 0 or more; came {diagnose}."
        )
    if mask not in ("", "own"):
        raise ValueError(f"mask must be 'own', for a candidate that draws its own, or left out; came {mask!r}.")
    if mask:
        if candidate is None or cases is not None or device != "cpu":
            raise ValueError("mask='own' is for a candidate that is called, on the cpu, without cases=.")
        how: dict[str, Any] = {"contract": contract, "conventions": conventions, "strict": strict}
        return compare_own_mask(
            candidate, rule, compare, dtype=dtype, hyper=hyper, on_verdict=on_verdict, diagnose=diagnose, **how
        )
    contract = contract or contract_of(dtype)
    chosen_conventions = Conventions.declared(rule, conventions)
    rule = chosen_conventions.applied(rule)
    pieces = vars(candidate).get("pieces") if inspect.isfunction(candidate) else None
    if candidate is not None:
        candidate = for_rule(for_inputs(candidate, tuple(rule.inputs)), rule)
    declared = Declared.of(rule, hyper, ndim, min_size, given).taking(rule, candidate)
    sizes = sizes or getattr(rule.page, "OWN_SIZES", {})
    lengths_of(rule, sizes)
    is_kept = RULES.get(rule.name) is rule or hasattr(rule.page, "FUNCTION")
    rule = declared.rule(rule)
    found: Iterable[Evidence | str]
    without: list[str] = []
    if cases is None:
        made = generated_evidence if is_kept else Generated
        found = made(rule, dtype, device, contract, chosen_conventions, declared)
        is_generated = True
    else:
        completed = (declared.completed(supplied(rule, case, dtype, device)) for case in cases)
        cases = [case for case in completed if declared.fits(rule, case.inputs, case.hyper)]
        without = [case.name for case in cases if candidate is None and not case.is_recorded]
        cases = [case for case in cases if candidate is not None or case.is_recorded]
        found = (
            said(case, item) if isinstance(item := evidence(rule, case, contract, chosen_conventions), str) else item
            for case in cases
        )
        is_generated = False
    comparison = Comparison(candidate, rule, dtype, device, contract, chosen_conventions, strict, declared=declared)
    if isinstance(found, Generated):
        _judge_generated(comparison, found)
    else:
        for item in found:
            comparison.judge_case(item)
    if sizes and candidate is not None and not comparison.report.mismatches:
        judge_own_sizes(comparison, sizes, getattr(rule.page, "OWN", {}))
    if without:
        some = f"{counted(len(without), 'case')} without results"
        comparison.report.untested_arguments.append(some)
        comparison.report.not_tested.append(f"{some}, such as {without[0]!r}: put what the program got into them")
    report = comparison.finish(is_generated)
    if on_verdict is not None:
        on_verdict(report)
    explain(comparison, diagnose, pieces)
    if is_generated and candidate is not None and report.raised and not report.cases:
        report.diagnoses += with_the_other(candidate, rule, dtype, own=False)
    narrow = Contract(dtype, dtype)
    if isinstance(found, Generated) and diagnose and not report.diagnoses and contract != narrow:
        report.diagnoses += _of_the_storage(comparison, made(rule, dtype, device, narrow, chosen_conventions, declared))
    return report


def _of_the_storage(wrong: Comparison, found: Generated) -> list[str]:
    """That a candidate without a known cause is right if it may compute in the precision in which it stores.

    found: the evidence under that contract; first where the candidate was wrong, as one is hardly ever right there.
    """
    if not wrong.report.mismatches or any(m.kind != "wrong" for m in wrong.report.mismatches):
        return []
    if _stays_in_finer(wrong):
        return []
    again = _under(wrong, found.contract)
    names = {m.case for m in wrong.report.mismatches}
    positions, missing = [], set(names)
    for position, case in enumerate(found.cases):
        if isinstance(case, Further) and not missing:
            break  # which are made when they are asked for
        if case.name in names:
            positions.append(position)
            missing.discard(case.name)
    for position in positions:
        again.judge_case(found.at(position))
    if again.report.mismatches or again.report.cases < len(positions):  # what is not judged there is not right
        return []
    again = _under(wrong, found.contract)
    _judge_generated(again, found)
    if again.report.mismatches:
        return []
    name = str(found.contract.storage)
    words = name.removeprefix("torch.")
    return [
        f"it is right for a program that computes in {words} throughout, and not in float32; if that is all that it "
        f"promises, declare contract=Contract({name}, {name})"
    ]


def _stays_in_finer(wrong: Comparison) -> bool:
    """Whether what is off is much the same where the candidate is called in the next finer precision: then it is no
    rounding.  Nothing is learnt from one that cannot do that, or returns the same numbers there."""
    cases, finer = {m.case for m in wrong.report.mismatches}, FINER[wrong.dtype]
    for found, results in (r for r in wrong.records if r.evidence.case.name in cases and r.evidence.row is None):
        for position, (due, width) in enumerate(zip(found.expected, found.allowance, strict=True)):
            got = results[position]
            if due is None or width is None or not isinstance(got, Tensor) or got.shape != due.shape:
                continue
            error = (got.detach().cpu().double() - due).abs()
            if wrong.candidate is None or not bool((error > width).any()):
                continue
            there = result_of(wrong.candidate, wrong.rule, in_precision(found.case, finer), position, due)
            if there is None or torch.equal(there, there.to(wrong.dtype).double()):
                continue
            if bool(((there - due).abs() > SHRINKS * error)[error > width].any()):
                return True
    return False


def _under(comparison: Comparison, contract: Contract) -> Comparison:
    """A new run of the same candidate, which promises another precision."""
    return Comparison(
        comparison.candidate,
        comparison.rule,
        comparison.dtype,
        comparison.report.device,
        contract,
        comparison.conventions,
        comparison.strict,
        declared=comparison.declared,
    )


def _judge_generated(comparison: Comparison, found: Generated, chosen: Callable[[Case], bool] = lambda _: True) -> None:
    """Judge a candidate at the generated cases that are chosen, and by what is tried beside them."""
    first: Evidence | str = ""
    for position, case in enumerate(found.cases):
        if isinstance(case, Further) and comparison.report.mismatches:
            break  # they come last, and would say nothing new
        if chosen(case):
            item = found.at(position)
            first = first or item
            comparison.judge_case(item)
    if isinstance(first, Evidence):
        for name, variant in variants(comparison.candidate).items():
            comparison.judge_case(replace(first, case=replace(first.case, name=name)), variant)
        comparison.judge_defaults(first)
        comparison.repeat()
        comparison.try_beside()


@plain()
def compare_page(
    rule: Rule, dtype: torch.dtype, device: str, chosen: Callable[[Case], bool], diagnose: float = SECONDS
) -> Report:
    """`compare` of a registered rule itself, strictly, at those of the generated cases that are chosen."""
    contract = contract_of(dtype)
    comparison = Comparison(rule.candidate, rule, dtype, device, contract, Conventions(), strict=True)
    _judge_generated(comparison, generated_evidence(rule, dtype, device, contract), chosen)
    report = comparison.finish(generated=True)
    explain(comparison, diagnose)
    return report


@plain()
def rejects(candidate: Vjp, rule: Rule, dtype: torch.dtype, device: str = "cpu") -> bool:
    """Whether the strict comparison finds anything wrong with what a candidate returns; it stops at the first mismatch.

    That it raises is none: whoever raises has not been told from a right program by what is allowed.
    """
    contract = contract_of(dtype)
    comparison = Comparison(candidate, rule, dtype, device, contract, Conventions(), strict=True, kinds=False)
    found = generated_evidence(rule, dtype, device, contract)
    for item in found:  # what its numbers show is seen first: the whole of a judgement takes ten calls
        if isinstance(item, Evidence) and (results := _results(as_vjp(rule, candidate), item.case)) is not None:
            comparison.judge_results(candidate, item, results)
        if comparison.report.mismatches:
            return True
    for item in found:
        comparison.judge_case(item)
        if any(not m.detail.startswith("raised ") for m in comparison.report.mismatches):
            return True
    return False


def _results(candidate: Vjp, case: Case) -> tuple[Any, ...] | None:
    """What a candidate returns for copies of a case's tensors; None if it raises."""
    copied = case.with_tensors(x.clone() for x in case.tensors)
    try:
        y, grads = candidate(copied.inputs, copied.dy, **copied.hyper)
    except Exception:
        return None
    return (*parts(y), *grads)
