"""Comparing an optimiser with the page of its update."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import Contract, contract_of
from manual_bp.oracle.errors import errors, ulp
from manual_bp.oracle.invocation import described_error
from manual_bp.oracle.optimizers.causes import LOOPS
from manual_bp.oracle.optimizers.driven import Driven, of_optimizer
from manual_bp.oracle.optimizers.scenarios import Scenario, scenarios
from manual_bp.oracle.optimizers.trajectory import Change, Formula, allowances, expected
from manual_bp.oracle.report import Mismatch, Report, Worst
from manual_bp.registry import RULES
from manual_bp.rule import Rule
from manual_bp.signature import SIXTEEN_BITS

# A wrong program that explains what came is nearer to it than what is due by a factor of this, where that is far off.
NEARER = 16


@dataclass(frozen=True)
class Run:
    """A scenario, and all parameters of the candidate: before the first step, and after each.  due, allowed: by
    parameter, what is due after each step, and how far off it may be."""

    scenario: Scenario
    params: list[list[Tensor]]
    due: dict[int, list[Tensor]] = field(default_factory=dict)
    allowed: dict[int, list[Tensor]] = field(default_factory=dict)

    def before(self, position: int) -> list[Tensor]:
        return [params[position] for params in self.params[:-1]]

    def after(self, position: int) -> list[Tensor]:
        return [params[position] for params in self.params[1:]]


def compare_optimizer(
    candidate: Driven | type,
    rule: str | Rule,
    *,
    dtype: torch.dtype = torch.float32,
    strict: bool = False,
    **fixed: Any,
) -> Report:
    """Judge an optimiser as it is, over runs of several steps, by the page of its update.

    candidate: a subclass of torch.optim.Optimizer, or `of_optimizer(...)` or `of_transformation(...)` of one.
    rule: the page, whose first output is `param`, such as "adamw_update".
    fixed: further arguments of a class.
    strict: lost digits, arithmetic in 16 bits and lost updates are mismatches, and not notes and findings.

    Runs differ in hyperparameters, lr that changes, gradients of 0, huge and tiny ones, state that is saved and loaded
    and, where there are such, groups and parameters without a gradient; in 16 bits there is one whose updates are below
    half a place.  Each step is judged from the candidate's own parameters before it.  Raises ValueError for a page that
    is no update of a parameter.
    """
    page = RULES[rule] if isinstance(rule, str) else rule
    if page.has_backward or list(page.inputs)[:2] != ["param", "grad"] or page.outputs[0] != "param":
        raise ValueError(
            f"rule must be the update of a parameter, with inputs param, grad and its state; came {page.name}."
        )
    driven = of_optimizer(candidate, **fixed) if isinstance(candidate, type) else candidate
    report = Report(page.name, str(dtype).removeprefix("torch."), "cpu", worst={"param": Worst()})
    chosen, untried = scenarios(page, driven, dtype)
    report.not_tested += untried
    wrong: list[Run] = []
    for scenario in chosen:
        run = _run(driven, scenario, report)
        if run is None:
            continue
        report.cases += 1
        found = _judged(page, run, dtype, report, strict)
        report.failed += found
        wrong += [run] if found else []
        if scenario.may_lose:
            _lost(page, run, report, strict)
    report.diagnoses += _causes(page, wrong, dtype)
    report.clean()
    return report


def _run(driven: Driven, scenario: Scenario, report: Report) -> Run | None:
    rest = iter(scenario.params)
    groups = [[next(rest) for _ in range(number)] for number in scenario.groups]
    asked = [{**hyper, **dict.fromkeys(scenario.options, True)} for hyper in scenario.hyper]
    first = [{**hyper, "lr": lr} for hyper, lr in zip(asked, scenario.moments[0].lrs, strict=True)]
    params = [list(scenario.params)]
    try:
        driven.begin(groups, first, [moment.lrs for moment in scenario.moments])
        for moment in scenario.moments:
            driven = driven.saved_and_loaded() if moment.loaded else driven
            params.append(driven.step(moment.grads, moment.lrs))
    except Exception as error:
        report.raised += 1
        report.mismatches.append(Mismatch("trap", "param", scenario.name, f"raised {described_error(error)}"))
        return None
    return Run(scenario, params)


def _judged(rule: Rule, run: Run, dtype: torch.dtype, report: Report, strict: bool) -> bool:
    """Whether a run is wrong for another reason than lost digits; what is wrong with it goes into the report."""
    found = False
    for position in range(len(run.scenario.params)):
        ours = _formula(rule)
        due = expected(rule, run.scenario, position, run.before(position), ours)
        allowed = allowances(rule, run.scenario, position, run.before(position), ours, contract_of(dtype))
        run.due[position], run.allowed[position] = due, allowed
        worst = _worst(run, position, due, allowed, dtype)
        report.worst["param"].note(worst[0] if worst else 0.0, worst[1] if worst else 0.0)
        if worst is None or worst[0] <= 1:
            continue
        ratio, ulps, step, index = worst
        is_known = any(m.kind == "wrong" for m in report.mismatches)  # then another excuse changes nothing
        excuse = None if is_known else next(_excuses(rule, run, position, due, dtype), None)
        if excuse and not strict:
            report.notes += [excuse] if excuse not in report.notes else []
            continue
        found |= not excuse
        report.mismatches.append(
            Mismatch(
                "wrong" if not excuse else "digits",
                f"param {position}",
                run.scenario.name,
                f"after step {step + 1}" + (f": {excuse}" if excuse else ""),
                index,
                float(due[step][index]),
                float(run.after(position)[step][index]),
                ulps,
                ratio,
            )
        )
    return found


def _formula(rule: Rule) -> Formula:
    def formula(**given: Any) -> Any:
        inputs = [given.pop(name) for name in rule.inputs]
        return rule.pure(*inputs, **given)[0]

    return formula


_Worst = tuple[float, float, int, tuple[int, ...]]
"""Error over allowance, ulp, step, index."""


def _worst(
    run: Run, position: int, due: Sequence[Tensor], allowed: Sequence[Tensor], dtype: torch.dtype
) -> _Worst | None:
    found: _Worst | None = None
    for step, (got, x, width) in enumerate(zip(run.after(position), due, allowed, strict=True)):
        if got.shape != x.shape or got.dtype != dtype:
            return float("inf"), float("inf"), step, (0,) * x.ndim
        ratio, ulps = errors(got, x, width, dtype)
        # What has overflowed before is judged no further.
        ratio = torch.where(run.params[step][position].isfinite(), ratio, 0)
        place = int(ratio.reshape(-1).argmax())
        largest = float(ratio.reshape(-1)[place])
        if found is None or largest > found[0]:
            index = tuple(int(i) for i in torch.unravel_index(torch.tensor(place), x.shape))
            found = largest, float(ulps.reshape(-1)[place]), step, index
    return found


def _excuses(rule: Rule, run: Run, position: int, due: Sequence[Tensor], dtype: torch.dtype) -> Iterator[str]:
    """Why what is beyond the allowance is right in its way."""
    before = run.before(position)

    def fits(formula: Formula, contract: Contract) -> bool:
        worst = _worst(run, position, due, allowances(rule, run.scenario, position, before, formula, contract), dtype)
        return worst is not None and worst[0] <= 1

    if dtype in SIXTEEN_BITS and fits(_formula(rule), Contract(dtype, dtype)):
        yield f"right for arithmetic in {str(dtype).removeprefix('torch.')}; float32 would keep its digits"
    for value in rule.values:
        if fits(value.forward, contract_of(dtype)):
            yield f"it loses digits, as the formula '{value.name}' does"


def _lost(rule: Rule, run: Run, report: Report, strict: bool) -> None:
    """A parameter that does not move although its update is due."""
    still, parameters, most = 0, 0, 0.0
    for position, start in enumerate(run.scenario.params):
        before = run.before(position)
        due = expected(rule, run.scenario, position, before, _formula(rule))
        total = sum(x - param.double() for x, param in zip(due, before, strict=True))
        assert isinstance(total, Tensor)
        places = total.abs() / ulp(start.double(), start.dtype)
        moved = torch.stack([(x != start) for x in run.after(position)]).any(0)
        lost = ~moved & (places > 1)
        still, parameters = still + int(lost.sum()), parameters + lost.numel()
        most = max(most, float(places[lost].max()) if bool(lost.any()) else 0.0)
    if not still:
        return
    words = (
        f"lost updates: in {report.dtype} {still} of {parameters} numbers do not move in {len(run.scenario.moments)} "
        f"steps although {most:.2g} units in the last place are due, as each update is below half of one; keep float32 "
        "masters, or what is left over"
    )
    if strict:
        report.mismatches.append(Mismatch("trap", "param", run.scenario.name, words))
        report.failed += 1
    else:
        report.findings.append(words)


def _causes(rule: Rule, wrong: Sequence[Run], dtype: torch.dtype) -> list[str]:
    """What is wrong in all of these runs, or in as many of them as one cause explains."""
    programs: list[tuple[str, Formula, Change | None]] = [
        (f"it is the known mistake '{m.name}': it forgets {m.forgets}", partial(_quiet, m.backward), None)
        for m in rule.mistakes
    ]
    programs += [(words, _formula(rule), change) for words, change in LOOPS.items()]
    if not wrong:
        return []
    for words, formula, change in programs:
        if all(_is(rule, run, formula, change, dtype) for run in wrong):
            return [words]
    numbers = [sum(_is(rule, run, formula, change, dtype) for run in wrong) for _, formula, change in programs]
    most = max(numbers)
    return [f"{programs[numbers.index(most)][0]} (in {most} of {len(wrong)} runs that are wrong)"] if most else []


def _quiet(formula: Formula, **given: Any) -> Any:
    return formula(**given)


def _is(rule: Rule, run: Run, formula: Formula, change: Change | None, dtype: torch.dtype) -> bool:
    """Whether a run is that of a wrong program, and of no right one."""
    is_another = False
    for position in range(len(run.scenario.params)):
        before, contract = run.before(position), contract_of(dtype)
        try:
            wrong = expected(rule, run.scenario, position, before, formula, change)
            if _is_far(run, position, wrong):
                return False
            own = allowances(rule, run.scenario, position, before, formula, contract, change)
        except (ArithmeticError, ValueError):  # t = 0 is refused, or divides
            return False
        # The comparison with what is due has the page's widths; a wrong program has its own beside.
        wider = [a + b for a, b in zip(run.allowed[position], own, strict=True)]
        worst = _worst(run, position, wrong, wider, dtype)
        if worst is None or worst[0] > 1:
            return False
        due = run.due[position]
        is_another |= any(bool((~((x - w).abs() <= b)).any()) for x, w, b in zip(due, wrong, wider, strict=True))
    return is_another


def _is_far(run: Run, position: int, wrong: Sequence[Tensor]) -> bool:
    """Whether the numbers that came are no nearer to those of a wrong program than to those that are due, by far: then
    nobody need know how far off that program may be."""
    for got, due, x in zip(run.after(position), run.due[position], wrong, strict=True):
        to_due, to_wrong = (got.double() - due).abs(), (got.double() - x).abs()
        told = to_due.isfinite() & to_wrong.isfinite() & (to_due > NEARER**2 * ulp(due, got.dtype))
        if bool((told & (to_wrong > to_due / NEARER)).any()):
            return True
    return False
