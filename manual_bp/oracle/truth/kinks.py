"""Kinks and ties of cases that are too large to be certified whole.

Many rules work row by row: where every input and y begin with the same list of axes (`*batch`), what stands behind it
is a row, and where y has one axis more (`units`) of which the input's last axis is a multiple (`units*pieces`), each of
its pieces is one.  Whether that is so is tried: forward of the rows must be the rows of forward.  Then only rows in
which there can be a kink or tie are certified: of an element-wise rule those elements at which the slopes of forward to
the left and to the right differ, of any other those rows in which a number stands twice.

What does not work row by row is certified whole where that is small, with a moderate number in the place of every NaN:
what no NaN reaches is as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from manual_bp import axes
from manual_bp.arithmetic.bounded import Contract, widths
from manual_bp.oracle.case import Case
from manual_bp.outputs import parts
from manual_bp.rule import Rule

Values = tuple[Tensor | None, ...]

# So many elements are certified at once; a rule that couples everything has the square of it in derivatives.
AT_ONCE = 500
# No more rows than that are looked at: two seconds' work.
MOST = 20_000
# The step of a one-sided slope in float64, which leaves half of the digits, and the change of slope that is a kink's:
# a smooth function of moderate curvature changes its slope by about the step.
STEP = 2.0**-26
CHANGE = 2.0**-18
# So many points nearby at most, at such a distance (of the largest number), tell how far off a cotangent may be at a
# tie: of eight tied elements each is ahead of the others in one of them, but for two times in ten thousand.
POINTS = 64
NUDGE = 2.0**-10
# A case of so many elements is certified whole, as in evidence.py; what stands for NaN there is no kink of anything.
MOST_WHOLE = 2000
# And of so many if nothing else can tell whether a program is right that took other subgradients in small cases, all of
# them valid.
LARGER_WHOLE = 2**15
MODERATE = 0.7297


def kinks_of(rule: Rule, case: Case, certified: ModuleType, most: int = MOST_WHOLE) -> Values | None:
    """Where no derivative exists, of y and each input; None if the rule does not work row by row and is not small, is
    a function that ball arithmetic does not know, or has no derivative at all.  most: elements that are small."""
    if not getattr(rule.page, "CERTIFIED", True) or not rule.has_backward:
        return None
    try:
        rows = _rows(rule, case)
        return (
            _kinks_of_whole(rule, case, certified, most)
            if rows is None
            else _kinks_of_rows(rule, rows, case, certified)
        )
    except certified.UnknownFunction:
        if not hasattr(rule.page, "FUNCTION"):
            raise
        return None


def _kinks_of_rows(rule: Rule, rows: Case, case: Case, certified: ModuleType) -> Values:
    masks: list[Tensor | None] = [torch.zeros(case.dy.shape, dtype=torch.bool)]
    masks += [
        torch.zeros(x.shape, dtype=torch.bool) if spec.cotangent else None
        for x, spec in zip(case.inputs, rule.inputs.values(), strict=True)
    ]
    suspects = _suspects(rule, rows)
    if not len(suspects):
        return tuple(masks)
    flat = [None if m is None else m.view(len(rows.dy), -1) for m in masks]
    for chosen in torch.split(suspects[:MOST], _at_once(rows)):
        part = _part(rows, chosen)
        ones = replace(part, dy=torch.ones_like(part.dy))  # whether there is a kink does not depend on dy
        found = certified.truth(rule, ones.inputs, ones.dy, **ones.hyper)
        for mask, grad in zip(flat[1:], found.grads, strict=True):
            if mask is not None and grad is not None:
                mask[chosen] = grad.midpoint().isnan().view(len(chosen), -1)
    return tuple(masks)


def is_subgradient(
    rule: Rule,
    case: Case,
    kinks: Sequence[Tensor | None],
    grads: Values,
    certified: ModuleType,
    allowance: Values | None = None,
    asked_before: int = 0,
) -> bool:
    """Whether the cotangents are a subgradient where there are kinks; False where there are too many to certify, or
    ball arithmetic does not know the function.

    allowance: how far off each may be, beyond 5 ulp.  asked_before: at how many cases those of the same program were.
    """
    if not getattr(rule.page, "CERTIFIED", True):
        return False
    try:
        rows = _rows(rule, case)
        if rows is None:
            return _is_whole_subgradient(rule, case, grads, certified, allowance, asked_before)
        return _is_subgradient_of_rows(rule, rows, kinks, grads, certified, allowance, asked_before)
    except certified.UnknownFunction:
        if not hasattr(rule.page, "FUNCTION"):
            raise
        return False


def _is_subgradient_of_rows(
    rule: Rule,
    rows: Case,
    kinks: Sequence[Tensor | None],
    grads: Values,
    certified: ModuleType,
    allowance: Values | None,
    asked_before: int,
) -> bool:
    count = len(rows.dy)
    marked = [m.reshape(count, -1).any(1) for m in kinks[1:] if m is not None]
    chosen_rows = torch.stack(marked).any(0).nonzero().flatten()
    if len(chosen_rows) > MOST:
        return False
    own, allowed = (
        [None if g is None else g.detach().cpu().reshape(x.shape) for g, x in zip(values, rows.inputs, strict=True)]
        for values in (grads, allowance or (None,) * len(grads))
    )
    for chosen in torch.split(chosen_rows, _at_once(rows)):
        part = _part(rows, chosen)
        few, beyond = (tuple(None if g is None else g[chosen] for g in values) for values in (own, allowed))
        asked = {"allowance": beyond if allowance else None, "asked_before": asked_before, **part.hyper}
        if not certified.passes_as_subgradient(rule, part.inputs, part.dy, few, **asked):
            return False
    return True


def widths_nearby(rule: Rule, case: Case, kinks: Sequence[Tensor | None], contract: Contract) -> Values:
    """How far off each cotangent may be, whichever of tied elements a right program chooses: the most that it may be at
    some points nearby, where nothing is tied.  One more of them makes it wider, never another number due."""
    case, generator = _without_nan(case), torch.Generator().manual_seed(0)
    step = max(NUDGE, 4 * torch.finfo(contract.storage).eps)
    most: list[Tensor | None] = [None] * len(case.inputs)
    inputs, dy = _on_cpu(case)
    for _ in range(POINTS):
        moved = tuple(
            (x + step * x.abs().amax() * (torch.rand(x.shape, generator=generator) - 0.5)).to(x.dtype)
            if x is not None and x.is_floating_point() and x.numel()
            else x
            for x in inputs
        )
        found = widths(rule, moved, dy, contract, **case.hyper).grads
        finite = [None if w is None else w.where(w.isfinite(), 0.0) for w in found]
        most = [b if a is None or b is None else torch.maximum(a, b) for a, b in zip(most, finite, strict=True)]
        told = zip(kinks[len(rule.outputs) :], most, strict=True)
        if not any(bool((w[k] == 0).any()) for k, w in told if k is not None and w is not None):
            break
    return tuple(most)


def _kinks_of_whole(rule: Rule, case: Case, certified: ModuleType, most: int) -> Values | None:
    whole = _without_nan(case)
    if case.elements > most or not all(bool(x.isfinite().all()) for x in whole.tensors if x.is_floating_point()):
        return None
    inputs, dy = _on_cpu(whole)
    ones = tuple(map(torch.ones_like, parts(dy)))  # whether there is a kink does not depend on dy
    try:
        found = certified.truth(rule, inputs, ones if isinstance(dy, tuple) else ones[0], **case.hyper)
    except certified.PrecisionError:
        return None
    smooth = (torch.zeros(d.shape, dtype=torch.bool) for d in parts(dy))
    return (*smooth, *(None if grad is None else grad.midpoint().isnan() for grad in found.grads))


def _is_whole_subgradient(
    rule: Rule, case: Case, grads: Values, certified: ModuleType, allowance: Values | None, asked_before: int
) -> bool:
    whole = _without_nan(case)
    inputs, dy = _on_cpu(whole)
    given = [None if g is None else g.detach().cpu() for g in grads]
    if whole is not case:  # what a NaN reaches is due as it is without one
        _, reached = rule.vjp(*_on_cpu(case), **case.hyper)
        _, own = rule.vjp(inputs, dy, **case.hyper)
        beside = _rows_with_nan(case)  # where programs differ, as in what they make of NaN > 0
        free = [None if g is None or r is None else r.isnan() | beside(g) for g, r in zip(given, reached, strict=True)]
        given = [
            g if g is None or f is None or o is None else torch.where(f, o, g)
            for g, f, o in zip(given, free, own, strict=True)
        ]
        widths = allowance or tuple(None if g is None else torch.zeros(g.shape, dtype=torch.float64) for g in given)
        allowance = tuple(
            w if w is None or f is None else w.masked_fill(f, torch.inf) for w, f in zip(widths, free, strict=True)
        )
    asked = {"allowance": allowance, "asked_before": asked_before, **case.hyper}
    return bool(certified.passes_as_subgradient(rule, inputs, dy, tuple(given), **asked))


def _rows_with_nan(case: Case) -> Callable[[Tensor], Tensor]:
    """Which rows of a cotangent are those in which an input of as many rows has NaN."""
    numbers = [x.detach().cpu() for x in case.inputs if x is not None and x.is_floating_point() and x.ndim]

    def beside(g: Tensor) -> Tensor:
        found = torch.zeros(g.shape, dtype=torch.bool)
        for x in numbers:
            if g.ndim and len(x) == len(g):
                found |= x.isnan().reshape(len(x), -1).any(1).reshape(-1, *(1,) * (g.ndim - 1))
        return found

    return beside


def _without_nan(case: Case) -> Case:
    """The case with a moderate number in the place of every NaN; the case itself if there is none."""
    numbers = [x for x in case.tensors if x.is_floating_point()]
    if not any(bool(x.isnan().any()) for x in numbers):
        return case
    return case.with_tensors(x.where(~x.isnan(), MODERATE) if x.is_floating_point() else x for x in case.tensors)


def _rows(rule: Rule, case: Case) -> Case | None:
    """The case as rows that stand for themselves, along one first axis; None if it is not so, or a row is long."""
    if len(rule.outputs) > 1 or None in (*case.inputs, case.dy):  # such rules do not work row by row, or are rare
        return None
    every = [axes.tokens(rule.annotations[name]) for name in rule.inputs] + [axes.tokens(rule.y_annotation)]
    first = {tokens[0] if tokens else "" for tokens in every}
    if len(first) > 1 or not first.pop().startswith("*") or not case.dy.numel():
        return None
    inputs, dy = _on_cpu(case)
    lengths = [len(tokens) - 1 for tokens in every]
    shapes = [x.shape[x.ndim - n :] for x, n in zip((*inputs, dy), lengths, strict=True)]
    units = dy.shape[-1] if lengths[-1] == 1 else 1
    for pieces in dict.fromkeys((units, 1)):
        if any(n != 1 or shape[-1] % pieces for n, shape in zip(lengths, shapes, strict=True)) and pieces > 1:
            continue
        cut = [(*shape[:-1], shape[-1] // pieces) if shape else () for shape in shapes]
        flat = [x.reshape(-1, *shape) for x, shape in zip((*inputs, dy), cut, strict=True)]
        rows = replace(case, inputs=tuple(flat[:-1]), dy=flat[-1])
        if sum(x[:1].numel() for x in rows.inputs) <= AT_ONCE and _are_alone(rule, case, rows):
            return rows
    return None


def _are_alone(rule: Rule, case: Case, rows: Case) -> bool:
    """Whether forward of the rows is the rows of forward, and of some of them those alone."""
    try:
        whole, of_rows, of_some = (
            rule.forward(*c.inputs, **c.hyper)[0].reshape(-1)
            for c in (case, rows, _part(rows, torch.arange(0, len(rows.dy), 2)))
        )
    except ValueError:  # a hyperparameter names an axis that the rows haven't got
        return False
    some = of_rows.reshape(rows.dy.shape)[::2].reshape(-1)
    return torch.equal(whole.cpu().nan_to_num(), of_rows.nan_to_num()) and torch.equal(
        some.nan_to_num(), of_some.nan_to_num()
    )


def _on_cpu(case: Case) -> tuple[tuple[Any, ...], Any]:
    own = case.with_tensors(x.detach().cpu() for x in case.tensors)
    return own.inputs, own.dy


def _part(rows: Case, chosen: Tensor) -> Case:
    return rows.with_tensors(x[chosen] for x in rows.tensors)


def _at_once(rows: Case) -> int:
    of_a_row: int = sum(x[:1].numel() for x in rows.inputs)
    return max(AT_ONCE // max(of_a_row, 1), 1)


def _suspects(rule: Rule, rows: Case) -> Tensor:
    """The rows in which there may be a kink or tie; none with numbers that are not finite: they cannot be certified."""
    numbers = [x.double() for name, x in zip(rule.inputs, rows.inputs, strict=True) if rule.is_number(name)]
    finite = torch.stack([x.reshape(len(x), -1).isfinite().all(1) for x in numbers]).all(0)
    if rule.elementwise:

        def forward(direction: float) -> Tensor:
            moved = (
                x.double() + direction * STEP * x.double().abs().clamp(min=1.0) if rule.is_number(name) else x
                for name, x in zip(rule.inputs, rows.inputs, strict=True)
            )
            y: Tensor = rule.forward(*moved, **rows.hyper)[0]
            return y

        middle, step = forward(0.0), STEP * numbers[0].abs().clamp(min=1.0)
        right, left = (forward(1.0) - middle) / step, (middle - forward(-1.0)) / step
        suspect = (right - left).abs() > CHANGE * torch.maximum(right.abs(), left.abs()).clamp(min=1.0)
    else:
        ordered = [x.reshape(len(x), -1).sort(1).values for x in numbers]
        suspect = torch.stack([(x[:, 1:] == x[:, :-1]).any(1) for x in ordered]).any(0)
    return torch.nonzero(suspect & finite).flatten()
