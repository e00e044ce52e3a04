"""Comparing an optimiser with the page of its update."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from manual_bp.arithmetic.bounded import contract_of
from manual_bp.oracle.calling.invocation import described_error
from manual_bp.oracle.diagnosis.deadline import Deadline
from manual_bp.oracle.optimizers.causes import CONVENTIONS, LOOPS
from manual_bp.oracle.optimizers.driven import Driven, of_optimizer
from manual_bp.oracle.optimizers.judgement import Judging, Run, judge, pattern, tell_lost
from manual_bp.oracle.optimizers.scenarios import Scenario, scenarios
from manual_bp.oracle.optimizers.seeking import causes
from manual_bp.oracle.optimizers.trajectory import Change, StateError, all_of
from manual_bp.oracle.reports.mismatch import Mismatch, Worst
from manual_bp.oracle.reports.report import NOT_SOUGHT, Report
from manual_bp.oracle.truth.conventions import Conventions
from manual_bp.registry import RULES, UnknownRuleError
from manual_bp.rule import Rule

OUT_OF_RANGE = (
    "it agrees in float32: in float16 squares of gradients above 256 overflow and those below 2^-7 lose digits, and an "
    "eps below 2^-25 is 0; keep the state in float32, or choose a larger eps"
)
"""Of float16, whose largest number is 65504, the smallest normal one 2^-14 and the smallest of all 2^-24."""


def compare_optimizer(
    candidate: Driven | type,
    rule: str | Rule,
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    strict: bool = False,
    conventions: Mapping[str, str] | None = None,
    state_error: StateError = 0.0,
    diagnose: float = 10.0,
    **fixed: Any,
) -> Report:
    """Judge an optimiser as it is, over runs of several steps, by the page of its update.

    candidate: a subclass of torch.optim.Optimizer, or `of_optimizer(...)` or `of_transformation(...)` of one.
    rule: the page, whose first output is `param`, such as "adamw_update".
    fixed: further arguments of a class.
    strict: lost digits, arithmetic in 16 bits and lost updates are mismatches, and not notes and findings.
    conventions: what it declares to do otherwise: names and choices of the page (`rule.conventions`), or of loops
        (`manual_bp.oracle.optimizers.causes.CONVENTIONS`), such as {"eps": "before the correction"}.
    state_error: how far off its state may be when it is read again, as where it is kept in 8 bits: a share of the
        largest number of each tensor (1/127), or half a place of each number in a dtype (torch.bfloat16).
    diagnose: seconds that the search for the cause of what is wrong may take; 0 for none.

    Runs differ in hyperparameters, lr that changes, gradients of 0, huge and tiny ones, state that is saved and loaded
    and, where there are such, groups and parameters without a gradient; in 16 bits there is one whose updates are below
    half a place.  Each step is judged from the candidate's own parameters before it.  Raises ValueError for a page that
    is no update of a parameter, an unknown convention, or a device that is not there.
    """
    try:
        page = RULES[rule] if isinstance(rule, str) else rule
    except UnknownRuleError as error:
        raise UnknownRuleError(f"{error} Updates that have a page: {', '.join(_updates())}.") from None
    if page.has_backward or list(page.inputs)[:2] != ["param", "grad"] or page.outputs[0] != "param":
        raise ValueError(
            f"rule must be the update of a parameter, with inputs param, grad and its state; came {page.name}."
        )
    declared, loop = _declared(page, conventions or {})
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device must be one that torch can use here; came {device!r}: {error}") from None
    _refuse_unknown(candidate, fixed)
    driven = of_optimizer(candidate, **fixed) if isinstance(candidate, type) else candidate
    report = Report(declared.name, str(dtype).removeprefix("torch."), device, worst={"param": Worst()})
    judging = Judging(declared, contract_of(dtype), dtype, loop, state_error)
    chosen, untried = scenarios(page, driven, dtype)
    report.not_tested += untried
    wrong: list[Run] = []
    right: list[Run] = []
    for scenario in chosen:
        run = _run(driven, scenario, report, device)
        if run is None:
            continue
        report.cases += 1
        found = judge(judging, run, report, strict)
        report.failed += found
        (wrong if found else right).append(run)
        if scenario.may_lose:
            tell_lost(judging, run, report, strict)
    if not report.cases:
        report.untested_arguments.append("param")
    if not report.cases and report.raised:
        report.diagnoses.append(f"every run {report.mismatches[0].detail}")
        del report.mismatches[1:]
    aliases, said = _aliases(driven), list[str]()
    if wrong and diagnose:
        said, report.search = causes(judging, wrong, right, Deadline(diagnose))
        report.diagnoses += said or aliases
    elif wrong:
        report.search = NOT_SOUGHT
    own = getattr(driven, "published", "")
    if (wrong or not report.cases) and diagnose and not said and own and f"{own.lower()}_update" not in RULES:
        report.diagnoses.insert(
            0,
            f"no page is about {own}: what can be judged is whether it is {page.name}, which it is not; pages are "
            f"about {', '.join(_updates())}",
        )
    if wrong and diagnose and not said and dtype is torch.float16 and "eps" in page.hyper:
        options: dict[str, Any] = {"conventions": conventions, "state_error": state_error, "diagnose": 0.0, **fixed}
        if compare_optimizer(candidate, page, dtype=torch.float32, device=device, **options).passed:
            report.diagnoses.append(OUT_OF_RANGE)
    report.findings += [words for words in aliases if words not in report.diagnoses]
    if wrong and not report.diagnoses:
        report.patterns.append(pattern(wrong, report.cases))
    report.clean()
    return report


def _updates() -> list[str]:
    """The pages that are updates of a parameter."""
    return [n for n, r in RULES.items() if not r.has_backward and list(r.inputs)[:2] == ["param", "grad"]]


def _aliases(driven: Driven) -> list[str]:
    names = sorted(getattr(driven, "aliases", ()))
    if not names:
        return []
    listed = " and ".join(f"state[{name!r}]" for name in names)
    return [
        f"its state shares memory with the gradient: {listed} {'is' if len(names) == 1 else 'are'} p.grad itself and "
        "no copy, so that what is written into the one is in the other"
    ]


def _refuse_unknown(candidate: object, fixed: Mapping[str, Any]) -> None:
    """Raises ValueError for arguments that neither the class nor `compare_optimizer` has."""
    if not isinstance(candidate, type):
        unknown = list(fixed)
        what = "the candidate is no class, and its arguments are given where it is made: of_optimizer(make, ...)"
    else:
        taken = inspect.signature(candidate).parameters
        takes_any = any(p.kind is p.VAR_KEYWORD for p in taken.values())
        unknown = [] if takes_any else [name for name in fixed if name not in taken]
        what = f"{candidate.__name__} takes {', '.join(taken)}"
    if unknown:
        own = [name for name, p in inspect.signature(compare_optimizer).parameters.items() if p.kind is p.KEYWORD_ONLY]
        raise ValueError(
            f"compare_optimizer: came {unknown[0]!r}, which is unknown: {what}; compare_optimizer itself takes "
            f"{', '.join(own)}. A state that is kept in few bits is declared by state_error=1/127, or a dtype; what is "
            "done otherwise by conventions=."
        )


def _declared(page: Rule, conventions: Mapping[str, str]) -> tuple[Rule, Change | None]:
    """The page of what was declared, and the loop around it."""
    loops: list[Change] = []
    for name, choice in conventions.items():
        if name in CONVENTIONS and name not in page.conventions:
            if choice not in CONVENTIONS[name]:
                raise ValueError(f"conventions: {name} must be one of {list(CONVENTIONS[name])}; came {choice!r}.")
            loops += [LOOPS[words]] if (words := CONVENTIONS[name][choice]) else []
        elif name not in page.conventions:
            known = [*page.conventions, *CONVENTIONS]
            raise ValueError(f"conventions: of an optimiser by {page.name} names are {known}; came {name!r}.")
    own = {name: choice for name, choice in conventions.items() if name in page.conventions}
    return Conventions.declared(page, own).applied(page), all_of(loops)


def _run(driven: Driven, scenario: Scenario, report: Report, device: str) -> Run | None:
    rest = iter(x.to(device) for x in scenario.params)
    groups = [[next(rest) for _ in range(number)] for number in scenario.groups]
    asked = [{**hyper, **dict.fromkeys(scenario.options, True)} for hyper in scenario.hyper]
    first = [{**hyper, "lr": lr} for hyper, lr in zip(asked, scenario.moments[0].lrs, strict=True)]
    params = [list(scenario.params)]
    begun = False
    try:
        driven.begin(groups, first, [moment.lrs for moment in scenario.moments])
        begun = True
        for moment in scenario.moments:
            driven = driven.saved_and_loaded() if moment.loaded else driven
            grads = [None if grad is None else grad.to(device) for grad in moment.grads]
            params.append([x.cpu() for x in driven.step(grads, moment.lrs)])
    except Exception as error:
        if not begun and isinstance(error, ValueError | TypeError):  # as torch's do for what they do not take
            report.not_tested.append(f"{scenario.name}: the constructor refuses it: {error}")
            return None
        if getattr(driven, "sparse", False) and "sparse" in str(error):
            report.not_tested.append(f"{scenario.name}: refused for sparse gradients: {described_error(error)}")
            return None
        report.raised += 1
        report.mismatches.append(Mismatch("trap", "param", scenario.name, f"raised {described_error(error)}"))
        return None
    return Run(scenario, params)
