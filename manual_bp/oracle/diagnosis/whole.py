"""Edits of the whole page: its registered mistakes, other hyperparameters, other cotangents, another page's formula."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from manual_bp.hyperparameters import choices, kinds
from manual_bp.inputs import Mistake
from manual_bp.oracle.diagnosis.changes import FUNCTIONS, worded
from manual_bp.oracle.diagnosis.edit import PAGE, Edit, RefusedError
from manual_bp.oracle.diagnosis.packed import packed
from manual_bp.oracle.diagnosis.program import Called, Traced, Values, by_name
from manual_bp.oracle.diagnosis.quantities import Always
from manual_bp.outputs import parts, whole
from manual_bp.registry import RULES
from manual_bp.rule import Rule


def whole_edits(traced: Traced) -> Iterator[Edit]:
    """All of them but its mistakes, which are asked before."""
    for family in (hyperparameters, cotangents, formulas, packed):
        yield from family(traced)


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
    key = id(mistake), own
    if key not in traced.given:
        traced.given[key] = _computed(mistake, own, traced)
    return traced.given[key]


def _computed(mistake: Mistake, own: bool, traced: Called) -> Values:
    rule, case = traced.rule, traced.case
    inputs, dy = (case.inputs, case.dy) if own else (traced.inputs, traced.dy)
    if not rule.has_backward:
        return by_name(rule, rule.mistaken(mistake.backward)(inputs, **case.hyper), ())
    return by_name(rule, *rule.mistaken(mistake.backward)(inputs, dy, **case.hyper))


# -------------------------------------------------------------------------------------------------- hyperparameters

# Where a hyperparameter is written as a number, these are the usual ones: slopes, decay rates, eps of the libraries.
USUAL = (1, 0, 2, -1, 0.5, 0.1, 0.2, 0.25, 0.3, 0.9, 0.99, 0.01, 5e-3, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-12)


# Stands for 0 where that is refused.
TINY = 1e-300
NARROW = (torch.bfloat16, torch.float16, torch.float8_e5m2, torch.float8_e4m3fn)


def _rounded(dtype: torch.dtype, number: float) -> float:
    return float(torch.tensor(number, dtype=torch.float64).to(dtype))


ROUNDED: Mapping[str, Callable[[float], float]] = {
    "`int({0})`": int,
    "`max({0}, 0)`": lambda h: max(h, 0),
    "`min({0}, 1)`": lambda h: min(h, 1),
    **{f"{{0}} rounded to {str(dtype).removeprefix('torch.')}": partial(_rounded, dtype) for dtype in NARROW},
}
"""What a hyperparameter is beside a function of it."""


def hyperparameters(traced: Traced) -> Iterator[Edit]:
    """A hyperparameter at its default, an ordinary or usual number, another choice, a function of the right one, or
    taken for another hyperparameter."""
    rule = traced.rule
    numeric = [n for n in rule.hyper if any(kind in (int, float) for kind in kinds(rule.annotations[n]))]
    for name in rule.hyper:
        tried = [given[name] for given in (rule.defaults, rule.ordinary) if name in given]
        others = list(USUAL) if name in numeric else list(choices(rule.annotations[name]))
        for i, value in enumerate(dict.fromkeys([*tried, *others])):
            written = f"{value:g}" if type(value) in (int, float) else repr(value)
            words = f"{name} is ignored: {{}} is that of {name}={written}"
            number = Always(value) if type(value) in (int, float) else None
            yield Edit(1.5 + i / 10, words, run=partial(_with_hyper, {name: partial(_always, value)}), fitted=number)
        functions = {**{words: function for words, (_, function) in FUNCTIONS.items()}, **ROUNDED}
        for i, (words, function) in enumerate(functions.items() if name in numeric else ()):
            said = f"{{}} is that of {worded(words, name)}"
            yield Edit(1.8 + i / 20, said, run=partial(_with_hyper, {name: partial(_of_number, function, name)}))
    for one, two in itertools.permutations(rule.hyper, 2):
        if rule.annotations[one] == rule.annotations[two]:
            words = f"{{}} is that of {two} in place of {one}"
            yield Edit(2.3, words, run=partial(_with_hyper, {one: operator.itemgetter(two)}))
            if one < two:
                words = f"{{}} is that of {one} and {two} exchanged"
                exchanged = {one: operator.itemgetter(two), two: operator.itemgetter(one)}
                yield Edit(2.2, words, run=partial(_with_hyper, exchanged))


def _always(value: Any, _: Any) -> Any:
    return value


def _of_number(function: Callable[[Any], Any], name: str, hyper: Mapping[str, Any]) -> Any:
    if type(hyper[name]) is bool:
        raise ValueError("no number")
    return function(hyper[name])


def _with_hyper(changed: Mapping[str, Callable[[Mapping[str, Any]], Any]], traced: Traced, needed: int) -> Values:
    """In forward and backward."""
    hyper = {**traced.rule.defaults, **traced.case.hyper}
    hyper |= {name: value(hyper) for name, value in changed.items()}
    try:
        try:
            return _with(traced, hyper=hyper)
        except ValueError:  # 0 is refused where it is divided by
            return _with(traced, hyper=hyper | {name: hyper[name] or TINY for name in changed})
    except ValueError as error:
        raise RefusedError from error


# ------------------------------------------------------------------------------------------------ other cotangents


def cotangents(traced: Traced) -> Iterator[Edit]:
    """The page's own backward with the cotangent of one of several outputs ignored, or all of them multiplied by y."""
    rule = traced.rule
    if not rule.has_backward:
        return
    for i, name in enumerate(rule.cotangents if len(rule.cotangents) > 1 else ()):
        words = f"{name} is ignored: {{}} is that of {name} = 0"
        yield Edit(1.4, words, run=partial(_at_dy, partial(_without, i)))
    words = "is multiplied by y: it is that of the cotangent dy·y"
    yield Edit(3.2, words, run=partial(_at_dy, lambda _, d, y: d * y))


