"""Edits of borders: what is read, or given back, beyond the first and the last place of an axis."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manual_bp.oracle.diagnosis.edit import Edit, Slot
from manual_bp.oracle.diagnosis.orders import origin
from manual_bp.oracle.diagnosis.program import At, Traced
from manual_bp.program import Ref

WITHIN: Mapping[str, Callable[[Tensor, int], Tensor]] = {
    "taken for the outermost place": lambda i, n: i.clamp(0, n - 1),
    "reflected": lambda i, n: n - 1 - (n - 1 - i.abs()).abs(),
    "reflected, the outermost place once more,": lambda i, n: torch.where(i < 0, -1 - i, i.minimum(2 * n - 1 - i)),
    "taken from the other end": lambda i, n: i % n,
}
"""Which place is taken for one that lies beyond those from 0 to n - 1."""
LEFT_OUT = "left out"


class _Border(NamedTuple):
    """Of an operation that reads, or adds, at an index: the places as they are and as they would be without a border,
    along which axis, which has so many; among the operation's arguments those that hold the index and what is added.
    """

    places: Tensor
    beyond: Tensor
    axis: int
    number: int
    argument: int
    added: int | None


def borders(slot: Slot) -> Iterator[Edit]:
    """What lies beyond the ends left out, or another place taken for it."""
    found = _border(slot.traced, slot.position)
    if found is None:
        return
    for i, words in enumerate((LEFT_OUT, *WITHIN)):
        if words == LEFT_OUT or bool((WITHIN[words](found.beyond, found.number) != found.places).any()):
            said = f"what lies beyond the ends of its axis {words} in {slot.name}"
            yield slot.instead(2.2 + i / 10, said, partial(_otherwise, words), f"border {words}")


def _border(traced: Traced, position: int) -> _Border | None:
    """None where there is no border, or places are chosen by the inputs."""
    node = traced.nodes[position]
    if node.name in ("index_select", "index_add"):
        where, argument, axis = node.args[2], 2, node.args[1]
    elif node.name in ("index", "index_put"):
        given = [(i, ref) for i, ref in enumerate(node.args[1]) if ref is not None]
        (axis, where), argument = given[0], 1
        if len(given) > 1:
            return None
    else:
        return None
    if not isinstance(where, Ref) or traced.is_given(where.position):
        return None
    index, x = traced.values[where.position], traced.values[node.args[0].position]
    beyond = _beyond(traced, where, index)
    if index.dtype == torch.bool or beyond is None or beyond.shape != index.shape or torch.equal(beyond, index):
        return None
    added = {"index_add": 3, "index_put": 2}.get(node.name)
    return _Border(index, beyond, axis % x.ndim, x.shape[axis], argument, added)


def _beyond(traced: Traced, where: Ref, index: Tensor) -> Tensor | None:
    """The index before it was kept within the axis; or else as it would go on where it grows by 1."""
    node = traced.nodes[origin(traced, where).position]
    if node.name in ("clamp", "clamp_min", "clamp_max") and isinstance(node.args[0], Ref):
        value: Tensor = traced.values[node.args[0].position]
        return value
    if index.ndim != 1 or len(index) < 3:
        return None
    grows = (index.diff() == 1).long()
    middle = len(index) // 2
    is_plain = bool(grows[middle - 1 : middle + 1].all())
    return torch.arange(len(index)) - middle + index[middle] if is_plain else None


def _otherwise(words: str, at: At) -> Any:
    found = _border(at.traced, at.position)
    if found is None:
        raise ValueError("there is no border here")
    args = at.args()
    if words != LEFT_OUT:
        index = WITHIN[words](found.beyond, found.number)
        args[found.argument] = [None] * found.axis + [index] if found.argument == 1 else index
        return at.with_args(args)
    inside = (found.beyond == found.places).reshape(-1, *(1,) * (args[0].ndim - found.axis - 1))
    if found.added is None:
        return at.result() * inside
    args[found.added] = args[found.added] * inside
    return at.with_args(args)
