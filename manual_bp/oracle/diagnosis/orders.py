"""Edits of order: an axis read in groups or interleaved, its halves exchanged, moved on by a hyperparameter; a value of
another round of a loop, or of an earlier call."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from manual_bp.oracle.diagnosis.edit import PAGE, Edit, Slot, at_site
from manual_bp.oracle.diagnosis.program import Altered, At, Traced
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
                said = f"{groups} were interleaved, and did not stand one after the other"
                yield slot.edit_at(3.5 + i / 50, said, _counted(_apart, axis, count))
                said = f"{groups} stood one after the other, and were not interleaved"
                yield slot.edit_at(3.5 + i / 50, said, _counted(_interleaved, axis, count))
            if words in slot.traced.rule.hyper and 0 < abs(number) < length:
                for sign, by in ((1, words), (-1, f"-{words}")):
                    said = f"{name} moved by {by} along axis {axis}"
                    yield slot.edit_at(3.7 + i / 50, said, _counted(partial(_moved, sign), axis, count))


def _counted(change: Callable[[Tensor, int, int], Tensor], axis: int, count: Quantity) -> Altered:
    """A change along an axis by a whole number that is known in each case."""
    return lambda x, at: change(x, axis, int(count(at.traced)))


def rearranged(x: Tensor, axis: int, order: Sequence[int]) -> Tensor:
    """The parts of an axis, as many as are named, in such an order."""
    parts = torch.unflatten(x, axis, (len(order), -1)).unbind(axis)
    return torch.cat([parts[i] for i in order], axis)


def _interleaved(x: Tensor, axis: int, count: int) -> Tensor:
    return torch.unflatten(x, axis, (count, -1)).transpose(axis, axis + 1).flatten(axis, axis + 1)


def _apart(x: Tensor, axis: int, count: int) -> Tensor:
    return torch.unflatten(x, axis, (-1, count)).transpose(axis, axis + 1).flatten(axis, axis + 1)


def _moved(sign: int, x: Tensor, axis: int, count: int) -> Tensor:
    """With 0 where nothing is moved to."""
    by, index = sign * count, torch.arange(x.shape[axis]).reshape(-1, *(1,) * (x.ndim - axis - 1))
    came = (index - by >= 0) & (index - by < x.shape[axis])
    return torch.where(came, x.roll(by, axis), torch.zeros((), dtype=x.dtype))


# ----------------------------------------------------------------------------------------------------------- in a loop


# So many operations deep is looked into what a loop makes in every round, where what all give is stacked.
DEEP = 3


def rounds(slot: Slot) -> Iterator[Edit]:
    """What an operation in a loop takes of the round before or after its own: one that stands in one place of the page,
    or that is of what all rounds give and is put together."""
    traced, position = slot.traced, slot.position
    for path, own in _rounds(traced, position):
        nodes = [traced.nodes[p] for p in own]
        for i in range(min(len(node.args) for node in nodes)):
            refs = {ref for node in nodes if isinstance(ref := node.args[i], Ref)}
            if len(refs) > 1 and any(traced.is_given(ref.position) for ref in refs):
                name = name_of(traced, nodes[len(nodes) // 2].args[i])  # the first may take what the loop begins with
                for by, words in ((1, "after"), (-1, "before")):
                    said = f"{name} of the step {words} in place of that of its own step"
                    if path is None:
                        yield at_site(traced, position, 2.9, said, partial(_of_round, i, by, None), operand=i)
                    else:
                        run = partial(_all_of_round, list(traced.gathered).index(position), path, i, by)
                        yield Edit(2.9, f"{PAGE}{said}", run=run, position=position)


def _rounds(traced: Traced, position: int) -> Iterator[tuple[tuple[int, ...] | None, list[int]]]:
    """One operation in each round, and by which operands it is reached from what is put together, if that is how it is
    known."""
    every = traced.gathered.get(position)
    if every is None:
        own = traced.positions[traced.sites[position]]
        yield from [(None, own)] if len(own) > 1 else ()
        return
    layers: list[tuple[tuple[int, ...], list[int]]] = [((), [ref.position for ref in every])]
    for path, own in layers:
        nodes = [traced.nodes[p] for p in own]
        if len(set(own)) < 2 or len({n.name for n in nodes}) > 1:
            continue
        yield path, own
        for i in range(min(len(n.args) for n in nodes) if len(path) < DEEP else 0):
            refs = [n.args[i] for n in nodes if isinstance(n.args[i], Ref) and n.args[i].item is None]
            if len(refs) == len(nodes):
                layers.append(((*path, i), [ref.position for ref in refs]))


def _all_of_round(
    which: int, path: tuple[int, ...], i: int, by: int, traced: Traced, needed: int
) -> dict[str, Tensor | None]:
    """which: of the places where something is put together."""
    position = list(traced.gathered)[which]
    own = next(positions for p, positions in _rounds(traced, position) if p == path)
    return traced.edited(dict.fromkeys(own, partial(_of_round, i, by, own)), needed)


def _of_round(i: int, by: int, own: list[int] | None, at: At) -> Any:
    """by: so many values later of those that stand there in any round; the last is taken for what lies beyond.  own:
    the operations of all rounds, if no site tells."""
    traced = at.traced
    own = own or traced.positions[traced.sites[at.position]]
    each = sorted({origin(traced, traced.nodes[p].args[i]) for p in own})
    end = each[-1] if by > 0 else each[0]
    if (beyond := _beyond(traced, end, by)) is not None:  # a loop's last value may stand in none of its rounds
        each = sorted({*each, beyond})
    found = each.index(origin(traced, at.node.args[i])) + by
    other = each[min(max(found, 0), len(each) - 1)]
    if any(traced.later[p] >> other.position & 1 for p in own):
        raise ValueError("it would depend on itself")
    return at.altered(lambda x: at.value(other).reshape(x.shape), i)


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
            yield at_site(traced, position, 2.8, f"{words} (a stale cache)", partial(_of_call, first))


def _of_call(first: Callable[[Traced], Traced | None], at: At) -> Any:
    found = first(at.traced)
    if found is None:
        return at.result()
    site = at.traced.sites[at.position]
    return found.values[found.positions[site][at.traced.positions[site].index(at.position)]]
