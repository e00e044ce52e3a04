"""Branches: wrong only where some number is beyond a threshold, which is read off the candidate's own results."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from manual_bp.oracle.diagnosis.agreement import APART
from manual_bp.oracle.diagnosis.examination import Examination
from manual_bp.oracle.diagnosis.formulas import formula_of
from manual_bp.oracle.diagnosis.hypothesis import Explanation
from manual_bp.oracle.diagnosis.points import Points, points_of, threshold
from manual_bp.oracle.words import counted

# From one case come at most so many numbers: few of them may be beyond the threshold.
PER_CASE = 200
# A threshold is read off so many wrong numbers, and as many right ones, at least.
NUMBERS = 3
# And by chance it would be found in fewer than one of so many arrangements of them.
CHANCE = 1e6
# An approximation is right to one of these shares of what is due, where it is good.
LEVELS = (0.01, 0.1)


def branches(found: Examination) -> Iterator[Explanation]:
    """A threshold with all that is wrong on one side, and what stands there."""
    for argument in found.unexplained():
        points = points_of(found, argument, PER_CASE, finite=False)
        if points is None:
            continue
        tiny = torch.finfo(found.dtype).smallest_normal  # below it flushing to 0 is no error
        wrong = ~((points.got - points.expected).abs() <= APART * points.allowance + tiny)
        right = ~wrong & (points.expected.abs() > APART * points.allowance)  # elsewhere an error may not show
        if not _is_evident(int(wrong.sum()), int(right.sum())):
            continue
        for name, x in _letters(points).items():
            place = threshold(name, x[wrong], x[right])
            if place:
                words = f"{{}} is wrong where {place[0]}, and right where {place[1]}"
                what = _what(found, points, wrong)
                evidence = (
                    f"so in {int(wrong.sum())} and {int(right.sum())} numbers from {counted(points.cases, 'case')}"
                )
                yield Explanation({argument}, f"{words}: {what}{evidence}")
                break


def _is_evident(wrong: int, right: int) -> bool:
    """Whether so many numbers show a threshold.  What is wrong nearly everywhere has none: there the error only grows
    from below the allowance."""
    return wrong <= 2 * right and _is_no_chance(wrong, right)


def _is_no_chance(one: int, other: int) -> bool:
    """Whether so many numbers on the two sides of a threshold would hardly be found in order by chance."""
    return min(one, other) >= NUMBERS and math.comb(one + other, one) > CHANCE


def _letters(points: Points) -> dict[str, Tensor]:
    """What a threshold may be on."""
    letters = {name: x for name, x in points.letters.items() if len(set(x.tolist())) > NUMBERS}
    letters |= {f"|{name}|": x.abs() for name, x in letters.items()}
    letters |= {"dy": points.dy, "|dy|": points.dy.abs()} if bool((points.dy != 1).any()) else {}
    factor = points.expected / points.dy
    return letters | {
        "the right factor": factor,
        "|the right factor|": factor.abs(),
        "|what is due|": points.expected.abs(),
    }


def _what(found: Examination, points: Points, wrong: Tensor) -> str:
    """What stands where it is wrong."""
    side = points.where(wrong)
    finite = side.got.isfinite()
    if not bool(finite.any()):
        return "NaN or infinity stands there; "
    if not bool((side.got[finite] != 0).any()):
        if bool(finite.all()):
            return "0 stands there; "
        return "0, NaN or infinity stands there; "
    side = side.where(finite)
    formula = formula_of(found, side)
    is_clipped = formula and not any(letter in formula.replace("dy", "") for letter in points.letters)
    constant = ", whatever the input, as of what is clipped or saturates" if is_clipped else ""
    return f"{formula} stands there{constant}; " if formula else ""


def approximations(found: Examination) -> Iterator[Explanation]:
    """Nearly right up to some size of a number, and farther and farther off beyond."""
    for argument in found.unexplained():
        points = points_of(found, argument, PER_CASE)
        if points is not None and (words := _approximation(points)):
            cases = counted(points.cases, "case")
            yield Explanation({argument}, f"{{}} is {words} numbers from {cases}")


def _approximation(points: Points) -> str:
    """Where it is good and where it is not, with how many numbers show it; empty if no threshold parts them."""
    error = (points.got - points.expected).abs()
    for level in LEVELS:
        off = error > level * points.expected.abs() + APART * points.allowance
        near = ~off & (points.expected.abs() > APART * points.allowance / level)
        if not _is_no_chance(int(off.sum()), int(near.sum())):
            continue
        for name, x in _letters(points).items():
            if place := threshold(name, x[off], x[near]):
                words = f"right to {level:.0%} where {place[1]}, and off by more where {place[0]}"
                return f"{words}; so in {int(near.sum())} and {int(off.sum())}"
    return ""
