"""A candidate at generated cases, with evidence that is made once for all tests of a rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import torch_ref
from manual_bp.arithmetic.bounded import contract_of
from manual_bp.inputs import Edge
from manual_bp.oracle.case import Case, Further, in_dtype
from manual_bp.oracle.cases.drawing import draw
from manual_bp.oracle.comparison import Comparison
from manual_bp.oracle.reports.report import Report
from manual_bp.oracle.truth.conventions import Conventions
from manual_bp.oracle.truth.kept import generated_evidence
from manual_bp.outputs import parts
from manual_bp.rule import Grads, Rule, Vjp
from manual_bp.signature import DTYPES

WIDE = (torch.float64, torch.float32)


def by_default(*dtypes: torch.dtype) -> list[Any]:
    """All dtypes as parameters, of which the others are exhaustive."""
    return [dtype if dtype in dtypes else pytest.param(dtype, marks=pytest.mark.exhaustive) for dtype in DTYPES]


def ordinary(rule: Rule, dtype: torch.dtype = torch.float64, device: str = "cpu") -> Case:
    """As `generated` makes it first, without the others."""
    case = Case(*draw(rule, Edge("ordinary"), torch.Generator().manual_seed(0)), "ordinary")
    return in_dtype(case, dtype, device)


def flat(y: Any, grads: Grads) -> tuple[Tensor | None, ...]:
    """The results of a Vjp in the order of `Rule.arguments`."""
    return (*parts(y), *grads)


def as_candidate(rule: Rule, vjp: Vjp) -> Callable[..., Any]:
    """A Vjp as a candidate for the rule: one for a page without backward returns values alone."""
    return vjp if rule.has_backward else lambda inputs, **hyper: vjp(inputs, None, **hyper)[0]


def is_formula(case: Case) -> bool:
    """Whether a case is there for the formula, and not for a size, a scale or an option."""
    return not isinstance(case, Further)


def judged(
    candidate: Vjp,
    rule: Rule,
    dtype: torch.dtype,
    chosen: Callable[[Case], bool] = is_formula,
    *,
    strict: bool = True,
    most: int | None = None,
) -> Report:
    """What the comparison finds at some of the generated cases; `most`: it stops after so many mismatches."""
    found = generated_evidence(rule, dtype, "cpu", contract_of(dtype))
    comparison = Comparison(candidate, rule, dtype, "cpu", contract_of(dtype), Conventions(), strict)
    for position, case in enumerate(found.cases):
        if most is not None and len(comparison.report.mismatches) >= most:
            break
        if chosen(case):
            comparison.judge_case(found.at(position))
    return comparison.finish(generated=False)


def torch_loses_digits(rule: Rule) -> bool:
    """Whether torch's gradient of a function of one number is 0 in saturation, where the page's is not."""
    twin = torch_ref.twin(rule.name)
    if twin is None or not rule.elementwise or list(rule.inputs) != ["x"] or not rule.has_backward:
        return False
    x = torch.tensor([17.0])
    (ours,), (theirs,) = (vjp((x,), torch.ones(1))[1] for vjp in (rule.vjp, twin))
    return bool(theirs == 0) and bool(ours != 0)
