"""An edit: what people write in place of what a page writes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from manual_bp.oracle.diagnosis.program import Altered, Change, Site, Traced, Values
from manual_bp.oracle.diagnosis.words import name_of
from manual_bp.program import Ref

# The first operation costs so much more than the last.
EARLY = 0.1
PAGE, PAGES = "equals the page with ", "the page's with "


class RefusedError(Exception):
    """The page refuses to be called as an edit calls it; a candidate that gives an answer there has no such edit."""


@dataclass(frozen=True, eq=False)
class Edit:
    """cost: how seldom it is met.  words: what is said of the results that it gives, after their name.
    changes: by operation, what it gives instead; or else run: the results that may differ, of those that are needed.
    position: of the operation where it stands, if any.  kind: what it has in common with the same edit elsewhere.
    operand: which of those of the operation is edited alone.  is_registered: a mistake that the page lists, which may
    well give NaN.  exact: the same mistake in float64, where its roundings are those of the case's precision.
    fitted: what was read off the numbers of one case, and is known by a name that has to hold for several numbers.
    """

    cost: float
    words: str
    changes: Mapping[Site, Change] | None = None
    run: Callable[[Any, int], Values] | None = None
    position: int | None = None
    kind: str = ""
    operand: int | None = None
    is_registered: bool = False
    exact: Edit | None = None
    fitted: Callable[[Traced], float] | None = None

    def at(self, traced: Traced) -> dict[int, Change]:
        """The operations of a program that it changes."""
        return {p: change for site, change in (self.changes or {}).items() for p in traced.positions[site]}

    def results(self, traced: Any, needed: int = -1) -> Values:
        """What it gives in a case; raises where it is not defined."""
        found: Values = self.run(traced, needed) if self.run else traced.edited(self.at(traced), needed)
        return found


class Slot(NamedTuple):
    """Where something else may stand: a value of a program, or one operand of an operation alone."""

    traced: Traced
    position: int
    operand: int | None = None

    @property
    def ref(self) -> Ref:
        return Ref(self.position) if self.operand is None else self.traced.nodes[self.position].args[self.operand]

    @property
    def value(self) -> Any:
        """What stands there."""
        value = self.traced.values[self.ref.position]
        return value if self.ref.item is None else value[self.ref.item]

    @property
    def name(self) -> str:
        return name_of(self.traced, self.ref)

    @property
    def stage(self) -> str:
        return self.traced.sites[self.position].stage

    @property
    def operands(self) -> Iterator[Slot]:
        """The operands of an operation that are tensors."""
        slots = (Slot(self.traced, self.position, i) for i, _ in enumerate(self.traced.nodes[self.position].args))
        return (slot for slot in slots if isinstance(slot.ref, Ref) and isinstance(slot.value, Tensor))

    @property
    def is_shared(self) -> bool:
        """Whether what stands there is used elsewhere too."""
        return len(self.traced.used_by[self.ref.position]) > 1

    def instead(self, cost: float, words: str, change: Change, kind: str = "") -> Edit:
        """The operation gives something else, wherever it is reached from the same place; of edits that give the same,
        that which stands next to the result is told."""
        cost += EARLY * (1 - self.position / len(self.traced.nodes))
        if asked := self._asked():
            cost += ASKED if self.operand is None else 0.0
            words += f" where {' and '.join(name_of(self.traced, Ref(p)) for p in asked)} is asked"  # and nowhere else
        site = self.traced.sites[self.position]
        return Edit(cost, PAGE + words, {site: change}, None, self.position, kind, self.operand)

    def _asked(self) -> list[int]:
        """The comparisons that alone are changed by what is done here; none if something else is too."""
        there = self.traced.used_by[self.position] if self.operand is None else [self.position]
        return there if all(self.traced.nodes[p].name in COMPARISONS for p in there) else []

    def edit_at(self, cost: float, words: str, function: Altered, kind: str = "", arg: int | None = None) -> Edit:
        """A function of what stands there, and of what else there is in that run.  arg: of what the operation is called
        with, which is no tensor, in its place."""
        operand = self.operand if arg is None else arg
        return self.instead(cost, words, lambda at: at.altered(lambda x: function(x, at), operand), kind)

    def edit(
        self, cost: float, words: str, function: Callable[[Any], Any], kind: str = "", arg: int | None = None
    ) -> Edit:
        """A function of what stands there alone."""
        return self.edit_at(cost, words, lambda x, _: function(x), kind, arg)


# How much more seldom what is compared is changed than what comes of the comparison, which may only help the page.
ASKED = 1.5
COMPARISONS = ("gt", "ge", "lt", "le", "eq", "ne")
NAMED = ("inputs", "residuals", "results")
"""What has a name, and is no operation of the page."""


def slots_of(traced: Traced, needed: int) -> Iterator[Slot]:
    """The value of every operation, each site once."""
    for every in traced.positions.values():
        there = (p for p in every if needed >> p & 1 and isinstance(traced.values[p], Tensor))
        yield from (Slot(traced, p) for p in itertools.islice(there, 1))


def together(edits: Sequence[Edit]) -> Edit:
    """The same edit in all places in which it can be made."""
    first, *others = edits
    changes = {site: change for edit in edits for site, change in (edit.changes or {}).items()}
    more = f", and likewise in {len(others)} more place{'s' if len(others) > 1 else ''}"
    return Edit(first.cost + 0.5, first.words + more, changes, None, first.position)


def both(one: Edit, two: Edit) -> Edit | None:
    """Two edits of different places; None if they are of one."""
    assert one.changes is not None
    assert two.changes is not None
    if one.changes.keys() & two.changes.keys():
        return None
    words = f"{one.words} and {two.words.removeprefix(PAGE)}"
    return Edit(one.cost + two.cost, words, {**one.changes, **two.changes}, None, one.position)


def times(edit: Edit, argument: str, words: str, factor: Callable[[Traced], float], more: float) -> Edit:
    """An edit, and its result multiplied."""

    def run(traced: Traced, needed: int) -> Values:
        found = edit.results(traced, needed)
        value = found.get(argument)
        return {**found, argument: None if value is None else value * factor(traced)}

    what = f"{PAGES}{edit.words.removeprefix(PAGE)}"
    if "{} is " in edit.words:
        what = edit.words.partition("{} is ")[2]
    said = f"is {words} times {what}"
    return Edit(max(edit.cost, 2) + 1.4 + more, said, None, run, edit.position, fitted=factor)
