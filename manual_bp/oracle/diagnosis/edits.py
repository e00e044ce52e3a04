"""All edits of a program.

A family is a function from an operation of a program to edits of it.  An edit that costs less is met more often, and is
tried first.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from manual_bp.oracle.diagnosis.blocks import blocks
from manual_bp.oracle.diagnosis.borders import borders
from manual_bp.oracle.diagnosis.edit import NAMED, PAGE, Edit, slots_of, together
from manual_bp.oracle.diagnosis.operations import operations
from manual_bp.oracle.diagnosis.orders import reordered, rounds
from manual_bp.oracle.diagnosis.program import MOVES, At, Site, Traced
from manual_bp.oracle.diagnosis.uses import uses
from manual_bp.oracle.diagnosis.values import constants, functions, operands, others


def edits_of(traced: Traced, needed: int) -> Iterator[Edit]:
    """All edits of one operation, and those that are made in the same way wherever they can be, in no order."""
    often = list(often_met(traced, needed))
    yield from often
    yield from seldom_met(traced, needed, often)


def often_met(traced: Traced, needed: int) -> Iterator[Edit]:
    """Of the families of which some edits are met often: of one value, operand, operation or number."""
    kinds: dict[str, list[Edit]] = {}
    for slot in slots_of(traced, needed):
        is_named, is_move = slot.stage in NAMED, traced.nodes[slot.position].name in MOVES
        single = [functions(slot), others(slot)] if is_named or not is_move else []
        if not is_named:
            single += [operations(slot), borders(slot), *map(operands, slot.operands)]
            single += [] if is_move else [constants(slot)]
        for edit in itertools.chain(*single):
            if edit.kind:
                kinds.setdefault(edit.kind, []).append(edit)
            yield edit
    yield from exchanged(traced)
    yield from rounds(traced, needed)
    for several in kinds.values():
        backward = [edit for edit in several if traced.sites[edit.position or 0].stage == "backward"]
        for group in (several, backward) if 1 < len(backward) < len(several) else (several,):
            if len(group) > 1:
                yield together(group)


def seldom_met(traced: Traced, needed: int, often: Sequence[Edit]) -> Iterator[Edit]:
    """The others: one use alone, parts and orders of axes.  often: those that are met often."""
    yield from uses(traced, needed, often)
    for slot in slots_of(traced, needed):
        if slot.stage in NAMED and slot.value.ndim:
            yield from blocks(slot)
            yield from reordered(slot)


def exchanged(traced: Traced) -> Iterator[Edit]:
    """Two inputs, two residuals or two results of one shape, each in place of the other."""
    for stage in NAMED:
        there = [p for p, site in enumerate(traced.sites) if site.stage == stage and p in traced.names]
        for one, two in itertools.combinations(there, 2):
            x, other = traced.values[one], traced.values[two]
            if x.shape == other.shape and x.dtype == other.dtype and traced.alike[one] != traced.alike[two]:
                words = f"{PAGE}`{traced.names[one]}` and `{traced.names[two]}` exchanged"
                pairs = {one: two, two: one}
                changes = {traced.sites[p]: partial(_value_of, traced.sites[q]) for p, q in pairs.items()}
                yield Edit(2.0 + 0.4 * (stage == "inputs"), words, changes, None, two)


def _value_of(site: Site, at: At) -> Any:
    """What stands there, before anything is exchanged; results depend on each other in no way."""
    (position,) = at.traced.positions[site]
    return at.traced.values[position]
