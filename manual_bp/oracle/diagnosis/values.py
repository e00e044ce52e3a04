"""Edits of what stands somewhere: a value, or one operand of an operation, is another."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from manual_bp.oracle.diagnosis.changes import ARRANGED, CLAMPED, FUNCTIONS, INDICES, MASKS, NUMBERS, worded
from manual_bp.oracle.diagnosis.edit import Edit, RefusedError, Slot
from manual_bp.oracle.diagnosis.program import MOVES, Altered, At, Traced
from manual_bp.oracle.diagnosis.words import called, hyperparameter, name_of
from manual_bp.program import Ref

# A mask that a page computes often only helps it to keep digits: what is edited there is seldom the cause.
HELPING = 0.8
KEPT = ("residuals", "results")


def functions(slot: Slot) -> Iterator[Edit]:
    """A function of what stands there, or its elements arranged otherwise."""
    value, name, node = slot.value, slot.name, slot.traced.nodes[slot.position]
    is_own = slot.operand is None
    if is_own and node.name in NOTHING and slot.position not in slot.traced.names:  # there are several of it
        users = slot.traced.used_by[slot.position]
        name = f"{name} in {name_of(slot.traced, Ref(users[0]))}" if users else name
    first: Mapping[str, tuple[float, Callable[[Tensor], Tensor]]] = INDICES
    if value.is_floating_point() or value.dtype == torch.bool:
        first = NUMBERS if value.is_floating_point() else MASKS
    is_given = is_own and slot.stage in ("inputs", "residuals")
    tables = [first, ARRANGED, *([CLAMPED] if first is NUMBERS and is_given else [])]
    more = {"results": -0.3, "inputs": 0.0, "residuals": 0.1}.get(slot.stage, 0.4) if is_own else 0.6
    is_run = slot.stage in ("forward", "backward")
    for table in tables if value.ndim else tables[:1]:
        for words, (cost, function) in table.items():
            cost += more + (HELPING if is_own and is_run and table is MASKS else 0.0)
            kind = words if is_own and is_run and "rounded to" in words else ""
            yield slot.edit(cost, worded(words, name), function, kind)


# In a program of more operations only values that have a name are taken in place of others.
SHORT = 60
NOTHING = frozenset(("scalar_tensor", "full", "zeros_like", "ones_like", "zeros", "ones"))
"""What gives constants alone."""


def others(slot: Slot) -> Iterator[Edit]:
    """Another value of the same shape and kind in place of one; of an operand too, if it is used elsewhere."""
    value, name = slot.value, slot.name
    near = _near(slot.traced, slot.ref.position) if slot.operand is not None or slot.stage == "residuals" else set()
    more = 0.2 if slot.operand is not None else 0.0 if slot.stage in KEPT else 0.4
    for other in _others(slot.traced, slot.position, near):
        x = slot.traced.values[other]
        if other != slot.ref.position and x.shape == value.shape and x.dtype == value.dtype:
            cost = (2.9 if other in slot.traced.names else 3.3 if other in near else 3.9) + more
            words = f"{name_of(slot.traced, Ref(other))} in place of {name}"
            yield slot.edit_at(cost, words, another(slot.traced, slot.position, other))


def _near(traced: Traced, position: int) -> set[int]:
    """What a value is made of, and what is made of it, by one operation; what computes nothing is no operation."""

    def beside(p: int) -> set[int]:
        return {ref.position for ref in traced.nodes[p].refs} | set(traced.used_by[p])

    own = {position}
    for _ in range(2):
        own |= {q for p in own for q in beside(p) if traced.nodes[max(p, q)].name in MOVES}
    return {q for p in own for q in beside(p)}


def _others(traced: Traced, position: int, near: Collection[int] = ()) -> Iterator[int]:
    """Other values that are known before an operation, each once; of what a loop computes, that of the first round.
    near: those that need no name."""
    own, seen = traced.alike[position], set[int]()
    for other in range(position):
        alike = traced.alike[other]
        if alike == own or alike in seen or not isinstance(traced.values[other], Tensor):
            continue
        is_told = other in traced.names or other in near or len(traced.sites) <= SHORT
        if is_told and traced.positions[traced.sites[other]][0] == other and traced.nodes[other].name not in NOTHING:
            seen.add(alike)
            yield other


def another(traced: Traced, position: int, other: int) -> Altered:
    """In place of what stands somewhere another value, wherever that is in any run: in a loop in the same round."""
    site, own = traced.sites[other], traced.sites[position]

    def instead(_: Any, at: At) -> Any:
        found, each = at.traced.positions[site], at.traced.positions[own]
        return at.value(Ref(found[each.index(at.position)] if len(found) == len(each) else found[-1]))

    return instead


def operands(slot: Slot) -> Iterator[Edit]:
    """One operand of an operation left out; or changed, where that is used elsewhere too and else the value itself is
    edited."""
    name = slot.traced.nodes[slot.position].name
    if name in ("mul", "div", "add", "sub"):
        what, neutral, cost = ("factor", 1.0, 1.9) if name in ("mul", "div") else ("summand", 0.0, 1.7)
        yield slot.edit(cost, f"the {what} {slot.name} left out", _filled(neutral))
    if name not in MOVES and (slot.is_shared or slot.traced.nodes[slot.ref.position].name in MOVES):
        yield from functions(slot)
    if slot.is_shared and slot.ref.item is None:
        yield from others(slot)


def _filled(number: float) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.full_like(x, number)


# Where a number is written into a formula, these are others.
PLAIN = (0.0, 1.0, 2.0, -1.0, 0.5, 3.0, 4.0, 1e-5, 1e-6, 1e-8, 1e-12)


def constants(slot: Slot) -> Iterator[Edit]:
    """Another number in place of a constant of an operation."""
    traced, node = slot.traced, slot.traced.nodes[slot.position]
    for i, number in enumerate(node.args):
        if type(number) not in (int, float) or node.name not in NUMERIC:
            continue
        name, own = f"`{called(traced, number)}`", hyperparameter(traced, number)
        others: dict[str, tuple[float, Callable[[Any], Any]]] = dict(FUNCTIONS)
        others |= {f"`{c:g}`": (2.1 + i / 5, _always(c)) for i, c in enumerate(PLAIN)}
        default = traced.rule.defaults.get(own)
        if isinstance(default, int | float) and not isinstance(default, bool):
            others[f"`{default:g}`"] = (2.0, _always(default))
        for words, (cost, function) in others.items():
            said, kind = f"{worded(words, name)} in {slot.name}", f"{words} for {number}"
            change = _of_number(function, None if own else number)
            yield slot.edit(cost + 0.3, said, change, kind, arg=i)


def _always(number: float) -> Callable[[Any], float]:
    return lambda _: number


NUMERIC = frozenset((
    "add", "sub", "rsub", "mul", "div", "pow", "clamp", "clamp_min", "clamp_max", "gt", "ge", "lt", "le", "where", "ne",
    "eq", "maximum", "minimum",
))  # fmt: skip
"""Operations whose arguments that are numbers are numbers of the formula, and not axes or sizes."""


def _of_number(function: Callable[[float], float], number: float | None) -> Callable[[float], float]:
    """number: which alone is changed; None for a hyperparameter, which is another number elsewhere."""

    def changed(own: float) -> float:
        if number is not None and own != number:
            raise RefusedError("it is no number of the formula")
        return function(float(own))

    return changed


# ------------------------------------------------------------------------------------------------- of another shape


def misshapen(traced: Traced, argument: str, shape: tuple[int, ...]) -> Iterator[Edit]:
    """What has the shape that came, where another is due: what was not reduced, or is arranged otherwise."""
    slot = Slot(traced, traced.results[argument])
    right, name = slot.value, f"`{argument}`"
    seen: list[Tensor] = []

    def new(x: Tensor) -> bool:
        if tuple(x.shape) != shape or any(torch.equal(x, known) for known in seen):
            return False
        seen.append(x)
        return True

    for words, change in (("read in another shape", torch.reshape), ("broadcast", torch.broadcast_to)):
        try:
            arranged = change(right, shape)
        except RuntimeError:
            continue
        if new(arranged):
            ranks = f"its numbers {words}: {tuple(right.shape)} is due, and {shape} came, at the first case"
            yield slot.edit(2, ranks, _arranged(change, len(shape), right.ndim))
    if new(right.mT if right.ndim > 1 else right):
        yield slot.edit(1.9, f"{name} transposed", lambda x: x.mT)
    for other, x in enumerate(traced.values[: slot.position]):
        if not isinstance(x, Tensor) or not x.is_floating_point():
            continue
        of = name_of(traced, Ref(other))
        if new(x):
            yield slot.edit_at(2.5, f"{of} in place of {name}", another(traced, slot.position, other))


def _arranged(change: Callable[..., Tensor], rank: int, due: int) -> Callable[[Tensor], Tensor]:
    def arranged(x: Tensor) -> Tensor:
        if rank == due:
            raise ValueError("in which shape is known of one case alone")
        shape = (1,) * (rank - due) + tuple(x.shape) if rank > due else (x.numel(),) * min(rank, 1)
        return change(x, shape)

    return arranged