def _with(traced: Traced, inputs: Any = None, dy: Any = None, hyper: Mapping[str, Any] | None = None) -> Values:
    rule = traced.rule
    given = traced.inputs if inputs is None else inputs
    y, residuals = rule.pure(*given, **({**rule.defaults, **traced.case.hyper} if hyper is None else hyper))
    if not rule.has_backward:
        return by_name(rule, y, ())
    return by_name(rule, y, rule.page.backward(residuals, traced.dy if dy is None else dy))


def _grads(found: Values) -> Values:
    return {name: x for name, x in found.items() if name.startswith("d")}


def _without(i: int, j: int, d: Tensor, y: Tensor) -> Tensor:
    return torch.zeros_like(d) if i == j else d


def _at_dy(change: Callable[[int, Tensor, Tensor], Tensor], traced: Traced, needed: int) -> Values:
    outputs = [traced.right[name] for name in traced.rule.arguments[: len(traced.rule.outputs)]]
    pairs = zip(parts(traced.dy), outputs, strict=True)
    dy = [None if d is None else change(i, d, y) for i, (d, y) in enumerate(pairs)]  # type: ignore[arg-type]
    return _grads(_with(traced, dy=whole(dy, like=traced.dy)))


# --------------------------------------------------------------------------------------------------------- formulas


# What people put on top of a gradient once more is the derivative of an activation.
ON_TOP = "activation"


def formulas(traced: Traced) -> Iterator[Edit]:
    """The formula of another page of the same chapter; the derivative of an activation on top of the right one."""
    own = traced.rule
    near = [name for name, chapter in RULES.chapters.items() if chapter in (own.chapter, ON_TOP) and name != own.name]
    for other in (RULES[name] for name in near):  # to load them all takes a second
        needed = set(other.inputs) - other.absentable
        has_hyper = other.defaults.keys() >= set(other.hyper) - set(own.hyper)
        if other.has_backward != own.has_backward or not has_hyper:
            continue
        if other.chapter == own.chapter and needed <= set(own.inputs):
            yield Edit(3, f"is the formula of {other.name}", run=partial(_at_other, other))
        if other.chapter == ON_TOP and len(other.inputs) == 1:
            for name in own.inputs:
                if own.is_number(name) and traced.right.get(f"d{name}") is not None:
                    words = f"{PAGE}the derivative of {other.name} on top of d{name}"
                    yield Edit(3.1, words, run=partial(_on_top, other, name))


def _of_own(other: Rule, traced: Traced) -> dict[str, Any]:
    return {n: v for n, v in {**traced.rule.defaults, **traced.case.hyper}.items() if n in other.hyper}


def _at_other(other: Rule, traced: Traced, needed: int) -> Values:
    named = dict(zip(traced.rule.inputs, traced.inputs, strict=True))
    y, grads = other.vjp(tuple(named.get(n) for n in other.inputs), traced.dy, **_of_own(other, traced))
    found = by_name(other, y, grads)
    found = _grads(found) if traced.rule.has_backward else found
    return {name: x for name, x in found.items() if name in traced.rule.arguments}


def _on_top(other: Rule, name: str, traced: Traced, needed: int) -> Values:
    x, dx = traced.inputs[list(traced.rule.inputs).index(name)], traced.right[f"d{name}"]
    return {f"d{name}": other.vjp((x,), dx, **_of_own(other, traced))[1][0]}
