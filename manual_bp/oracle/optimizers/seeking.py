"""Seeking why an optimiser is wrong: another formula of the page, or another loop around it, that gives its runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from manual_bp.oracle.combined import formulas
from manual_bp.oracle.diagnosis import MORE_TIME
from manual_bp.oracle.diagnosis.deadline import Deadline, TimeIsUp
from manual_bp.oracle.optimizers.causes import beginnings, hinted, loops, sharings
from manual_bp.oracle.optimizers.driven import FLAGS
from manual_bp.oracle.optimizers.judgement import Judging, Run
from manual_bp.oracle.optimizers.trajectory import Change, Formula
from manual_bp.oracle.truth.conventions import told, varied_mistakes
from manual_bp.oracle.truth.errors import ulp
from manual_bp.registry import RULES
from manual_bp.rule import Rule

# A wrong program that explains what came is nearer to it than what is due by a factor of this, where that is far off.
NEARER = 16

Program = tuple[str, Formula | None, Change | None]
"""What is said, the formula, and the loop; None for the page's own."""


def causes(judging: Judging, wrong: Sequence[Run], right: Sequence[Run], deadline: Deadline) -> tuple[list[str], str]:
    """What is wrong in all of the runs that are, one thing or two; or in most of them.  And that the search ended
    early, in words.

    What the runs that are right contradict comes after what they do not: an eps that is ignored is next to none where
    gradients are large, and shows by what becomes of 0."""
    contradicted: list[str] = []
    runs = sorted(wrong, key=lambda run: -max(run.ratios.values()))  # what is most wrong rules most out
    one = list(_one(judging))
    try:
        for words, formula, change in one:
            if _explains(judging, runs, formula, change, deadline):
                if all(_is(judging, run, formula, change) is not None for run in right):
                    return [words], ""
                contradicted.append(words)
        if contradicted:
            return contradicted[:1], ""
        for words, change in sharings():
            deadline.check()
            if all(_shares(judging, run, change) for run in runs):
                return [words], ""
        for words, formula, change in _two(judging):
            if _explains(judging, runs, formula, change, deadline):
                return [words], ""
        for words, options, formula, change in _beside_conventions(judging.rule):
            asked = [replace(r, scenario=replace(r.scenario, options=r.scenario.options | options)) for r in runs]
            if _explains(judging, asked, formula, change, deadline):
                return [words], ""
        for words, other in _others(judging):
            if _explains(other, runs, None, None, deadline):
                return [words], ""
        numbers = []
        for words, formula, change in one:
            number = 0
            for k, run in enumerate(runs):
                deadline.check()
                number += bool(_is(judging, run, formula, change))
                if 2 * (k + 1 - number) >= len(runs):  # it cannot be most of them
                    break
            else:
                numbers.append((number, words))
    except TimeIsUp:
        if contradicted:
            return contradicted[:1], ""
        more = f"more may be found with diagnose={MORE_TIME * deadline.seconds:g}"
        return [], f"the search for the cause ended after {deadline.seconds:g} s: {more}"
    most, words = max(numbers, key=lambda each: each[0], default=(0, ""))
    return ([f"{words} (in {most} of {len(runs)} runs that are wrong)"] if most else []), ""


def _explains(
    judging: Judging, runs: Sequence[Run], formula: Formula | None, change: Change | None, deadline: Deadline
) -> bool:
    """Whether all of these runs are those of a wrong program, and some are visibly those of no right one."""
    is_another = False
    for run in runs:
        deadline.check()
        found = _is(judging, run, formula, change)
        if found is None:
            return False
        is_another |= found
    return is_another


def _beside_conventions(rule: Rule) -> Iterator[tuple[str, frozenset[str], Formula | None, Change | None]]:
    """Optional parts of the state that nobody asked for, and state that begins elsewhere; by the page, and by each of
    its conventions: what is said, the options, formula and loop."""
    formulas_: list[tuple[str, Formula | None]] = [("", None)]
    for name, choices in rule.conventions.items():
        for choice, convention in choices.items():
            if convention.varied:
                names = frozenset({convention.varied})
                said = f"; and there is the convention {name}={choice!r}"
                formulas_.append((said, partial(rule.page.varied, names)))
    for also, formula in formulas_:
        for name in sorted(rule.absentable):
            for flag in FLAGS.get(name, ()):
                yield f"{flag} is on, though nobody asked for it{also}", frozenset({name}), formula, None
        for words, change in beginnings(rule):
            yield f"{words}{also}", frozenset(), formula, change


