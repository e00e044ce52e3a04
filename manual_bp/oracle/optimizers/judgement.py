"""Judging a run of an optimiser: what is due after each step, how far off it may be, and updates that are lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import Contract
from manual_bp.oracle.optimizers.scenarios import Scenario
from manual_bp.oracle.optimizers.trajectory import Change, Formula, StateError, all_of, allowances, expected, of_all
from manual_bp.oracle.reports.mismatch import Mismatch
from manual_bp.oracle.reports.report import Report
from manual_bp.oracle.truth.errors import errors, ulp
from manual_bp.rule import Rule
from manual_bp.signature import SIXTEEN_BITS
from manual_bp.wording import counted


@dataclass(frozen=True)
class Run:
    """A scenario, and all parameters of the candidate: before the first step, and after each.  due, allowed: by
    parameter, what is due after each step, and how far off it may be; lost: how far where digits are lost."""

    scenario: Scenario
    params: list[list[Tensor]]
    due: dict[int, list[Tensor]] = field(default_factory=dict)
    allowed: dict[int, list[Tensor]] = field(default_factory=dict)
    ratios: dict[int, float] = field(default_factory=dict)
    lost: dict[int, list[Tensor]] = field(default_factory=dict)

    def before(self, position: int) -> list[Tensor]:
        return [params[position] for params in self.params[:-1]]

    def after(self, position: int) -> list[Tensor]:
        return [params[position] for params in self.params[1:]]


Worst = tuple[float, float, int, tuple[int, ...]]
"""Error over allowance, ulp, step, index."""


@dataclass(frozen=True)
class Judging:
    """By what a run is judged.  loop: what was declared of the loop around the update; state_error: of its state."""

    rule: Rule
    contract: Contract
    dtype: torch.dtype
    loop: Change | None = None
    state_error: StateError = 0.0

    def formula(self, **given: Any) -> Any:
        """The page's own update, by name."""
        inputs = [given.pop(name) for name in self.rule.inputs]
        return self.rule.pure(*inputs, **given)[0]

    def due(
        self, run: Run, position: int, formula: Formula | None = None, change: Change | None = None
    ) -> list[Tensor]:
        """A parameter after each step, by the page or by another formula or loop."""
        loop = all_of([c for c in (self.loop, change) if c])
        return expected(self.rule, run.scenario, position, run.before(position), formula or self.formula, loop)

    def of_all(self, run: Run, change: Change) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
        """Every parameter after each step, where `change` says which of them share one state; and how far off."""
        loop = all_of([c for c in (self.loop, change) if c])
        assert loop is not None
        before = [run.before(position) for position in range(len(run.scenario.params))]
        given = self.rule, run.scenario, before, self.formula, loop
        return of_all(*given), of_all(*given, self.contract)

    def allowed(
        self,
        run: Run,
        position: int,
        formula: Formula | None = None,
        change: Change | None = None,
        contract: Contract | None = None,
    ) -> list[Tensor]:
        """How far off it may be."""
        loop, used = all_of([c for c in (self.loop, change) if c]), contract or self.contract
        before = run.before(position)
        return allowances(
            self.rule, run.scenario, position, before, formula or self.formula, used, loop, self.state_error
        )

    def lost(self, run: Run, position: int) -> list[Tensor]:
        """How far off it may be by the formulas of the page that lose digits, where that has a bound, and else 0."""
        if position not in run.lost:
            each = [self.allowed(run, position, value.forward) for value in self.rule.values]
            run.lost[position] = [torch.stack(some).nan_to_num(0, 0, 0).amax(0) for some in zip(*each, strict=True)]
        return run.lost[position]

    def worst(self, run: Run, position: int, due: Sequence[Tensor], allowed: Sequence[Tensor]) -> Worst | None:
        found: Worst | None = None
        for step, (got, x, width) in enumerate(zip(run.after(position), due, allowed, strict=True)):
            if got.shape != x.shape or got.dtype != self.dtype:
                return float("inf"), float("inf"), step, (0,) * x.ndim
            ratio, ulps = errors(got, x, width, self.dtype)
            # What has overflowed before is judged no further.
            ratio = torch.where(run.params[step][position].isfinite(), ratio, 0)
            place = int(ratio.reshape(-1).argmax())
            largest = float(ratio.reshape(-1)[place])
            if found is None or largest > found[0]:
                index = tuple(int(i) for i in torch.unravel_index(torch.tensor(place), x.shape))
                found = largest, float(ulps.reshape(-1)[place]), step, index
        return found


def judge(judging: Judging, run: Run, report: Report, strict: bool) -> bool:
    """Whether a run is wrong for another reason than lost digits; what is wrong with it goes into the report."""
    found = False
    for position in range(len(run.scenario.params)):
        due, allowed = judging.due(run, position), judging.allowed(run, position)
        run.due[position], run.allowed[position] = due, allowed
        worst = judging.worst(run, position, due, allowed)
        run.ratios[position] = worst[0] if worst and worst[0] == worst[0] else float("inf")
        report.worst["param"].note(worst[0] if worst else 0.0, worst[1] if worst else 0.0)
        if worst is None or worst[0] <= 1:
            continue
        ratio, ulps, step, index = worst
        is_known = any(m.kind == "wrong" for m in report.mismatches)  # then another excuse changes nothing
        excuse = None if is_known else next(_excuses(judging, run, position, due), None)
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


def _excuses(judging: Judging, run: Run, position: int, due: Sequence[Tensor]) -> Iterator[str]:
    """Why what is beyond the allowance is right in its way."""
    dtype = judging.dtype

    def fits(formula: Formula | None, contract: Contract) -> bool:
        # A formula that may be off by anything excuses nothing: there the allowance is the page's own.
        found = judging.allowed(run, position, formula, contract=contract)
        both = zip(found, run.allowed[position], strict=True)
        allowed = [torch.where(width.isfinite(), width, own) for width, own in both]
        worst = judging.worst(run, position, due, allowed)
        return worst is not None and worst[0] <= 1

    if dtype in SIXTEEN_BITS and fits(None, Contract(dtype, dtype)):
        yield f"right for arithmetic in {str(dtype).removeprefix('torch.')}; float32 would keep its digits"
    for value in judging.rule.values:
        if fits(value.forward, judging.contract):
            yield f"it loses digits, as the formula '{value.name}' does"


def pattern(wrong: Sequence[Run], cases: int) -> str:
    """What runs that are wrong have in common, in words."""
    firsts = []
    for run in wrong:
        steps = [
            k
            for position in run.due
            for k, (x, due, allowed) in enumerate(
                zip(run.after(position), run.due[position], run.allowed[position], strict=True)
            )
            if x.shape != due.shape or bool((~((x.double() - due).abs() <= allowed)).any())
        ]
        firsts.append(min(steps, default=0) + 1)
    low, high = min(firsts), max(firsts)
    when = f"from step {low} on" if low == high else f"for the first time in step {low} to {high}"
    return f"param: wrong in {len(wrong)} of {counted(cases, 'run')}, {when}"


def tell_lost(judging: Judging, run: Run, report: Report, strict: bool) -> None:
    """A parameter that does not move although its update is due."""
    still, parameters, most = 0, 0, 0.0
    for position, start in enumerate(run.scenario.params):
        before = run.before(position)
        due = judging.due(run, position)
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
