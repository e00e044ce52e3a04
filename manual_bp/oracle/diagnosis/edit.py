"""An edit: what people write in place of what a page writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from manual_bp.oracle.diagnosis.program import Change, Site, Traced, Values

# The first operation costs so much more than the last.
EARLY = 0.1
PAGE = "equals the page with "


@dataclass(frozen=True, eq=False)
class Edit:
    """cost: how seldom it is met.  words: what is said of the results that it gives, after their name.
    changes: by operation, what it gives instead; or else run: the results that may differ, of those that are needed.
    position: of the operation where it stands, if any.  kind: what it has in common with the same edit elsewhere.
    operand: which of those of the operation is edited alone.  is_registered: a mistake that the page lists, which may
    well give NaN.
    """

    cost: float
    words: str
    changes: Mapping[Site, Change] | None = None
    run: Callable[[Traced, int], Values] | None = None
    position: int | None = None
    kind: str = ""
    operand: int | None = None
    is_registered: bool = False

    def results(self, traced: Traced, needed: int = -1) -> Values:
        """What it gives in a case; raises where it is not defined."""
        if self.run is not None:
            return self.run(traced, needed)
        assert self.changes is not None
        changes = {p: change for site, change in self.changes.items() for p in traced.positions[site]}
        return traced.edited(changes, needed)


def at_site(
    traced: Traced, position: int, cost: float, words: str, change: Change, kind: str = "", operand: int | None = None
) -> Edit:
    """An operation that gives something else, wherever it is reached from the same place; of edits that give the same,
    that which stands next to the result is told."""
    cost += EARLY * (1 - position / len(traced.nodes))
    return Edit(cost, PAGE + words, {traced.sites[position]: change}, None, position, kind, operand)


def together(edits: Sequence[Edit]) -> Edit:
    """The same edit in all places in which it can be made."""
    first, *others = edits
    changes = {site: change for edit in edits for site, change in (edit.changes or {}).items()}
    more = f", and likewise in {len(others)} more place{'s' if len(others) > 1 else ''}"
    return Edit(first.cost + 0.5, first.words + more, changes, None, first.position)
