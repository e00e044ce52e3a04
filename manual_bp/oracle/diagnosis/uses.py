"""Edits of one use: a value is used several times, and in one of these it is made with an edit
of what it is made of.  Of what forward keeps: at all uses too, while y is as it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from manual_bp.oracle.diagnosis.edit import PAGE, Edit, Slot
from manual_bp.oracle.diagnosis.program import MOVES, Altered, At, Traced
from manual_bp.oracle.diagnosis.sketch import LONG
from manual_bp.oracle.diagnosis.values import another
from manual_bp.oracle.diagnosis.words import name_of
from manual_bp.program import Ref

# An edit that is met more seldom is not asked of one use alone.
OFTEN = 2.6
# So much more seldom is what forward keeps made otherwise than all that forward gives, and one use than all.
ALONE, AT_ONE = 0.4, 0.3


def uses(traced: Traced, needed: int, edits: Sequence[Edit]) -> Iterator[Edit]:
    """edits: of one operation."""
    if len(traced.nodes) > LONG:  # all pairs of operations are too many
        return
    cheap = [e for e in edits if e.cost <= OFTEN and e.position is not None and e.operand is None]
    cheap = [e for e in cheap if len(e.changes or ()) == 1]
    kept = [p for p, site in enumerate(traced.sites) if site.stage == "residuals" and needed >> p & 1]
    for position in kept:
        of_forward = [e for e in cheap if e.position in traced.before(position)]
        yield from _made_with(traced, position, needed, of_forward)
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


def _made_with(traced: Traced, position: int, needed: int, edits: Sequence[Edit]) -> Iterator[Edit]:
    is_kept = traced.sites[position].stage == "residuals"
    name = name_of(traced, Ref(position))
    for edit in edits:
        words = f"{edit.words.removeprefix(PAGE)} in {name}"
        if is_kept:
            kept = Slot(traced, position)
            made = _made_otherwise(edit, kept, position)
            yield kept.edit_at(edit.cost + ALONE, f"{words} as it is kept for backward", made)
        for user, i in _uses_of(traced, position, needed):
            here = Slot(traced, user, i)
            cost, words_here = edit.cost + AT_ONE + ALONE * is_kept, f"{words} where it makes {Slot(traced, user).name}"
            yield here.edit_at(cost, words_here, _made_otherwise(edit, here, position))


def _made_otherwise(edit: Edit, slot: Slot, position: int) -> Altered:
    """What a value that stands somewhere is after an edit."""
    find = another(slot.traced, slot.position, position)

    def otherwise(x: Any, at: At) -> Any:
        changed = at.traced.after(edit.at(at.traced), at.traced.needed_at([at.position]))
        return find(x, At(at.traced, at.position, changed))

    return otherwise
