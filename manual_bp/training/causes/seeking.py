"""Why an engine's update is wrong: which wrong update explains every step that was seen.

One step may not tell: the first of Adam is the sign of the gradient, whatever its beta is, and one that is made in
every second step alone is right in the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import torch

from manual_bp.oracle.diagnosis.deadline import Deadline, TimeIsUp
from manual_bp.training.causes.explaining import IMPOSSIBLE, frozen_moved, not_moved
from manual_bp.training.causes.following import Course, Found, Made, Seen, listed
from manual_bp.training.causes.wrong_decays import wrong_decays
from manual_bp.training.causes.wrong_formulas import wrong_formulas
from manual_bp.training.causes.wrong_numbers import numbers
from manual_bp.training.causes.wrong_rates import factors, rates, rounded
from manual_bp.training.causes.wrong_updates import sometimes, wrong_updates
from manual_bp.training.step import Step
from manual_bp.wording import counted

SECONDS = 10.0
"""Of computing, for one search."""
MOST_NUMBERS = 2**24
"""Of what is remembered: 64 MB in float32.  Of a larger network the latest steps alone are looked at."""
MOST_STEPS = 16
"""After the first that disagrees: enough for moments to tell apart what they are made of."""
MOST_CAUSES = 3
"""Of causes that the steps do not tell apart, so many are said."""
SAME = 1e-12
"""Relative: by how much two wrong updates in float64 that are one and the same may differ."""


class UpdatesSeen:
    """What is remembered of an engine's updates, and the cause that explains them all."""

    def __init__(self, step: Step, dtype: torch.dtype) -> None:
        self.step, self.dtype = step, dtype
        self.steps: list[Seen] = []
        self.first_wrong: int | None = None

    def note(self, seen: Seen, is_wrong: bool) -> None:
        if self.first_wrong is not None and seen.number > self.first_wrong + MOST_STEPS:
            return
        if self.first_wrong is None and is_wrong:
            self.first_wrong = seen.number
        self.steps.append(seen)
        while len(self.steps) > 1 and sum(each.numbers for each in self.steps) > MOST_NUMBERS:
            if self.first_wrong is not None and self.steps[0].number >= self.first_wrong:
                self.steps.pop()
                return
            self.steps.pop(0)

    def cause(self) -> str:
        """The wrong updates that an engine's can be, in words; "" if none of those that are known."""
        for seen in self.steps:
            if moved := frozen_moved(self.step, seen.state, seen.shown):
                return moved
        if len(self.steps) > 1 and (still := self._nothing_moves()):
            return still
        found: dict[str, Made] = {}
        with suppress(TimeIsUp):
            found = self._found(Deadline(SECONDS))
        several = "these steps do" if len(self.steps) > 1 else "this step does"
        told = "; or ".join(list(found)[:MOST_CAUSES]) + ("; or others" if len(found) > MOST_CAUSES else "")
        return f"{told} ({several} not tell which)" if len(found) > 1 else told or self._still()

    def _found(self, deadline: Deadline) -> dict[str, Made]:
        """From what leaves nothing open to what is read off the updates themselves: a number, a number for each step,
        the parameters or the steps in which something is wrong."""
        ways = (True, False) if len(self.steps) > 1 else (False,)
        courses = [Course(self.step, self.dtype, self.steps, is_own, deadline) for is_own in ways]
        for those in (_usual, _numbers, rates):
            for course in courses:
                if found := _different(those(course)):
                    return found
        if self._still():
            return {}
        for course in courses:
            if not 0 < len(course.wrong) < len(course.judged):
                continue
            partly = replace(course, names=course.wrong)
            for those in (_usual, _numbers, rates):
                if found := _different(those(partly)):
                    return {f"{words}; of {listed(sorted(course.wrong))} alone": made for words, made in found.items()}
        for course in courses if len(self.steps) > 1 else ():
            if found := _different(_in_some_steps(course)):
                return found
        return {}

    def _nothing_moves(self) -> str:
        """That no parameter has moved in several steps though all were to, in words; else "".

        A loop that steps seldom would have, once, if it was seen for so long."""
        for seen in self.steps:
            due, _ = seen.due(self.step, self.dtype, False)
            moving = [n for n, p in due.params.items() if not torch.equal(p.cpu(), seen.state.params[n].double().cpu())]
            here = [n for n in moving if n in seen.shown.params]
            if not here or any(
                not torch.equal(seen.shown.params[n].to(p), p) for n, p in seen.state.params.items() if n in here
            ):
                return ""
        many = counted(len(self.steps), "step")
        return f"no parameter is moved in {many}: the optimiser makes no step, or has other tensors than the network's"

    def _still(self) -> str:
        """Which parameters never move, in words."""
        said = {not_moved(seen.state, seen.due(self.step, self.dtype, False)[0], seen.shown) for seen in self.steps}
        return said.pop() if len(said) == 1 else ""


def _usual(course: Course) -> Iterator[Found]:
    shown = [(seen.state, seen.gradients, seen.shown.params) for seen in course.steps]
    if course.names is None:
        yield from course.each(wrong_decays(course.step, shown, course.is_own))
    yield from course.each(wrong_updates(course.step))
    if course.names is None:
        yield from factors(course)
    yield from rounded(course)
    yield from course.each(wrong_formulas(course.step))


def _numbers(course: Course) -> Iterator[Found]:
    """One number, or, where two steps cannot tell it from one for each, these too."""
    yield from numbers(course)
    if len(course.steps) == 2:
        yield from rates(course)


def _in_some_steps(course: Course) -> Iterator[Found]:
    for words, update in sometimes(course.step):
        for by_name in (False, True):
            with suppress(*IMPOSSIBLE):
                if (told := course.sometimes(update, by_name)) is not None:
                    made, where = told
                    yield f"{words} {_said(where, by_name)}", made
                    break


def _said(where: dict[int, list[str]], by_name: bool) -> str:
    """Steps, with the parameters in each."""
    if not by_name:
        return f"in step{'s' * (len(where) > 1)} {listed(list(map(str, where)))} alone"
    alike = {tuple(names) for names in where.values()}
    if len(alike) == 1:
        return f"{_said(where, False)}, of {listed(list(alike.pop()))}"
    each = [f"{listed(names)} in step {number}" for number, names in where.items()]
    return f"of some parameters in some steps alone: {', '.join(each[:3])}{', ...' if len(each) > 3 else ''}"


def _different(those: Iterator[Found]) -> dict[str, Made]:
    """Without what is the same in other words."""
    found: dict[str, Made] = {}
    for words, made in those:
        if not any(map(_alike, [made] * len(found), found.values())):
            found[words] = made
    return found


def _alike(first: Made, other: Made) -> bool:
    return all(
        bool(((a[n] - b[n]).abs() <= SAME * a[n].abs()).all())
        for a, b in zip(first, other, strict=True)
        for n in a.keys() & b.keys()
    )
