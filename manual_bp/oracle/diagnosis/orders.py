"""Edits of order: an axis read in groups or interleaved, its halves exchanged, moved on by a hyperparameter; a value of
another round of a loop, or of an earlier call."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from manual_bp.oracle.diagnosis.edit import Edit, at_site
from manual_bp.oracle.diagnosis.program import At, Traced
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


def reordered(traced: Traced, position: int) -> Iterator[Edit]:
    """The elements along one axis of a value in another order."""
    value, name = traced.values[position], name_of(traced, Ref(position))
    for axis, length in enumerate(value.shape):
        for of in (n for n in PARTS if length > n and length % n == 0):
            for one, two in itertools.combinations(range(of), 2):
                parts = "the halves" if of == 2 else f"parts {one + 1} and {two + 1} of {of}"
                words = f"{parts} of {name} exchanged along axis {axis}"
                yield at_site(traced, position, 3.3, words, partial(_exchanged, axis, of, one, two))
        for i, (words, count) in enumerate(counts(traced)):
            number = count(traced)
            if 1 < number < length and length % number == 0:
                groups = f"the groups along axis {axis} of {name} ({words} of them)"
                said = f"{groups} read as if they were interleaved, and did not stand one after the other"
                yield at_site(traced, position, 3.5 + i / 50, said, partial(_changed, _apart, axis, count))
                said = f"{groups} read as if they stood one after the other, and were not interleaved"
                yield at_site(traced, position, 3.5 + i / 50, said, partial(_changed, _interleaved, axis, count))
            if words in traced.rule.hyper and 0 < abs(number) < length:
                for sign, by in ((1, words), (-1, f"-{words}")):
                    said = f"{name} moved by {by} along axis {axis}"
                    yield at_site(traced, position, 3.7 + i / 50, said, partial(_changed, _moved, axis, count, sign))


def _changed(change: Callable[..., Tensor], axis: int, count: Quantity, *more: Any) -> Any:
    *others, at = more
    return change(at.result(), axis, int(count(at.traced)), *others)


def _exchanged(axis: int, number: int, one: int, two: int, at: At) -> Any:
    parts = list(torch.unflatten(at.result(), axis, (number, -1)).unbind(axis))
    parts[one], parts[two] = parts[two], parts[one]
    return torch.cat(parts, axis)


def _interleaved(x: Tensor, axis: int, count: int) -> Tensor:
    return torch.unflatten(x, axis, (count, -1)).transpose(axis, axis + 1).flatten(axis, axis + 1)


def _apart(x: Tensor, axis: int, count: int) -> Tensor:
    return torch.unflatten(x, axis, (-1, count)).transpose(axis, axis + 1).flatten(axis, axis + 1)


def _moved(x: Tensor, axis: int, count: int, sign: int) -> Tensor:
    """With 0 where nothing is moved to."""
    by, index = sign * count, torch.arange(x.shape[axis]).reshape(-1, *(1,) * (x.ndim - axis - 1))
    came = (index - by >= 0) & (index - by < x.shape[axis])
    return torch.where(came, x.roll(by, axis), torch.zeros((), dtype=x.dtype))


# ----------------------------------------------------------------------------------------------------------- in a loop


# So many operations deep is looked into what a loop makes in every round, where what all give is stacked.
DEEP = 3


def rounds(traced: Traced, position: int) -> Iterator[Edit]:
    """What an operation in a loop takes of the round before or after its own: one that stands in one place of the page,
    or that is of what all rounds give and is stacked."""
    for path, own in _rounds(traced, position):
        nodes = [traced.nodes[p] for p in own]
        for i in range(min(len(node.args) for node in nodes)):
            if len({ref for node in nodes if isinstance(ref := node.args[i], Ref)}) > 1:
                name = name_of(traced, nodes[len(nodes) // 2].args[i])  # the first may take what the loop begins with
                for by, words in ((1, "after"), (-1, "before")):
                    said = f"{name} of the step {words} in place of that of its own step"
                    change = partial(_of_round, i, by) if path is None else partial(_all_of_round, path, i, by)
                    yield at_site(traced, position, 2.9, said, change, operand=i)


def _rounds(traced: Traced, position: int) -> Iterator[tuple[tuple[int, ...] | None, list[int]]]:
    """One operation in each round, and by which operands it is reached from what is stacked, if that is how it is
    known."""
    node = traced.nodes[position]
    if node.name != "stack":
        own = traced.positions[traced.sites[position]]
        yield from [(None, own)] if len(own) > 1 else ()
        return
    layers: list[tuple[tuple[int, ...], list[int]]] = [
        ((), [ref.position for ref in node.args[0] if isinstance(ref, Ref)])
    ]
    for path, own in layers:
        nodes = [traced.nodes[p] for p in own]
        if len(set(own)) < 2 or len({n.name for n in nodes}) > 1:
            continue
        yield path, own
        for i in range(min(len(n.args) for n in nodes) if len(path) < DEEP else 0):
            refs = [n.args[i] for n in nodes if isinstance(n.args[i], Ref) and n.args[i].item is None]
            if len(refs) == len(nodes):
                layers.append(((*path, i), [ref.position for ref in refs]))


def _all_of_round(path: tuple[int, ...], i: int, by: int, at: At) -> Any:
    own = next(positions for p, positions in _rounds(at.traced, at.position) if p == path)

    def made(position: int, path: tuple[int, ...]) -> Any:
        there = At(at.traced, position, at.changed)
        if not path:
            return _of_round(i, by, there, own)
        args = there.place(list(there.node.args))
        args[path[0]] = made(there.node.args[path[0]].position, path[1:])
        return there.with_args(args)

    parts_ = [made(ref.position, path) for ref in at.node.args[0]]
    return at.with_args([parts_, *at.node.args[1:]])


def _of_round(i: int, by: int, at: At, own: list[int] | None = None) -> Any:
    """by: so many values later of those that stand there in any round; the last is taken for what lies beyond."""
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
    args = at.place(list(at.node.args))
    args[i] = at.value(other).reshape(args[i].shape)
    return at.with_args(args)


def origin(traced: Traced, ref: Ref) -> Ref:
    """What a value is a copy or a view of."""
    node = traced.nodes[ref.position]
    while node.name in ("clone", "detach", "alias", "view") and isinstance(node.args[0], Ref):
        ref = node.args[0]
        node = traced.nodes[ref.position]
    return ref


def _beyond(traced: Traced, end: Ref, by: int) -> Ref | None:
    """What comes so many after a value where all of its kind are stacked, or made in one place."""
    for node in traced.nodes:
        if node.name == "stack" and end in node.args[0]:
            found = list(node.args[0]).index(end) + by
            return node.args[0][found] if 0 <= found < len(node.args[0]) else None
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
            words = (
                f"`{name}` of the first call with such a shape in place of its own, as if it were kept (a stale cache)"
            )
            yield at_site(traced, position, 2.8, words, partial(_of_call, first))


def _of_call(first: Callable[[Traced], Traced | None], at: At) -> Any:
    found = first(at.traced)
    if found is None:
        return at.result()
    site = at.traced.sites[at.position]
    return found.values[found.positions[site][at.traced.positions[site].index(at.position)]]
