"""Edits of packed axes: the gates of a cell, or q, k and v, in another order along the axis that holds them all."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from manual_bp import axes
from manual_bp.oracle.diagnosis.edit import Edit
from manual_bp.oracle.diagnosis.orders import PARTS, rearranged
from manual_bp.oracle.diagnosis.program import Traced, Values, by_name
from manual_bp.rule import Rule


def packed(traced: Traced) -> Iterator[Edit]:
    """The parts of an axis in another order, in forward and backward; and in what forward keeps, in backward alone."""
    rule = traced.rule
    if not rule.has_backward:
        return
    for token, number in _tokens(rule):
        for order in itertools.permutations(range(number)):
            if order != tuple(range(number)):
                said = ", ".join(str(i + 1) for i in order)
                what = f"the {number} parts of the axis {token} (gates, halves, or what else is packed there)"
                words = f"{{}} is as if {what} stood in the order {said}"
                yield Edit(1.5, words, run=partial(_everywhere, token, order))
                yield Edit(1.55, f"{words}, in backward alone", run=partial(_in_backward, token, order))


def _tokens(rule: Rule) -> Iterator[tuple[str, int]]:
    """Axes that are so many times as long as another one, and how many times."""
    found = [t for n in rule.inputs for t in axes.tokens(rule.annotations[n])]
    for token in dict.fromkeys(found):
        for number in PARTS:
            part = f"{int(token) // number}" if token.isdigit() and int(token) % number == 0 else ""
            if token.startswith(f"{number}*") or (part != "1" and part in found):
                yield token, number


def _in_order(x: Any, annotation: Any, token: str, order: Sequence[int]) -> Any:
    """x with the parts of its axes of this name in such an order."""
    if not isinstance(x, Tensor) or not hasattr(annotation, "dim_str"):
        return x
    names = axes.tokens(annotation)
    for i, name in enumerate(names):
        if name == token:
            x = rearranged(x, x.ndim - len(names) + i, order)
    return x


def _back(rule: Rule, token: str, order: Sequence[int], grads: Sequence[Any]) -> list[Any]:
    """Cotangents with the parts where they belong."""
    inverse = [order.index(i) for i in range(len(order))]
    pairs = zip(grads, rule.inputs, strict=True)
    return [_in_order(g, rule.annotations[name], token, inverse) for g, name in pairs]


def _everywhere(token: str, order: Sequence[int], traced: Traced, needed: int) -> Values:
    rule = traced.rule
    pairs = zip(traced.inputs, rule.inputs, strict=True)
    inputs = [_in_order(x, rule.annotations[name], token, order) for x, name in pairs]
    y, residuals = rule.pure(*inputs, **{**rule.defaults, **traced.case.hyper})
    return by_name(rule, y, _back(rule, token, order, rule.page.backward(residuals, traced.dy)))


def _in_backward(token: str, order: Sequence[int], traced: Traced, needed: int) -> Values:
    rule = traced.rule
    y, residuals = rule.pure(*traced.inputs, **{**rule.defaults, **traced.case.hyper})
    kinds = type(residuals).__annotations__
    changed = {name: _in_order(getattr(residuals, name), kind, token, order) for name, kind in kinds.items()}
    grads = rule.page.backward(residuals._replace(**changed), traced.dy)
    return by_name(rule, y, _back(rule, token, order, grads))
