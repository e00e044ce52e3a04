"""All edits of a program.

A family is a function from an operation of a program to edits of it.  An edit that costs less is met more often, and is
tried first.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import Tensor

from manual_bp.oracle.diagnosis.blocks import blocks
from manual_bp.oracle.diagnosis.edit import PAGE, Edit, Slot, together
from manual_bp.oracle.diagnosis.operations import operations
from manual_bp.oracle.diagnosis.orders import reordered, rounds
from manual_bp.oracle.diagnosis.program import MOVES, At, Site, Traced
from manual_bp.oracle.diagnosis.uses import uses
from manual_bp.oracle.diagnosis.values import combined_with_others, constants, functions, operands, others


def edits_of(traced: Traced, needed: int) -> Iterator[Edit]:
    """All edits of one operation, and those that are made in the same way wherever they can be, in no order."""
    kinds: dict[str, list[Edit]] = {}
    every: list[Edit] = []
    for edit in _single(traced, needed):
        every.append(edit)
        if edit.kind:
            kinds.setdefault(edit.kind, []).append(edit)
        yield edit
    yield from exchanged(traced)
    yield from uses(traced, needed, every)
    for several in kinds.values():
        backward = [edit for edit in several if _stage(traced, edit) == "backward"]
        for group in (several, backward) if 1 < len(backward) < len(several) else (several,):
            if len(group) > 1:
                yield together(group)


def exchanged(traced: Traced) -> Iterator[Edit]:
    """Two inputs, two residuals or two results of one shape, each in place of the other."""
    for stage in ("inputs", "residuals", "results"):
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


def _stage(traced: Traced, edit: Edit) -> str:
    return traced.sites[edit.position].stage if edit.position is not None else ""


def _single(traced: Traced, needed: int) -> Iterator[Edit]:
    seen: set[Site] = set()
    for position, node in enumerate(traced.nodes):
        site = traced.sites[position]
        if site in seen or not needed >> position & 1 or not isinstance(traced.values[position], Tensor):
            continue
        seen.add(site)
        is_named = site.stage in ("inputs", "residuals", "results")
        slot = Slot(traced, position)
        if node.name not in MOVES or is_named:
            for family in (functions, others, combined_with_others):
                yield from family(slot)
        if is_named:
            for family in (blocks, reordered) if slot.value.ndim else ():
                yield from family(slot)
            continue
        for family in (rounds, operations) if node.name in MOVES else (rounds, operations, constants):
            yield from family(slot)
        for operand in slot.operands:
            yield from operands(operand)
