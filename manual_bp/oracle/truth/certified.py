"""Certified truth: ball arithmetic on a page's forward, where the case is not too large for it."""

from __future__ import annotations

from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from manual_bp.oracle.case import Case
from manual_bp.oracle.truth.kinks import kinks_of
from manual_bp.rule import Rule

Values = tuple[Tensor | None, ...]

# A case of at most this many input elements is certified.  The work grows with the operations, whatever they couple: of
# no rule it takes more than 0.1 s on one core.
CERTIFIED_ELEMENTS = 2000

# Of an element-wise rule, which has few operations for each.
CERTIFIED_ALONE = 2**13

# Nor has any tensor more that the page makes of them on the way, such as all logits of few features: at 10 operations
# for each and 3 µs for one of them, half a second.
CERTIFIED_ON_THE_WAY = 2**14


Part = tuple[Tensor, Tensor] | None
"""One expected tensor (nan where it is not known) and its own width."""


@cache
def certified_module() -> ModuleType | None:
    """manual_bp.arithmetic.certified, or None if python-flint is not installed."""
    try:
        from manual_bp.arithmetic import certified
    except ImportError:
        return None
    return certified


class LeftOpen(Exception):
    """Somebody's function goes by an index that a tie leaves open there, so that any of several results is right."""


def truth_at(rule: Rule, case: Case) -> list[Part] | None:
    """Certified truth, rounded to float64 once; nan at kinks.  None of a derivative that is not that of forward.
    Raises LeftOpen."""
    balls = certified_module() if getattr(rule.page, "CERTIFIED", True) else None
    numbers = [x for x in case.tensors if x.is_floating_point()]
    fitting = CERTIFIED_ALONE if rule.elementwise else CERTIFIED_ELEMENTS
    too_large = case.elements > fitting
    if balls is None or too_large or not all(bool(x.isfinite().all()) for x in numbers):
        return None
    own = case.with_tensors(x.detach().cpu() for x in case.tensors)
    try:
        found = balls.truth(rule, own.inputs, own.dy, **case.hyper)
    except balls.PrecisionError:
        if not hasattr(rule.page, "FUNCTION"):
            raise
        return None  # numbers of somebody's function are equal there by no operation that ball arithmetic can tell
    except balls.UnknownFunction as unknown:
        if not hasattr(rule.page, "FUNCTION"):
            raise
        if not isinstance(unknown, balls.UnknownHere):
            vars(rule.page).update(CERTIFIED=False, UNCERTIFIED=unknown.function)  # nor is it at any other case
        elif isinstance(unknown, balls.LeftOpen):
            raise LeftOpen from None
        return None
    u = torch.finfo(torch.float64).eps / 2
    smallest = torch.finfo(torch.float64).smallest_normal * 2 * u
    parts: list[Part] = []
    for each in (*found.outputs, *found.grads):
        value = None if each is None else each.midpoint()
        parts.append(None if value is None else (value, (u * value.abs().nan_to_num()).clamp(min=smallest)))
    return parts


def certified_kinks(rule: Rule, case: Case) -> Values | None:
    """Where no derivative exists, if that can be certified row by row."""
    balls = certified_module() if getattr(rule.page, "CERTIFIED", True) else None
    return None if balls is None else kinks_of(rule, case, balls)
