"""Edits of one use: a value is used several times, and in one of these it is made otherwise: with another
hyperparameter, or with an edit of what it is made of.  Of what forward keeps: at all uses too, while y is as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from manual_bp.oracle.diagnosis.edit import PAGE, Edit, at_site
from manual_bp.oracle.diagnosis.program import MOVES, At, Traced, Values
from manual_bp.oracle.diagnosis.values import finder, other_operand
from manual_bp.oracle.diagnosis.whole import CHANGED, Setting, settings
from manual_bp.oracle.diagnosis.words import name_of
from manual_bp.program import Ref

# An edit that is met more seldom is not asked of one use alone.
OFTEN = 2.6
# Of longer programs (many rounds of a loop) all pairs of operations are too many.
LONG = 500
# So much more seldom is what forward keeps made otherwise than all that forward gives, and one use than all.
ALONE, AT_ONE = 0.4, 0.3


def uses(traced: Traced, needed: int, edits: Sequence[Edit]) -> Iterator[Edit]:
    """edits: of one operation."""
    if len(traced.nodes) > LONG:
        return
    cheap = [e for e in edits if e.cost <= OFTEN and e.position is not None and e.operand is None]
    kept = [p for p, site in enumerate(traced.sites) if site.stage == "residuals" and needed >> p & 1]
    for position in kept:
        of_forward = [e for e in cheap if e.position in traced.before(position)]
        yield from _made_with(traced, position, needed, of_forward)
    if hasattr(traced.residuals, "_fields"):
        yield from _set_otherwise(traced, needed, kept)
    for position, node in enumerate(traced.nodes):
        if traced.sites[position].stage == "backward" and node.name not in MOVES:
            own = _only_through(traced, position, needed)
            yield from _made_with(traced, position, needed, [e for e in cheap if e.position in own])


def _uses_of(traced: Traced, position: int, needed: int) -> list[tuple[int, int]]:
    """The operations that use a value, and as which operand; nothing if there is one alone."""
    found = [(u, i) for u in traced.used_by[position] if needed >> u & 1 for i, a in enumerate(traced.nodes[u].args)
             if a == Ref(position)]  # fmt: skip
    return found if len(found) > 1 else []


def _only_through(traced: Traced, position: int, needed: int) -> set[int]:
    """The operations on which results depend through this value alone."""
    found = {position}
    for p in range(position - 1, -1, -1):
        users = [u for u in traced.used_by[p] if needed >> u & 1]
        if users and all(u in found for u in users):
            found.add(p)
    return found - {position}


# ------------------------------------------------------------------------------------------------- with an edit


def _made_with(traced: Traced, position: int, needed: int, edits: Sequence[Edit]) -> Iterator[Edit]:
    is_kept = traced.sites[position].stage == "residuals"
    name = name_of(traced, Ref(position))
    for edit in edits:
        words = f"{edit.words.removeprefix(PAGE)} in {name}"
        own = partial(_otherwise, edit, position, finder(traced, position, position))
        if is_kept:
            yield at_site(traced, position, edit.cost + ALONE, f"{words} as it is kept for backward", own)
        for user, i in _uses_of(traced, position, needed):
            find = partial(_otherwise, edit, position, finder(traced, user, position))
            words_here = f"{words} where it makes {name_of(traced, Ref(user))}"
            cost = edit.cost + AT_ONE + ALONE * is_kept
            yield at_site(traced, user, cost, words_here, partial(other_operand, i, find), operand=i)


def _otherwise(edit: Edit, position: int, find: Callable[[At], Any], at: At) -> Any:
    """What a value is after an edit."""
    changed = at.traced.after(edit.at(at.traced), at.traced.needed_at([at.position]))
    return find(At(at.traced, at.position, changed))


# ------------------------------------------------------------------------------------- with another hyperparameter


def _set_otherwise(traced: Traced, needed: int, kept: Sequence[int]) -> Iterator[Edit]:
    for setting in settings(traced.rule):
        words = f"made with {setting.words.partition(' is that of ')[2]}"
        try:
            made = _made(setting, traced)
        except Exception:  # it is not defined here
            continue
        for position in kept:
            name = traced.names.get(position, "")
            right, other = (getattr(residuals, name, None) for residuals in (traced.residuals, made))
            if isinstance(right, Tensor) and isinstance(other, Tensor) and not torch.equal(right, other):
                find = partial(_field, setting, name)
                said = f"`{name}` {words}"
                yield at_site(traced, position, setting.cost + ALONE, said, find)
                for user, i in _uses_of(traced, position, needed):
                    cost = setting.cost + ALONE + AT_ONE
                    yield at_site(traced, user, cost, said, partial(other_operand, i, find), operand=i)
        for name in made._fields:
            if type(getattr(made, name)) in (int, float) and getattr(made, name) != getattr(traced.residuals, name):
                find = partial(_field, setting, name)
                yield from _of_number(traced, name, f"`{name}` {words}", setting.cost + ALONE, find)
    for name in traced.residuals._fields:
        if type(getattr(traced.residuals, name)) in (int, float):
            for i, (words, function) in enumerate(CHANGED.items()):
                said = f"`{name}` taken for {words.format(name).partition(' is that of ')[2]}"
                yield from _of_number(traced, name, said, 2.3 + i / 20, partial(_changed, name, function))


def _made(setting: Setting, traced: Traced) -> Any:
    """What forward keeps with another hyperparameter."""
    if setting not in traced.made:
        traced.made[setting] = setting.run(traced)[1]
    return traced.made[setting]


def _field(setting: Setting, name: str, at: At) -> Any:
    return getattr(_made(setting, at.traced), name)


def _changed(name: str, function: Callable[[Any], Any], at: At) -> Any:
    return function(getattr(at.traced.residuals, name))


def _of_number(traced: Traced, name: str, words: str, cost: float, find: Callable[[At], Any]) -> Iterator[Edit]:
    """Numbers have no operation: those of the program that are equal are it."""
    yield Edit(cost, PAGE + words, run=partial(_backward, name, find))
    number = getattr(traced.residuals, name)
    for position, node in enumerate(traced.nodes):
        for i, a in enumerate(node.args):
            if type(a) in (int, float) and a == number and traced.sites[position].stage == "backward":
                yield at_site(traced, position, cost + AT_ONE, words, partial(other_operand, i, find), operand=i)


def _backward(name: str, find: Callable[[At], Any], traced: Traced, needed: int) -> Values:
    rule = traced.rule
    grads = rule.page.backward(traced.residuals._replace(**{name: find(At(traced, 0, {}))}), traced.dy)
    named = zip(rule.arguments[len(rule.outputs) :], grads, strict=True)
    return {argument: x for argument, x in named if isinstance(x, Tensor)}
