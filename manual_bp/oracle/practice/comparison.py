"""Comparing a candidate with a practice, through the report of `compare`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from manual_bp.oracle.calling.invocation import parameters_of
from manual_bp.oracle.practice import augmenting, fitting, stopping
from manual_bp.oracle.practice.judged import judged
from manual_bp.oracle.reports.report import Report
from manual_bp.registry import RULES

PRACTICES = ("early_stopping", "overfitting", "augmentation")
"""What `compare` takes in place of a rule."""


def is_practice(name: object) -> bool:
    """Whether that is a practice.  Raises ValueError for what is neither a rule nor a practice, but nearly one."""
    if isinstance(name, str) and name not in PRACTICES and name not in RULES:
        # Nearer than difflib's own 0.6: a rule that is meant shall be found among the rules.
        close = difflib.get_close_matches(name.lower(), PRACTICES, 1, cutoff=0.8)
        if close:
            raise ValueError(f"there is no rule or practice {name!r}. Did you mean {close[0]}?")
    return name in PRACTICES


def compare_practice(
    candidate: Callable[..., Any],
    practice: str,
    hyper: Mapping[str, Any] | None = None,
    conventions: Mapping[str, Any] | None = None,
) -> Report:
    """Judge a candidate against recorded curves and images.

    practice: "early_stopping", "overfitting" or "augmentation"; what each takes and gives stands in its module.
    hyper: of augmentation what may be done to the images; of early stopping {"min_delta": 0.0} if the candidate takes
        no other. conventions: {"tie": "last"} if a loss as low as the best counts as better.
    Raises ValueError for another practice, convention or option.
    """
    if practice not in PRACTICES:
        raise ValueError(f"practice must be one of {list(PRACTICES)}; came {practice!r}.")
    chosen, declared = dict(conventions or {}), dict(hyper or {})
    tie = chosen.pop("tie", "first") if practice == "early_stopping" else "first"
    if chosen or tie not in stopping.TIES:
        raise ValueError(
            f"{practice}: conventions are {{'tie': 'first' or 'last'}} of early_stopping; came {conventions}."
        )
    report = Report(practice, "float64", "cpu")
    if practice == "augmentation":
        augmenting.judge(report, candidate, declared)
    elif practice == "overfitting":
        _none(practice, declared)
        places = ("training", "validation")
        judged(report, candidate, fitting.NAMES, places, [*fitting.situations()], fitting.due, fitting.WRONG)
    else:
        _none(practice, {n: v for n, v in declared.items() if (n, v) != ("min_delta", 0.0)})
        parameters = parameters_of(candidate) or {}
        takes = not parameters or any(n == "min_delta" or p.kind is p.VAR_KEYWORD for n, p in parameters.items())
        asked = [*stopping.situations(takes and not declared)]
        wrong = [(words, program) for words, program in stopping.WRONG if tie == "first" or "as good" not in words]
        judged(report, candidate, stopping.NAMES, ("losses",), asked, stopping.due(tie), wrong)
        if not takes and "min_delta" not in declared:
            report.untested_hyper.append("min_delta")
            report.not_tested.append(
                "min_delta: the candidate takes none, so only 0 was tried; declare hyper={'min_delta': 0.0} if "
                "that is all"
            )
    report.clean()
    return report


def _none(practice: str, hyper: Mapping[str, Any]) -> None:
    if hyper:
        raise ValueError(f"{practice}: it takes no such hyper; came {dict(hyper)}.")
