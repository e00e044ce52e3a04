"""Updates that go another way than is due: by one factor in all steps, by one in each, or to numbers of 16 bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from manual_bp.arithmetic.perturbed import wide
from manual_bp.training.causes.following import Course, Found, Made, listed
from manual_bp.training.causes.wrong_gradients import ROUNDED

# One number among many wrong ones is no cause: it must account for nearly all that they are off.
NEARER = 8
MOST_LISTED = 6
"""Rates in one sentence."""


def factors(course: Course) -> Iterator[Found]:
    """All parameters, or some, that move by the same multiple of what is due in every step."""
    moves = {name: list(course.pairs(name)) for name in course.judged}
    if not moves:
        return
    own = {name: _multiple(pairs) for name, pairs in moves.items()}
    for some in (list(moves), *_kinds(course, list(moves))):
        c = _multiple([pair for name in some for pair in moves[name]]) if some else None
        if c is None or _is_none(c) or any(own[name] is None for name in some):
            continue
        of_each = {name: c if name in some else 1.0 for name in moves}
        if (made := course.multiplied([of_each] * len(course.steps))) is None:
            continue
        whose = "the parameters move" if len(some) == len(moves) else f"{listed(some)} move, and no other,"
        said = "another learning rate, a factor of the gradients, or a mean of parameters in place of these"
        yield f"{whose} by {c:.6g} times what is due: {said}", made


def rates(course: Course) -> Iterator[Found]:
    """Parameters that move by another multiple of what is due in each step: as by another schedule."""
    moves = {name: list(course.pairs(name)) for name in course.judged}
    if len(course.steps) < 2 or not moves:
        return
    of_each = [_multiple([pairs[k] for pairs in moves.values()]) for k in range(len(course.steps))]
    found = [1.0 if c is None else c for c in of_each]
    if None in of_each or any(map(_is_none, found)):
        return
    if (made := course.multiplied([dict.fromkeys(moves, c) for c in found])) is None:
        return
    step = course.step
    due = [
        float((step.schedule.at(step.optimizer, seen.state.steps) if step.schedule else step.optimizer).config["lr"])  # type: ignore[arg-type]
        for seen in course.steps
    ]
    came = [float(f"{c * lr:.4g}") for c, lr in zip(found, due, strict=True)]
    yield (
        f"the learning rate is {_said(came)} in steps {course.steps[0].number}, {course.steps[1].number}, ..., where "
        f"{_said(due)} is due (or the gradients have such factors)",
        made,
    )


def rounded(course: Course) -> Iterator[Found]:
    """Parameters that are numbers of 16 bits in every step, within one place there of what is due."""
    for dtype in ROUNDED:
        found: Made = []
        is_visible = False
        for seen in course.steps:
            due, width = course.due(seen)
            shown = {n: p.detach().cpu() for n, p in seen.shown.params.items() if n in course.judged}
            shown = {n: p for n, p in shown.items() if n not in course.step.frozen}
            if not all(torch.equal(p.to(dtype).to(p.dtype), p) for p in shown.values()):
                break
            off = {n: (p.double() - due.params[n].cpu()).abs() for n, p in shown.items()}
            # Both where the update begins and where it ends may be rounded, by half a place each.
            place = {n: torch.finfo(dtype).eps * due.params[n].cpu().abs() + width.params[n].cpu() for n in off}
            if not all(bool((off[n] <= place[n]).all()) for n in off):
                break
            is_visible |= any(bool((off[n] > width.params[n].cpu()).any()) for n in off)
            found.append(wide(shown))
        else:
            if is_visible:
                yield f"the parameters are rounded to {str(dtype).removeprefix('torch.')}", found


def _kinds(course: Course, names: list[str]) -> Iterator[list[str]]:
    """Weights, all others, and each by itself."""
    weights = [name for name in names if name in course.step.weights]
    yield weights
    yield [name for name in names if name not in weights]
    yield from ([name] for name in names)


def _is_none(c: float) -> bool:
    """Whether what moves by so much does not move at all, which is told as such."""
    return abs(c) < 1 / NEARER**2


def _multiple(pairs: list[tuple[Tensor, Tensor]]) -> float | None:
    """By how much what came is what is due, where one number accounts for it."""
    came, due = (torch.cat(some) for some in zip(*pairs, strict=True))
    if not float(due.norm()) or not bool(came.isfinite().all()):
        return None
    c = float(came @ due / (due @ due))
    if float((came - c * due).norm()) * NEARER > float((came - due).norm()):
        return 1.0 if float((came - due).norm()) <= float(due.norm()) / NEARER else None
    return c


def _said(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values[:MOST_LISTED]) + (", ..." if len(values) > MOST_LISTED else "")
