"""Edits of the whole page: its registered mistakes, other hyperparameters, other cotangents, another
page's formula."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch

from manual_bp.hyperparameters import choices, kinds
from manual_bp.inputs import Mistake
from manual_bp.oracle.diagnosis.changes import FUNCTIONS, worded
from manual_bp.oracle.diagnosis.edit import Edit, RefusedError
from manual_bp.oracle.diagnosis.program import Called, Traced, Values, by_name
from manual_bp.oracle.diagnosis.quantities import Always
from manual_bp.outputs import parts, whole
from manual_bp.registry import RULES
from manual_bp.rule import Rule


def whole_edits(traced: Traced) -> Iterator[Edit]:
    """All of them but its mistakes, which are asked before."""
    yield from hyperparameters(traced)
    yield from cotangents(traced)
    yield from formulas(traced)


def _called(traced: Traced, dy: Any = None, **hyper: Any) -> Values:
    """What the page gives when it is called with something else."""
    rule = traced.rule
    y, residuals = rule.pure(*traced.inputs, **{**rule.defaults, **traced.case.hyper, **hyper})
    if not rule.has_backward:
        return by_name(rule, y, ())
    return by_name(rule, y, rule.page.backward(residuals, traced.dy if dy is None else dy))


# --------------------------------------------------------------------------------------------------------- mistakes


def mistakes(traced: Called) -> Iterator[Edit]:
    """The wrong formulas that the page lists; the first of several that are equal is the page's first."""
    for i, mistake in enumerate(traced.rule.mistakes):
        if not mistake.loses_digits:
            seen = f" (seen: {mistake.seen})" if mistake.seen else ""
            words = f"equals the known mistake '{mistake.name}': it forgets {mistake.forgets}{seen}"
            exact = Edit(i / 1000, words, run=partial(_mistaken, mistake, False), is_registered=True)
            yield exact
            # A formula that rounds or overflows on the way does so elsewhere in float64.
            own = partial(_mistaken, mistake, True)
            yield Edit(0.5 + i / 1000, words, run=own, is_registered=True, exact=exact)


def _mistaken(mistake: Mistake, own: bool, traced: Called, needed: int) -> Values:
    """own: whether it is computed in the precision of the case."""
    rule, case, key = traced.rule, traced.case, (id(mistake), own)
    if key not in traced.given:
        inputs, dy = (case.inputs, case.dy) if own else (traced.inputs, traced.dy)
        given = (inputs, dy) if rule.has_backward else (inputs,)
        found = rule.mistaken(mistake.backward)(*given, **case.hyper)
        traced.given[key] = by_name(rule, *(found if rule.has_backward else (found, ())))
    return traced.given[key]


# -------------------------------------------------------------------------------------------------- hyperparameters

# Where a hyperparameter is written as a number, these are the usual ones: slopes, decay rates, eps of the libraries.
USUAL = (1, 0, 2, -1, 0.5, 0.1, 0.2, 0.25, 0.3, 0.9, 0.99, 0.01, 5e-3, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-12)
# Stands for 0 where that is refused.
TINY = 1e-300
ROUNDED: Mapping[str, Callable[[float], float]] = {
    "`int({0})`": int,
    "`max({0}, 0)`": lambda h: max(h, 0),
    "`min({0}, 1)`": lambda h: min(h, 1),
    "{0} rounded to bfloat16": lambda h: float(torch.tensor(h, dtype=torch.float64).bfloat16()),
    "{0} rounded to float16": lambda h: float(torch.tensor(h, dtype=torch.float64).half()),
}
"""What a hyperparameter is beside a function of it."""
CHANGED = {**{words: function for words, (_, function) in FUNCTIONS.items()}, **ROUNDED}


