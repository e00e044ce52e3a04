"""Verification: every rule against its evidence in every dtype, every mistake against the comparison."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import contract_of
from manual_bp.oracle.candidates import candidate
from manual_bp.oracle.cases import draw
from manual_bp.oracle.comparison import compare, rejects
from manual_bp.oracle.errors import ulp
from manual_bp.oracle.evidence import Evidence, generated_evidence
from manual_bp.rule import RULES, Rule, Vjp

# What a mistake that only loses digits is judged in: in 16 bits it is computed in float32 and may be right.
WIDE = (torch.float64, torch.float32)


@dataclass
class Against:
    """The largest difference from somebody else, in ulp.  An element-wise rule is measured at each element; any other
    in the last place of the tensor's largest element, since terms that cancel leave small elements without digits."""

    forward: float = 0.0
    backward: float = 0.0


@dataclass
class RuleVerdict:
    """One rule in one dtype.

    by_case: per argument, the largest error over allowance in each case.
    loose: the arguments whose allowance is too wide, in words.
    against_torch: the rule and torch.autograd in the same dtype.
    truth, torch_truth: the rule, and torch, against certified truth (where a case is certified).
    survivors: mistakes that the comparison let pass.
    """

    rule: str
    dtype: str
    passed: bool = False
    cases: int = 0
    error_over_allowance: float = 0.0
    by_case: dict[str, list[float]] = field(default_factory=dict)
    loose: list[str] = field(default_factory=list)
    against_torch: Against = field(default_factory=Against)
    truth: Against = field(default_factory=Against)
    torch_truth: Against = field(default_factory=Against)
    mistakes: int = 0
    survivors: list[str] = field(default_factory=list)
    report: str = ""


def verify_rules(
    names: Sequence[str], dtypes: Iterable[torch.dtype], device: str = "cpu", mistakes: bool = True
) -> Iterator[RuleVerdict]:
    """A verdict for each rule and dtype, as it is found.  Raises ValueError for an unknown rule."""
    for name in names:
        rule = RULES[name]
        twin = candidate("torch")(name)
        for dtype in dtypes:
            try:
                yield verify_rule(rule, twin, dtype, device, mistakes)
            except Exception as error:  # one broken page must not hide the verdict on the others
                text = f"{name} ({dtype}): raised {type(error).__name__}: {error}\n{traceback.format_exc(limit=-4)}"
                yield RuleVerdict(name, str(dtype).removeprefix("torch."), report=text)


def verify_rule(rule: Rule, twin: Vjp | None, dtype: torch.dtype, device: str, mistakes: bool) -> RuleVerdict:
    """One rule in one dtype; without a twin it does not pass."""
    verdict = RuleVerdict(rule.name, str(dtype).removeprefix("torch."))
    if twin is None:
        verdict.report = f"{rule.name}: no twin; write torch_ref/twins/{rule.name}.py"
        return verdict
    report = compare(rule.vjp, rule, dtype=dtype, device=device, strict=True)
    verdict.cases = report.cases
    verdict.error_over_allowance = max(worst.error_over_allowance for worst in report.worst.values())
    verdict.by_case = {argument: worst.by_case for argument, worst in report.worst.items()}
    verdict.loose = report.loose
    for item in generated_evidence(rule, dtype, device, contract_of(dtype)):
        if isinstance(item, Evidence):
            _measure(verdict, rule, twin, item.row or item, dtype)  # rows that are all alike differ alike
    judged = [m for m in rule.mistakes if mistakes and (dtype in WIDE or not m.loses_digits)]
    verdict.mistakes = len(judged)
    verdict.survivors = [m.name for m in judged if not rejects(rule.mistaken(m.backward), rule, dtype, device)]
    silent = _silent_edges(rule)
    verdict.passed = report.passed and not verdict.survivors and not silent
    if not report.passed:
        verdict.report = str(report)
    elif silent:
        verdict.report = f"{rule.name} ({verdict.dtype}): these edges must raise and did not: {silent}"
    elif verdict.survivors:
        verdict.report = f"{rule.name} ({verdict.dtype}): the comparison let these mistakes pass: {verdict.survivors}"
    return verdict


def _silent_edges(rule: Rule) -> list[str]:
    """Edges that must raise and do not."""
    silent = []
    for edge in rule.edges:
        if edge.raises:
            inputs, _, hyper = draw(rule, edge, torch.Generator().manual_seed(0))
            try:
                rule.forward(*inputs, **hyper)
            except edge.raises:
                continue
            silent.append(edge.name)
    return silent


def _measure(verdict: RuleVerdict, rule: Rule, twin: Vjp, item: Evidence, dtype: torch.dtype) -> None:
    case = item.case
    try:
        ours, theirs = ((y, *grads) for y, grads in (f(case.inputs, case.dy, **case.hyper) for f in (rule.vjp, twin)))
    except (RuntimeError, ValueError):  # a kernel that torch lacks in this dtype; the comparison has judged the rule
        return
    for position, (expected, our, their) in enumerate(zip(item.expected, ours, theirs, strict=True)):
        if expected is None or our is None or their is None or not expected.numel():
            continue
        side = "backward" if position else "forward"
        if position and bool(case.inputs[position - 1].isnan().any()):
            continue  # gradients at NaN inputs are not judged, so they are not measured either
        pairs = [(verdict.against_torch, our, their.cpu().double())]
        if item.source == "certified truth":
            pairs += [(verdict.truth, our, expected), (verdict.torch_truth, their, expected)]
        for against, got, reference in pairs:
            found = _ulps(got.cpu().double(), reference, dtype, rule.elementwise)
            setattr(against, side, max(getattr(against, side), found))


def _ulps(got: Tensor, reference: Tensor, dtype: torch.dtype, elementwise: bool) -> float:
    judged = got.isfinite() & reference.isfinite()
    unit = ulp(reference if elementwise else torch.where(judged, reference, 0).abs().max(), dtype)
    return float(torch.where(judged, (got - reference).abs() / unit, 0).max())


def summary(verdicts: Sequence[RuleVerdict]) -> dict[str, Any]:
    """Counts over all rules, and the verdicts, for JSON."""
    return {
        "passed": bool(verdicts) and all(v.passed for v in verdicts),
        "mistakes": sum(v.mistakes for v in verdicts),
        "mistakes_rejected": sum(v.mistakes - len(v.survivors) for v in verdicts),
        "rules": [asdict(v) for v in verdicts],
    }
