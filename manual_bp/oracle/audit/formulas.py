"""Wrong formulas: the page's registered mistakes, mutations of its text, a cotangent or a hyperparameter ignored."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from manual_bp.oracle.audit.conditions import COTANGENT, OPTION, constant_dy
from manual_bp.oracle.audit.mutations import Exact, mutated, mutations
from manual_bp.oracle.audit.programs import Answer, Program, Results, by_argument, judged, steady
from manual_bp.oracle.case import Case
from manual_bp.outputs import parts, whole
from manual_bp.rule import Rule, Vjp, as_vjp

MISTAKE, TERM, REDUCTION, LENGTH = "a known mistake", "a term", "a reduction", "a length"
FORMULAS = (MISTAKE, TERM, REDUCTION, LENGTH)
# A mutation whose changed part is off by less is one of those of every size.
COARSE = 0.5
# Of each kind and argument so many: the others differ in the place alone.
MOST = 2


def formulas(rule: Rule, case: Case) -> Iterator[Program]:
    """Wrong formulas that change something at an ordinary case."""
    arguments = judged(rule)
    for mistake in rule.mistakes:
        if not mistake.loses_digits:  # those are right, but for rounding
            yield steady(MISTAKE, mistake.name, answer_of(rule, as_vjp(rule, rule.mistaken(mistake.backward))))
    if not rule.has_backward:
        return
    for words, change in OTHER_COTANGENTS.items():
        yield steady(COTANGENT, words, _with_other_dy(rule, change), unmet=constant_dy)
    exact, count = Exact.at(rule, case), defaultdict[tuple[str, str], int](int)
    for m in mutations(rule, case):
        is_of_any_size = m.kind.startswith("cotangent") or m.size < COARSE
        if is_of_any_size or count[m.kind, m.argument] >= MOST or not exact.changed_by(m):
            continue
        count[m.kind, m.argument] += 1
        kind = TERM if m.kind.startswith("term") else LENGTH if m.argument else REDUCTION
        of_what = f"{m.argument}: " if m.argument else ""
        name = f"{of_what}{m.kind} ({count[m.kind, m.argument]})"
        argument = m.argument if m.argument in arguments else ""
        yield steady(kind, name, answer_of(rule, mutated(rule, m.backward)), argument=argument)


def _mean(d: Tensor) -> Tensor:
    return d.mean().expand(d.shape).clone()


OTHER_COTANGENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "dy ignored": torch.ones_like,
    "dy taken for its mean": _mean,
    "dy squared": torch.square,
}


def answer_of(rule: Rule, vjp: Vjp) -> Answer:
    """What a Vjp returns, as a program's answer."""

    def answer(case: Case, _: Results) -> Results:
        return by_argument(rule, *vjp(case.inputs, case.dy, **case.hyper))

    return answer


def _with_other_dy(rule: Rule, change: Callable[[Tensor], Tensor]) -> Answer:
    """The right formula at another cotangent."""

    def answer(case: Case, right: Results) -> Results:
        other: Any = whole([change(d.detach()) for d in parts(case.dy)], like=case.dy)
        return by_argument(rule, *rule.vjp(case.inputs, other, **case.hyper))

    return answer


def options_ignored(rule: Rule) -> Iterator[Program]:
    """Gradients in which one hyperparameter is taken at its ordinary value."""
    for name in rule.hyper if rule.has_backward else ():
        if name in rule.ordinary:
            yield steady(
                OPTION,
                f"{name} ignored",
                _ignoring(rule, name),
                unmet=lambda _, name=name: f"{name} is never another than {rule.ordinary[name]!r}",
            )


def _ignoring(rule: Rule, name: str) -> Answer:
    def answer(case: Case, right: Results) -> Results:
        try:
            other = by_argument(rule, *rule.vjp(case.inputs, case.dy, **{**case.hyper, name: rule.ordinary[name]}))
        except ValueError:  # of the ordinary value y would have another shape
            return right
        return {**other, **{a: right[a] for a in rule.arguments[: len(rule.outputs)]}}

    return answer