def hyperparameters(traced: Traced) -> Iterator[Edit]:
    """A hyperparameter at its default, an ordinary or usual number, another choice, a function of the right one, or
    taken for another hyperparameter."""
    rule = traced.rule
    for name in rule.hyper:
        is_numeric = any(kind in (int, float) for kind in kinds(rule.annotations[name]))
        tried = [given[name] for given in (rule.defaults, rule.ordinary) if name in given]
        others = USUAL if is_numeric else choices(rule.annotations[name])
        for i, value in enumerate(dict.fromkeys([*tried, *others])):
            is_number = type(value) in (int, float)
            words = f"{name} is ignored: {{}} is that of {name}={f'{value:g}' if is_number else repr(value)}"
            run = partial(_with_hyper, {name: partial(_always, value)})
            yield Edit(1.5 + i / 10, words, run=run, fitted=Always(value) if is_number else None)
        for i, (words, function) in enumerate(CHANGED.items() if is_numeric else ()):
            run = partial(_with_hyper, {name: partial(_of_number, function, name)})
            yield Edit(1.8 + i / 20, f"{{}} is that of {worded(words, name)}", run=run)
    for one, two in itertools.permutations(rule.hyper, 2):
        if rule.annotations[one] == rule.annotations[two]:
            another, own = ({a: operator.itemgetter(b)} for a, b in ((one, two), (two, one)))
            yield Edit(2.3, f"{{}} is that of {two} in place of {one}", run=partial(_with_hyper, another))
            if one < two:
                words = f"{{}} is that of {one} and {two} exchanged"
                yield Edit(2.2, words, run=partial(_with_hyper, another | own))


def _always(value: Any, _: Any) -> Any:
    return value


def _of_number(function: Callable[[Any], Any], name: str, hyper: Mapping[str, Any]) -> Any:
    if type(hyper[name]) is bool:
        raise ValueError("no number")
    return function(hyper[name])


def _with_hyper(changed: Mapping[str, Callable[[Mapping[str, Any]], Any]], traced: Traced, needed: int) -> Values:
    """In forward and backward."""
    own = {**traced.rule.defaults, **traced.case.hyper}
    hyper = {name: value(own) for name, value in changed.items()}
    try:
        try:
            return _called(traced, **hyper)
        except ValueError:  # 0 is refused where it is divided by
            return _called(traced, **{name: value or TINY for name, value in hyper.items()})
    except ValueError as error:
        raise RefusedError from error


# ------------------------------------------------------------------------------------------------ other cotangents


def cotangents(traced: Traced) -> Iterator[Edit]:
    """The page's own backward with the cotangent of one of several outputs ignored, or all of them multiplied by y."""
    rule = traced.rule
    if not rule.has_backward:
        return
    for i, name in enumerate(rule.cotangents if len(rule.cotangents) > 1 else ()):
        yield Edit(1.4, f"{name} is ignored: {{}} is that of {name} = 0", run=partial(_at_dy, i))
    yield Edit(3.2, "is multiplied by y: it is that of the cotangent dy·y", run=partial(_at_dy, None))


def _at_dy(ignored: int | None, traced: Traced, needed: int) -> Values:
    """ignored: of which output the cotangent is taken for 0; None: all are multiplied by y."""
    outputs = [traced.right[name] for name in traced.rule.arguments[: len(traced.rule.outputs)]]
    pairs = zip(parts(traced.dy), outputs, strict=True)
    if ignored is None:
        dy = [None if d is None or y is None else d * y for d, y in pairs]
    else:
        dy = [None if d is None else torch.zeros_like(d) if i == ignored else d for i, (d, _) in enumerate(pairs)]
    return _grads(_called(traced, whole(dy, like=traced.dy)))


def _grads(found: Values) -> Values:
    return {name: x for name, x in found.items() if name.startswith("d")}


# --------------------------------------------------------------------------------------------------------- formulas


def formulas(traced: Traced) -> Iterator[Edit]:
    """The formula of another page of the same chapter."""
    own = traced.rule
    near = [name for name, chapter in RULES.chapters.items() if chapter == own.chapter and name != own.name]
    for other in (RULES[name] for name in near):  # to load them all takes a second
        has_inputs = set(other.inputs) - other.absentable <= set(own.inputs)
        has_hyper = other.defaults.keys() >= set(other.hyper) - set(own.hyper)
        if other.has_backward == own.has_backward and has_inputs and has_hyper:
            yield Edit(3, f"is the formula of {other.name}", run=partial(_at_other, other))


def _at_other(other: Rule, traced: Traced, needed: int) -> Values:
    own = traced.rule
    hyper = {n: v for n, v in {**own.defaults, **traced.case.hyper}.items() if n in other.hyper}
    named = dict(zip(own.inputs, traced.inputs, strict=True))
    y, grads = other.vjp(tuple(named.get(n) for n in other.inputs), traced.dy, **hyper)
    found = by_name(other, y, grads)
    found = _grads(found) if own.has_backward else found
    return {name: x for name, x in found.items() if name in own.arguments}