def _one(judging: Judging) -> Iterator[Program]:
    """One thing that is wrong, the page's first."""
    rule = judging.rule
    for m in rule.mistakes:
        yield told(rule, f"it is the known mistake '{m.name}': it forgets {m.forgets}"), _formula(m.backward), None
    for words, change in loops(rule):
        yield hinted(words), None, change


def _others(judging: Judging) -> Iterator[tuple[str, Judging]]:
    """The updates of other pages."""
    for name, rule in RULES.items():
        is_update = list(rule.inputs)[:2] == ["param", "grad"] and rule.outputs[:1] == ("param",)
        if is_update and name != judging.rule.name and "lr" in rule.hyper:
            kind, due = name.removesuffix("_update"), judging.rule.name.removesuffix("_update")
            yield f"it is {kind}, where {due} is due", replace(judging, rule=rule)


def _two(judging: Judging) -> Iterator[Program]:
    """Two things that are wrong, or several conventions."""
    rule = judging.rule
    for found in formulas(rule) if varied_mistakes(rule) else ():
        if len(found.names) > 1:
            yield found.sentence, partial(rule.page.varied, found.names), None


def _formula(backward: Callable[..., Any] | None) -> Formula:
    assert backward is not None
    return lambda **given: backward(**given)


def _is(judging: Judging, run: Run, formula: Formula | None, change: Change | None) -> bool | None:
    """Whether a run that is that of a wrong program is visibly that of no right one; None if it is not."""
    is_another = False
    for position in range(len(run.scenario.params)):
        try:
            wrong = judging.due(run, position, formula, change)
            if _is_far(run, position, wrong):
                return None
            own = judging.allowed(run, position, formula, change)
        except (ArithmeticError, ValueError):  # t = 0 is refused, or divides
            return None
        # The comparison with what is due has the page's widths; a wrong program has its own beside.
        wider = [a + b for a, b in zip(run.allowed[position], own, strict=True)]
        worst = judging.worst(run, position, wrong, wider)
        if worst is not None and worst[0] > 1 and judging.rule.values:
            # It may lose digits beside, as a formula of the page does: by so much, where that has a bound.
            wider = [a + b for a, b in zip(wider, judging.lost(run, position), strict=True)]
            worst = judging.worst(run, position, wrong, wider)
        if worst is None or worst[0] > 1:
            return None
        due = run.due[position]
        is_another |= any(bool((~((x - w).abs() <= b)).any()) for x, w, b in zip(due, wrong, wider, strict=True))
    return is_another


def _shares(judging: Judging, run: Run, change: Change) -> bool:
    """Whether a run that is wrong is that of a program whose parameters share state as `change` says."""
    try:
        made, allowed = judging.of_all(run, change)
    except (ArithmeticError, ValueError, RuntimeError):  # a state that does not fit
        return False
    for position, (wrong, widths) in enumerate(zip(made, allowed, strict=True)):
        worst = None if _is_far(run, position, wrong) else judging.worst(run, position, wrong, widths)
        if worst is None or worst[0] > 1:
            return False
    return True


def _is_far(run: Run, position: int, wrong: Sequence[Tensor]) -> bool:
    """Whether the numbers that came are no nearer to those of a wrong program than to those that are due, by far: then
    nobody need know how far off that program may be."""
    due_and_allowed = zip(run.due[position], run.allowed[position], strict=True)
    for got, (due, allowed), x in zip(run.after(position), due_and_allowed, wrong, strict=True):
        to_due, to_wrong = (got.double() - due).abs(), (got.double() - x).abs()
        told = to_due.isfinite() & to_wrong.isfinite() & (to_due > allowed) & (to_due > NEARER**2 * ulp(due, got.dtype))
        if bool((told & (to_wrong > to_due / NEARER)).any()):
            return True
    return False
