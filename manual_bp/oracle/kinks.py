"""Kinks and ties of cases that are too large to be certified whole.

Where every input and y begin with the same list of axes, `*batch` say, each row stands for itself.  So only rows in
which a kink or tie can be are certified: of an element-wise rule those elements at which the slopes of forward to the
left and to the right differ, of any other those rows in which a number stands twice.
"""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import torch
from torch import Tensor

from manual_bp import axes
from manual_bp.oracle.cases import Case
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


def kinks_of(rule: Rule, case: Case, certified: ModuleType) -> Values | None:
    """Where no derivative exists, of y and each input; None if that cannot be told row by row."""
    lengths = _row_axes(rule)
    if lengths is None:
        return None
    rows = _rows(case, lengths)
    suspects = _suspects(rule, rows)
    masks: list[Tensor | None] = [torch.zeros(case.dy.shape, dtype=torch.bool)]
    masks += [
        torch.zeros(x.shape, dtype=torch.bool) if spec.cotangent else None
        for x, spec in zip(case.inputs, rule.inputs.values(), strict=True)
    ]
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


def is_subgradient(rule: Rule, case: Case, kinks: Values, grads: Values, certified: ModuleType) -> bool:
    """Whether the cotangents are a subgradient in the rows that have a kink.  Raises nothing where that is not known:
    then it is False."""
    lengths = _row_axes(rule)
    if lengths is None:
        whole = [None if g is None else g.detach().cpu() for g in grads]
        return bool(certified.is_subgradient(rule, *_on_cpu(case), tuple(whole), **case.hyper).passed)
    rows = _rows(case, lengths)
    count = len(rows.dy)
    marked = [m.reshape(count, -1).any(1) for m in kinks[1:] if m is not None]
    chosen_rows = torch.stack(marked).any(0).nonzero().flatten()
    own = [
        None if g is None else g.detach().cpu().reshape(count, *x.shape[1:])
        for g, x in zip(grads, rows.inputs, strict=True)
    ]
    if len(chosen_rows) > MOST:
        return False
    for chosen in torch.split(chosen_rows, _at_once(rows)):
        part = _part(rows, chosen)
        few = tuple(None if g is None else g[chosen] for g in own)
        if not certified.is_subgradient(rule, part.inputs, part.dy, few, **part.hyper).passed:
            return False
    return True


def _row_axes(rule: Rule) -> tuple[int, ...] | None:
    """How many axes a row has, of each input and of y; None if rows do not stand for themselves."""
    every = [axes.tokens(rule.annotations[name]) for name in rule.inputs] + [axes.tokens(rule.y_annotation)]
    first = {tokens[0] if tokens else "" for tokens in every}
    if len(first) > 1 or not first.pop().startswith("*"):
        return None
    return tuple(len(tokens) - 1 for tokens in every)


def _on_cpu(case: Case) -> tuple[tuple[Tensor, ...], Tensor]:
    return tuple(x.detach().cpu() for x in case.inputs), case.dy.detach().cpu()


def _rows(case: Case, lengths: tuple[int, ...]) -> Case:
    """The case with one axis of rows in place of all."""
    inputs, dy = _on_cpu(case)
    flat = [x.reshape(-1, *x.shape[x.ndim - n :]) for x, n in zip((*inputs, dy), lengths, strict=True)]
    return replace(case, inputs=tuple(flat[:-1]), dy=flat[-1])


def _part(rows: Case, chosen: Tensor) -> Case:
    return replace(rows, inputs=tuple(x[chosen] for x in rows.inputs), dy=rows.dy[chosen])


def _at_once(rows: Case) -> int:
    of_a_row: int = sum(x[:1].numel() for x in rows.inputs)
    return max(AT_ONCE // max(of_a_row, 1), 1)


def _suspects(rule: Rule, rows: Case) -> Tensor:
    """The rows in which there may be a kink or tie; none with numbers that are not finite: they cannot be certified."""
    numbers = [x.double() for name, x in zip(rule.inputs, rows.inputs, strict=True) if rule.is_number(name)]
    if not rows.dy.numel():
        return torch.zeros(0, dtype=torch.long)
    finite = torch.stack([x.reshape(len(x), -1).isfinite().all(1) for x in numbers]).all(0)
    if rule.elementwise:

        def forward(direction: float) -> Tensor:
            moved = (
                x.double() + direction * STEP * x.double().abs().clamp(min=1.0) if rule.is_number(name) else x
                for name, x in zip(rule.inputs, rows.inputs, strict=True)
            )
            y, _ = rule.forward(*moved, **rows.hyper)
            return y

        middle, step = forward(0.0), STEP * numbers[0].abs().clamp(min=1.0)
        right, left = (forward(1.0) - middle) / step, (middle - forward(-1.0)) / step
        suspect = (right - left).abs() > CHANGE * torch.maximum(right.abs(), left.abs()).clamp(min=1.0)
    else:
        ordered = [x.reshape(len(x), -1).sort(1).values for x in numbers]
        suspect = torch.stack([(x[:, 1:] == x[:, :-1]).any(1) for x in ordered]).any(0)
    return torch.nonzero(suspect & finite).flatten()
