"""Edits of order: an axis read in groups or interleaved, its halves exchanged; a value of another round of a loop, or
of an earlier call."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from manual_bp.oracle.diagnosis.edit import EARLY, PAGE, Edit, Slot
from manual_bp.oracle.diagnosis.program import At, Traced, Values
from manual_bp.oracle.diagnosis.quantities import Quantity, counts_of, numbers_of
from manual_bp.oracle.diagnosis.words import name_of
from manual_bp.program import Ref

# Of so many parts an axis is made where it holds halves, or the gates of a recurrent cell.
PARTS = (2, 3, 4)


def counts(traced: Traced) -> Iterator[tuple[str, Quantity]]:
    """Whole numbers by which an axis may be cut or moved: 2, hyperparameters, lengths of one axis."""
    yield "2", lambda _: 2.0
    for name, number in numbers_of(traced).items():
        if number == int(number):
            yield name, lambda t, n=name: numbers_of(t)[n]  # type: ignore[misc]
    for name in counts_of(traced):
        if "·" not in name and " " not in name:
            yield name, lambda t, n=name: counts_of(t)[n]  # type: ignore[misc]


def reordered(slot: Slot) -> Iterator[Edit]:
    """The elements along one axis of a value in another order."""
    name = slot.name
    for axis, length in enumerate(slot.value.shape):
        for of in (n for n in PARTS if length > n and length % n == 0):
            for one, two in itertools.combinations(range(of), 2):
                order = [{one: two, two: one}.get(i, i) for i in range(of)]
                parts = "the halves" if of == 2 else f"parts {one + 1} and {two + 1} of {of}"
                words = f"{parts} of {name} exchanged along axis {axis}"
                yield slot.edit(3.3, words, partial(rearranged, axis=axis, order=order))
        for i, (words, count) in enumerate(counts(slot.traced)):
            number = count(slot.traced)
            if 1 < number < length and length % number == 0:
                groups = f"the groups along axis {axis} of {name} ({words} of them) read as if they"
                for is_interleaved, how in (
                    (False, "were interleaved, and did not stand one after the other"),
                    (True, "stood one after the other, and were not interleaved"),
                ):
                    change = partial(_regrouped, axis, count, is_interleaved)
                    yield slot.edit_at(3.5 + i / 50, f"{groups} {how}", change)


def rearranged(x: Tensor, axis: int, order: Sequence[int]) -> Tensor:
    """The parts of an axis, as many as are named, in such an order."""
    parts = torch.unflatten(x, axis, (len(order), -1)).unbind(axis)
    return torch.cat([parts[i] for i in order], axis)


def _regrouped(axis: int, count: Quantity, is_interleaved: bool, x: Tensor, at: At) -> Tensor:
    """Groups that stand one after the other interleaved, or the other way round."""
    groups = int(count(at.traced))
    split = torch.unflatten(x, axis, (groups, -1) if is_interleaved else (-1, groups))
    return split.transpose(axis, axis + 1).flatten(axis, axis + 1)


# ----------------------------------------------------------------------------------------------------------- in a loop

# So many operations deep is looked into what a loop makes in every round, where what all give is stacked.
DEEP = 3


def rounds(traced: Traced, needed: int) -> Iterator[Edit]:
    """What an operation in a loop takes of the round before or after its own."""
    for key, own in _rounds(traced):
        nodes = [traced.nodes[p] for p in own]
        for i in range(min(len(node.args) for node in nodes) if needed >> own[0] & 1 else 0):
            refs = {ref for node in nodes if isinstance(ref := node.args[i], Ref)}
            if len(refs) > 1 and any(traced.is_given(ref.position) for ref in refs):
                name = name_of(traced, nodes[len(nodes) // 2].args[i])  # the first may take what the loop begins with
                for by, step in ((1, "after"), (-1, "before")):
                    words = f"{PAGE}{name} of the step {step} in place of that of its own step"
                    cost = 2.9 + EARLY * (1 - own[0] / len(traced.nodes))
                    yield Edit(cost, words, run=partial(_of_round, key, i, by), position=own[0])


def _rounds(traced: Traced) -> Iterator[tuple[Any, list[int]]]:
    """One operation in each round, and how it is known: it stands in one place of the page; or what all rounds give is
    put together, and it is reached from that by such operands."""
    for site, own in traced.positions.items():
        is_computed = site.stage in ("forward", "backward") and isinstance(traced.values[own[0]], Tensor)
        if is_computed and len(own) > 1 and own[0] not in traced.gathered:
            yield site, own
    for which, every in enumerate(traced.gathered.values()):
        layers: list[tuple[tuple[int, ...], list[int]]] = [((), [ref.position for ref in every])]
        for path, own in layers:
            nodes = [traced.nodes[p] for p in own]
            if len(set(own)) < 2 or len({n.name for n in nodes}) > 1:
                continue
            yield (which, path), own
            for i in range(min(len(n.args) for n in nodes) if len(path) < DEEP else 0):
                refs = [n.args[i] for n in nodes if isinstance(n.args[i], Ref) and n.args[i].item is None]
                if len(refs) == len(nodes):
                    layers.append(((*path, i), [ref.position for ref in refs]))


def _of_round(key: Any, i: int, by: int, traced: Traced, needed: int) -> Values:
    """by: so many values later of those that stand there in any round; the last is taken for what lies beyond."""
    own = next(positions for other, positions in _rounds(traced) if other == key)
    taken = {p: origin(traced, traced.nodes[p].args[i]) for p in own}
    each = sorted(set(taken.values()))
    if (beyond := _beyond(traced, each[-1] if by > 0 else each[0], by)) is not None:
        each = sorted({*each, beyond})  # a loop's last value may stand in none of its rounds
    others = {p: each[min(max(each.index(ref) + by, 0), len(each) - 1)] for p, ref in taken.items()}
    if any(traced.later[p] >> other.position & 1 for p in own for other in others.values()):
        raise ValueError("it would depend on itself")

    def change(at: At) -> Any:
        return at.altered(lambda x: at.value(others[at.position]).reshape(x.shape), i)

    return traced.edited(dict.fromkeys(own, change), needed)


def origin(traced: Traced, ref: Ref) -> Ref:
    """What a value is a copy or a view of."""
    node = traced.nodes[ref.position]
    while node.name in ("clone", "detach", "alias", "view") and isinstance(node.args[0], Ref):
        ref = node.args[0]
        node = traced.nodes[ref.position]
    return ref


def _beyond(traced: Traced, end: Ref, by: int) -> Ref | None:
    """What comes so many after a value where all of its kind are put together, or made in one place."""
    for every in traced.gathered.values():
        if end in every:
            found = every.index(end) + by
            return every[found] if 0 <= found < len(every) else None
    others = traced.positions[traced.sites[end.position]]
    found = others.index(end.position) + by
    return Ref(others[found], end.item) if 0 <= found < len(others) else None


def kept_values(traced: Traced, first: Callable[[Traced], Traced | None]) -> Iterator[Edit]:
    """A value of the first call with such a shape in place of its own, as if it were kept by that.  first: the program
    at that call; None if it is that."""
    if first(traced) is None:
        return
    for position, name in traced.names.items():
        value = traced.values[position]
        if traced.sites[position].stage != "results" and isinstance(value, Tensor) and value.is_floating_point():
            words = f"`{name}` of the first call with such a shape in place of its own, as if it were kept"
            yield Slot(traced, position).instead(2.8, f"{words} (a stale cache)", partial(_of_call, first))


def _of_call(first: Callable[[Traced], Traced | None], at: At) -> Any:
    found = first(at.traced)
    if found is None:
        return at.result()
    site = at.traced.sites[at.position]
    return found.values[found.positions[site][at.traced.positions[site].index(at.position)]]
