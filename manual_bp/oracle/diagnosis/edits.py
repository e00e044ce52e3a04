"""Edits of a program: what people write in place of what a page writes.

A family is a function from an operation of a program to edits of it.  An edit that costs less is met more often, and is
tried first.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from manual_bp.oracle.diagnosis.program import MOVES, At, Change, Site, Traced, Values
from manual_bp.oracle.diagnosis.words import called, name_of
from manual_bp.program import Ref

aten = torch.ops.aten


# A mask that a page computes often only helps it to keep digits: what is edited there is seldom the cause.
HELPING = 0.8
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


def edits_of(traced: Traced, needed: int) -> Iterator[Edit]:
    """All edits of one operation, and those that are made in the same way wherever they can be, in no order."""
    kinds: dict[str, list[Edit]] = {}
    for edit in _single(traced, needed):
        if edit.kind:
            kinds.setdefault(edit.kind, []).append(edit)
        yield edit
    for several in kinds.values():
        backward = [edit for edit in several if _stage(traced, edit) == "backward"]
        for group in (several, backward) if 1 < len(backward) < len(several) else (several,):
            if len(group) > 1:
                yield together(group)


def together(edits: Sequence[Edit]) -> Edit:
    """The same edit in all places in which it can be made."""
    first, *others = edits
    changes = {site: change for edit in edits for site, change in (edit.changes or {}).items()}
    more = f", and likewise in {len(others)} more place{'s' if len(others) > 1 else ''}"
    return Edit(first.cost + 0.5, first.words + more, changes, None, first.position)


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
        if node.name not in MOVES or is_named:
            yield from values(traced, position)
            yield from other_values(traced, position)
            yield from scaled_by_others(traced, position)
        if not is_named:
            for family in OPERATIONS.get(node.name, ()):
                yield from family(traced, position)
            if node.name in MOVES:
                yield from other_operands(traced, position)
            else:
                yield from operands(traced, position)
                yield from constants(traced, position)


# ------------------------------------------------------------------------------------------------- of another shape


def misshapen(traced: Traced, argument: str, shape: tuple[int, ...]) -> Iterator[Edit]:
    """What has the shape that came, where another is due: a value that was not reduced, or by another axis; the right
    numbers arranged otherwise."""
    position = traced.results[argument]
    right, name = traced.values[position], f"`{argument}`"
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
            yield at_site(traced, position, 2, ranks, partial(_arranged, change, len(shape), right.ndim))
    if new(right.mT if right.ndim > 1 else right):
        yield at_site(traced, position, 1.9, f"{name} transposed", lambda at: at.result().mT)
    for other, x in enumerate(traced.values[:position]):
        if not isinstance(x, Tensor) or not x.is_floating_point():
            continue
        of, find = name_of(traced, Ref(other)), _finder(traced, position, other)
        if new(x):
            yield at_site(traced, position, 2.5, f"{of} in place of {name}", partial(_instead, find))
        for axis, (how, reduce) in itertools.product(range(x.ndim), (("sum", torch.sum), ("mean", torch.mean))):
            for keeps in (False, True):
                if new(reduce(x, axis, keepdim=keeps)):
                    words = f"the {how} of {of} over axis {axis} alone in place of {name}"
                    yield at_site(traced, position, 2.7, words, partial(_over_one, reduce, find, axis, keeps))


def _arranged(change: Callable[..., Tensor], rank: int, due: int, at: At) -> Any:
    x = at.result()
    if rank == due:
        raise ValueError("in which shape is known of one case alone")
    shape = (1,) * (rank - due) + tuple(x.shape) if rank > due else (x.numel(),) * min(rank, 1)
    return change(x, shape)


def _over_one(reduce: Callable[..., Tensor], find: Callable[[At], Any], axis: int, keeps: bool, at: At) -> Any:
    return reduce(find(at), axis, keepdim=keeps)


# -------------------------------------------------------------------------------------------------- values, changed


def _rows(x: Tensor) -> Tensor:
    return x if x.ndim < 2 else x.reshape(-1, x.shape[-1])


def _over(reduce: Callable[..., Tensor], axis: int, x: Tensor) -> Tensor:
    return reduce(x, axis, keepdim=True).expand_as(x)


def _unless_last_axis(reduce: Callable[..., Tensor], x: Tensor) -> Tensor:
    return reduce(x, list(range(x.ndim - 1)), keepdim=True).expand_as(x)


def _rounded(dtype: torch.dtype, x: Tensor) -> Tensor:
    return x.to(dtype).to(x.dtype)


def _along(axis: int, keep: Callable[[Tensor, int], Tensor], x: Tensor) -> Tensor:
    """x with 0 where an index on one axis is not kept."""
    length = x.shape[axis]
    mask = keep(torch.arange(length), length).reshape(-1, *(1,) * (x.ndim - axis % x.ndim - 1))
    return torch.where(mask, x, torch.zeros((), dtype=x.dtype))


def _flat(keep: Callable[[Tensor, int], Tensor], x: Tensor) -> Tensor:
    return _along(0, keep, x.reshape(-1)).reshape(x.shape)


NUMBERS: Mapping[str, tuple[float, Callable[[Tensor], Tensor]]] = {
    "-{0} in place of {0}": (2.2, torch.neg),
    "{0} taken for 1": (2.0, torch.ones_like),
    "{0} taken for 0": (2.1, torch.zeros_like),
    "2·{0} in place of {0}": (2.4, lambda x: 2 * x),
    "{0}/2 in place of {0}": (2.4, lambda x: x / 2),
    "{0}² in place of {0}": (3, torch.square),
    "√{0} in place of {0}": (3, torch.sqrt),
    "1/{0} in place of {0}": (3, torch.reciprocal),
    "|{0}| in place of {0}": (3, torch.abs),
    "the sign of {0} in place of {0}": (3.4, torch.sign),
    "1 - {0} in place of {0}": (3.4, lambda x: 1 - x),
    "1 + {0} in place of {0}": (3.8, lambda x: 1 + x),
    "{0} - 1 in place of {0}": (3.9, lambda x: x - 1),
    "{0}³ in place of {0}": (4, lambda x: x**3),
    "1/√{0} in place of {0}": (4, torch.rsqrt),
    "exp({0}) in place of {0}": (4.2, torch.exp),
    "log({0}) in place of {0}": (4.2, torch.log),
    "tanh({0}) in place of {0}": (4.6, torch.tanh),
    "the sigmoid of {0} in place of {0}": (4.6, torch.sigmoid),
    "{0} cut off at 0 (max({0}, 0)) in place of {0}": (3.8, lambda x: x.clamp(min=0)),
    "{0} cut off at 0 (min({0}, 0)) in place of {0}": (4.4, lambda x: x.clamp(max=0)),
    "{0} cut off at 1 (max({0}, 1)) in place of {0}": (4.5, lambda x: x.clamp(min=1)),
    "{0} clamped to [-1, 1] in place of {0}": (3.9, lambda x: x.clamp(-1, 1)),
    "{0} clamped to [0, 1] in place of {0}": (4.5, lambda x: x.clamp(0, 1)),
    "{0} rounded to integers": (4.5, torch.round),
    "{0} less its mean in place of {0}": (3.8, lambda x: x - x.mean()),
    "{0} less its mean over the last axis in place of {0}": (4, lambda x: x - x.mean(-1, keepdim=True)),
    "{0} less its mean over axis 0 in place of {0}": (4, lambda x: x - x.mean(0, keepdim=True)),
    "{0} divided by its norm in place of {0}": (4.2, lambda x: x / x.norm()),
    "{0} rounded to bfloat16": (4.4, partial(_rounded, torch.bfloat16)),
    "{0} rounded to float16": (4.5, partial(_rounded, torch.float16)),
    "{0} rounded to float32": (5, partial(_rounded, torch.float32)),
}
"""What numbers are changed to; {0} is their name."""

ARRANGED: Mapping[str, tuple[float, Callable[[Tensor], Tensor]]] = {
    "the mean of {0} for each of its elements": (3.3, lambda x: x.mean().expand_as(x)),
    "the sum of {0} for each of its elements": (3.3, lambda x: x.sum().expand_as(x)),
    "the mean of {0} over its last axis in place of {0}": (3.4, partial(_over, torch.mean, -1)),
    "the sum of {0} over its last axis in place of {0}": (3.4, partial(_over, torch.sum, -1)),
    "the mean of {0} over axis 0 in place of {0}": (3.4, partial(_over, torch.mean, 0)),
    "the sum of {0} over axis 0 in place of {0}": (3.4, partial(_over, torch.sum, 0)),
    "the mean of {0} over axis 1 in place of {0}": (3.6, partial(_over, torch.mean, 1)),
    "the sum of {0} over axis 1 in place of {0}": (3.6, partial(_over, torch.sum, 1)),
    "the mean of {0} over all axes but the last in place of {0}": (3.8, partial(_unless_last_axis, torch.mean)),
    "the sum of {0} over all axes but the last in place of {0}": (3.8, partial(_unless_last_axis, torch.sum)),
    "the largest of each row of {0} in place of {0}": (4.3, partial(_over, torch.amax, -1)),
    "the smallest of each row of {0} in place of {0}": (4.4, partial(_over, torch.amin, -1)),
    "the first row of {0} in every row": (3.8, lambda x: x[:1].expand_as(x)),
    "the last row of {0} in every row": (4.2, lambda x: x[-1:].expand_as(x)),
    "the first column of {0} in every column": (3.9, lambda x: x[..., :1].expand_as(x)),
    "the last column of {0} in every column": (4.2, lambda x: x[..., -1:].expand_as(x)),
    "{0} transposed and read in its own shape": (3.3, lambda x: x.mT.reshape(x.shape)),
    "{0} read in the shape of its transpose": (3.5, lambda x: x.reshape(x.mT.shape).mT),
    "{0} with its first two axes exchanged and read in its own shape": (
        3.7,
        lambda x: x.transpose(0, 1).reshape(x.shape),
    ),
    "{0} in reversed order along its last axis": (3.7, lambda x: x.flip(-1)),
    "{0} in reversed order along its first axis": (3.7, lambda x: x.flip(0)),
    "{0} in reversed order": (4, lambda x: x.flatten().flip(0).reshape(x.shape)),
    "{0} shifted by 1 along its last axis": (3.8, lambda x: x.roll(1, -1)),
    "{0} shifted by -1 along its last axis": (3.8, lambda x: x.roll(-1, -1)),
    "{0} shifted by 1 along its first axis": (3.8, lambda x: x.roll(1, 0)),
    "{0} shifted by -1 along its first axis": (3.8, lambda x: x.roll(-1, 0)),
    "{0} sorted": (5, lambda x: x.flatten().sort().values.reshape(x.shape)),
    "{0} taken at an index that wraps around at 256": (5, lambda x: x[..., torch.arange(x.shape[-1]) % 256]),
    "0 in the last column of {0}": (3.6, partial(_along, -1, lambda i, n: i < n - 1)),
    "0 in the first column of {0}": (3.7, partial(_along, -1, lambda i, n: i > 0)),
    "0 in the last row of {0}": (3.6, partial(_along, 0, lambda i, n: i < n - 1)),
    "0 in the first row of {0}": (3.7, partial(_along, 0, lambda i, n: i > 0)),
    "0 in the last element of {0}": (3.7, partial(_flat, lambda i, n: i < n - 1)),
    "0 in the first element of {0}": (3.8, partial(_flat, lambda i, n: i > 0)),
    "0 in all but the first row of {0}": (4, partial(_along, 0, lambda i, n: i == 0)),
    "0 in all but the last row of {0}": (4.1, partial(_along, 0, lambda i, n: i == n - 1)),
    "0 in all but the first column of {0}": (4.1, partial(_along, -1, lambda i, n: i == 0)),
    "0 in all but the last column of {0}": (4.2, partial(_along, -1, lambda i, n: i == n - 1)),
    "0 in every second element of {0}": (4.2, partial(_flat, lambda i, n: i % 2 == 0)),
    "0 in every second row of {0}": (4.2, partial(_along, 0, lambda i, n: i % 2 == 0)),
    "0 in every second column of {0}": (4.2, partial(_along, -1, lambda i, n: i % 2 == 0)),
    "0 in the second half of the columns of {0}": (4.4, partial(_along, -1, lambda i, n: i < n // 2)),
    "0 in the second half of the rows of {0}": (4.4, partial(_along, 0, lambda i, n: i < n // 2)),
}
"""In what order, or for what part, they are taken."""

# The largest first: what is left of a length is often the same for several.
BLOCKS = (4096, 2048, 1024, 512, 256, 128, 64, 32, 16, 8, 4, 2)


def _blocks() -> Iterator[tuple[str, tuple[float, Callable[[Tensor], Tensor]]]]:
    """What kernels leave out that work in blocks."""
    places: dict[str, Callable[..., Tensor]] = {
        "elements": _flat, "columns": partial(_along, -1), "rows": partial(_along, 0),
    }  # fmt: skip
    for i, (place, of) in enumerate(places.items()):
        for j, block in enumerate(BLOCKS):
            tail = f"0 in the tail of {{0}} after its last full block of {block} {place}"
            yield tail, (4.0 + i / 10 + j / 100, partial(of, lambda i, n, b=block: i < n // b * b))
            if_any = f"{tail}, where there is a full one"
            yield if_any, (4.02 + i / 10 + j / 100, partial(of, lambda i, n, b=block: i < (n // b * b or n)))
            first = f"0 in {{0}} after its first {block} {place}"
            yield first, (4.04 + i / 10 + j / 100, partial(of, lambda i, n, b=block: i < b))


TAILS = dict(_blocks())
MASKS: Mapping[str, tuple[float, Callable[[Tensor], Tensor]]] = {
    "{0} negated": (2.2, lambda m: m == 0),
    "{0} taken for True everywhere": (2.3, torch.ones_like),
    "{0} taken for False everywhere": (2.4, torch.zeros_like),
}
INDICES: Mapping[str, tuple[float, Callable[[Tensor], Tensor]]] = {
    "{0} - 1 in place of {0}": (3, lambda i: (i - 1).clamp(min=0)),
    "{0} + 1 in place of {0}": (3, lambda i: i + 1),
    "{0} + 1, up to the last, in place of {0}": (3.5, lambda i: (i + 1).clamp(max=int(i.max()))),
    "{0} taken for 0": (2.5, torch.zeros_like),
}


def values(traced: Traced, position: int) -> Iterator[Edit]:
    """The value of an operation, an input, a residual or a result changed by itself."""
    value = traced.values[position]
    name = name_of(traced, Ref(position))
    stage = traced.sites[position].stage
    tables: list[Mapping[str, tuple[float, Callable[[Tensor], Tensor]]]] = [MASKS, ARRANGED]
    if value.is_floating_point():
        tables = [NUMBERS, ARRANGED]
        if stage in ("inputs", "results") and value.ndim:
            tables.append(TAILS)
    elif value.dtype != torch.bool:
        tables = [INDICES, ARRANGED]
    for table in tables if value.ndim else tables[:1]:
        for words, (cost, function) in table.items():
            cost += {"results": -0.3, "inputs": 0, "residuals": 0.1}.get(stage, 0.4)
            cost += HELPING if table is MASKS and stage in ("forward", "backward") else 0.0
            kind = words if "rounded to" in words and stage in ("forward", "backward") else ""
            yield at_site(traced, position, cost, worded(words, name), partial(_changed, function), kind)


def worded(words: str, name: str) -> str:
    """The words with a name in its place; a formula made of it stands in one pair of quotes."""
    formula, is_one, _ = words.partition(" in place of {0}")
    if not is_one or formula.startswith("the ") or " its " in formula or "cut off" in formula or "clamped" in formula:
        return words.format(name)
    plain = name.strip("`")
    return f"`{formula.format(f'({plain})' if ' ' in plain and formula != '|{0}|' else plain)}` in place of {name}"


def _changed(function: Callable[[Tensor], Tensor], at: At) -> Any:
    return function(at.result())


def other_values(traced: Traced, position: int) -> Iterator[Edit]:
    """Another value of the same shape in place of one, wherever it is used."""
    value, name = traced.values[position], name_of(traced, Ref(position))
    stage = traced.sites[position].stage
    for other in _fitting(traced, position, value):
        cost = (2.9 if other in traced.names else 3.9) + (0.0 if stage in ("residuals", "results") else 0.4)
        words = f"{name_of(traced, Ref(other))} in place of {name}"
        yield at_site(traced, position, cost, words, partial(_instead, _finder(traced, position, other)))


def _fitting(traced: Traced, position: int, value: Tensor) -> Iterator[int]:
    """Other values of this shape and kind that are known before an operation; each once."""
    seen = [value]
    for other, x in enumerate(traced.values[:position]):
        if not isinstance(x, Tensor) or x.shape != value.shape or x.dtype != value.dtype:
            continue
        if traced.nodes[other].name in ("scalar_tensor", "full", "zeros_like", "ones_like", "zeros", "ones"):
            continue
        if not any(torch.equal(x, known) for known in seen):
            seen.append(x)
            yield other


def _finder(traced: Traced, position: int, other: int) -> Callable[[At], Any]:
    """How to find another value in any run: in a loop that of the same round."""
    site, own = traced.sites[other], traced.sites[position]

    def find(at: At) -> Any:
        others, each = at.traced.positions[site], at.traced.positions[own]
        found = others[each.index(at.position)] if len(others) == len(each) else others[-1]
        return at.value(Ref(found))

    return find


def _instead(find: Callable[[At], Any], at: At) -> Any:
    return find(at)


def scaled_by_others(traced: Traced, position: int) -> Iterator[Edit]:
    """A value multiplied or divided by another once more."""
    value, name = traced.values[position], name_of(traced, Ref(position))
    if not value.is_floating_point() or not value.numel():
        return
    seen: list[Tensor] = []
    for other, x in enumerate(traced.values[:position]):
        if not isinstance(x, Tensor) or not x.is_floating_point() or not _meets(x, value):
            continue
        if any(x.shape == known.shape and torch.equal(x, known) for known in seen):
            continue
        seen.append(x)
        cost = (3.0 if other in traced.names else 4.0) + (0.2 if traced.sites[position].stage == "results" else 0.4)
        find, of = _finder(traced, position, other), name_of(traced, Ref(other))
        words = f"{name} multiplied by {of} once more"
        yield at_site(traced, position, cost, words, partial(_combined, torch.mul, find))
        words = f"{name} divided by {of} once more"
        yield at_site(traced, position, cost + 0.1, words, partial(_combined, torch.div, find))
        words = f"{of} added to {name}"
        yield at_site(traced, position, cost + 0.3, words, partial(_combined, torch.add, find))
        words = f"{of} subtracted from {name}"
        yield at_site(traced, position, cost + 0.4, words, partial(_combined, torch.sub, find))


def _meets(x: Tensor, value: Tensor) -> bool:
    """Whether they broadcast to the shape of the second."""
    pairs = zip(reversed(x.shape), reversed(value.shape), strict=False)
    return x.ndim <= value.ndim and all(own in (1, due) for own, due in pairs)


def _combined(op: Callable[[Tensor, Tensor], Tensor], find: Callable[[At], Any], at: At) -> Any:
    return op(at.result(), find(at))


# --------------------------------------------------------------------------------------------------------- operands


def operands(traced: Traced, position: int) -> Iterator[Edit]:
    """One operand of an operation changed, or another value in its place, where that value is used elsewhere too."""
    node = traced.nodes[position]
    for i, ref in enumerate(node.args):
        if not isinstance(ref, Ref):
            continue
        value, name = traced.values[ref.position], name_of(traced, ref)
        value = value if ref.item is None else value[ref.item]
        if not isinstance(value, Tensor):
            continue
        if node.name in ("mul", "div", "add", "sub"):
            neutral = 1.0 if node.name in ("mul", "div") else 0.0
            kind = "factor" if neutral else "summand"
            words = f"the {kind} {name} left out"
            cost = 1.9 if neutral else 1.7
            yield at_site(traced, position, cost, words, partial(_filled_operand, i, neutral), operand=i)
        users = sum(any(r.position == ref.position for r in n.refs) for n in traced.nodes)
        if users < 2 and traced.nodes[ref.position].name not in MOVES:
            continue  # the value itself is edited
        for table in (NUMBERS, ARRANGED) if value.is_floating_point() else (MASKS,):
            for words, (cost, function) in table.items():
                yield at_site(
                    traced, position, cost + 0.6, worded(words, name), partial(_mapped_operand, i, function), operand=i
                )
    yield from other_operands(traced, position)


def other_operands(traced: Traced, position: int) -> Iterator[Edit]:
    """Another value in place of one operand, where that is used elsewhere too."""
    for i, ref in enumerate(traced.nodes[position].args):
        if not isinstance(ref, Ref) or not isinstance(traced.values[ref.position], Tensor):
            continue
        if sum(any(r.position == ref.position for r in n.refs) for n in traced.nodes) < 2:
            continue
        for other in _fitting(traced, position, traced.values[ref.position]):
            if other != ref.position:
                cost = 3.1 if other in traced.names else 4.1
                words = f"{name_of(traced, Ref(other))} in place of {name_of(traced, ref)}"
                change = partial(_other_operand, i, _finder(traced, position, other))
                yield at_site(traced, position, cost, words, change, operand=i)


def _filled_operand(i: int, number: float, at: At) -> Any:
    args = at.place(list(at.node.args))
    args[i] = torch.full_like(args[i], number)
    return at.with_args(args)


def _mapped_operand(i: int, function: Callable[[Tensor], Tensor], at: At) -> Any:
    args = at.place(list(at.node.args))
    args[i] = function(args[i])
    return at.with_args(args)


def _other_operand(i: int, find: Callable[[At], Any], at: At) -> Any:
    args = at.place(list(at.node.args))
    args[i] = find(at)
    return at.with_args(args)


CONSTANTS: Mapping[str, tuple[float, Callable[[float], float]]] = {
    "0": (2.4, lambda c: 0.0),
    "1": (2.4, lambda c: 1.0),
    "2": (2.9, lambda c: 2.0),
    "-{0}": (2.5, lambda c: -c),
    "1/{0}": (2.9, lambda c: 1 / c),
    "{0}²": (3, lambda c: c * c),
    "2·{0}": (3, lambda c: 2 * c),
    "{0}/2": (3, lambda c: c / 2),
    "1 - {0}": (3.1, lambda c: 1 - c),
    "√{0}": (3.3, lambda c: c**0.5),
    "{0} + 1": (3.4, lambda c: c + 1),
    "{0} - 1": (3.4, lambda c: c - 1),
    "-1": (3.4, lambda c: -1.0),
    "1/2": (3.4, lambda c: 0.5),
    "3": (3.6, lambda c: 3.0),
    "4": (3.8, lambda c: 4.0),
    "1e-5": (3.8, lambda c: 1e-5),
    "1e-6": (3.9, lambda c: 1e-6),
    "1e-8": (3.9, lambda c: 1e-8),
    "1e-12": (4, lambda c: 1e-12),
}


def constants(traced: Traced, position: int) -> Iterator[Edit]:
    """Another number in place of a constant."""
    node = traced.nodes[position]
    for i, number in enumerate(node.args):
        if type(number) not in (int, float) or node.name not in NUMERIC:
            continue
        name = f"`{called(traced, number)}`"
        what = f" in {name_of(traced, Ref(position))}"
        for words, (cost, function) in CONSTANTS.items():
            change = partial(_number, i, function)
            new = f"`{words.format(name.strip('`'))}`"
            kind = f"{words} for {number}"
            yield at_site(traced, position, cost, f"{new} in place of {name}{what}", change, kind)


NUMERIC = frozenset(
    [
        "add",
        "sub",
        "rsub",
        "mul",
        "div",
        "pow",
        "clamp",
        "clamp_min",
        "clamp_max",
        "gt",
        "ge",
        "lt",
        "le",
        "where",
        "ne",
        "eq",
        "maximum",
        "minimum",
    ]
)
"""Operations whose arguments that are numbers are numbers of the formula, and not axes or sizes."""


def _number(i: int, function: Callable[[float], float], at: At) -> Any:
    args = at.place(list(at.node.args))
    args[i] = function(float(args[i]))
    return at.with_args(args)


# ------------------------------------------------------------------------------------------------------- operations


def _another(cost: float, name: str, op: Callable[..., Any]) -> Callable[[Traced, int], Iterator[Edit]]:
    """Another operation on the same operands; {} is what the right one gives."""

    def family(traced: Traced, position: int) -> Iterator[Edit]:
        def change(at: At) -> Any:
            return op(*at.place(list(at.node.args)), **at.place(at.node.kwargs))

        words = name.format(name_of(traced, Ref(position)))
        yield at_site(traced, position, cost, words, change, name)

    return family


def _left_out(traced: Traced, position: int) -> Iterator[Edit]:
    """An operation left out, so that its operand stands there."""
    node = traced.nodes[position]
    if isinstance(node.args[0], Ref):
        words = f"{name_of(traced, node.args[0])} in place of {name_of(traced, Ref(position))}"
        yield at_site(traced, position, 2.3, words, lambda at: at.place(at.node.args[0]).expand(at.result().shape))


def _reduced(traced: Traced, position: int) -> Iterator[Edit]:
    """A sum or mean of something else: over other axes, by another count, without a part."""
    node = traced.nodes[position]
    x = traced.values[node.args[0].position] if isinstance(node.args[0], Ref) else node.args[0]
    axes = _axes(node.args, x)
    name, of = name_of(traced, Ref(position)), name_of(traced, node.args[0])
    is_mean = node.name == "mean"
    count = "the number of its elements"
    if is_mean:
        yield at_site(traced, position, 2, f"the sum of {of} in place of its mean", partial(_times, lambda n: n), "sum")
        yield at_site(
            traced, position, 2.6, f"n - 1 in place of n in {name}", partial(_times, lambda n: n / (n - 1)), "n - 1"
        )
        yield at_site(traced, position, 3.4, f"n + 1 in place of n in {name}", partial(_times, lambda n: n / (n + 1)))
    else:
        yield at_site(
            traced, position, 2, f"the mean of {of} in place of its sum", partial(_times, lambda n: 1 / n), "mean"
        )
        yield at_site(traced, position, 2.9, f"{name} multiplied by {count}", partial(_times, lambda n: n))
    root = f"the square root of the number of elements in {name}"
    yield at_site(traced, position, 3.4, root, partial(_times, lambda n: n**0.5 if is_mean else n**-0.5))
    names = "mean" if is_mean else "sum"
    for others in itertools.combinations(range(x.ndim), len(axes)):
        if set(others) != set(axes):
            words = f"the {names} of {of} over {_said(others)} in place of {name}"
            yield at_site(traced, position, 3.2, words, partial(_over_others, others), f"{names} over {others}")
    yield from _elsewhere(traced, position, x, axes)
    for words, function in SLICES.items():
        yield at_site(traced, position, 3.3, f"{words} left out of {name}", partial(_sliced, function))
    for other, op in (("largest", torch.amax), ("smallest", torch.amin)):
        words = f"the {other} of {of} in place of {name}"
        yield at_site(traced, position, 4, words, partial(_reduced_by, op))


def _elsewhere(traced: Traced, position: int, x: Tensor, axes: list[int]) -> Iterator[Edit]:
    """A sum or mean over other axes, where what it gives is broadcast to the shape of what was reduced."""
    node, right = traced.nodes[position], traced.values[position]
    met = [position] if right.ndim == x.ndim or (x.ndim and _meets(right, x)) else []
    for user, other in enumerate(traced.nodes):
        value = traced.values[user]
        if other.name in MOVES and any(ref.position == position for ref in other.refs) and isinstance(value, Tensor):
            met += [user] if value.numel() == right.numel() and _meets(value, x) else []
    names = "mean" if node.name == "mean" else "sum"
    for user in met:
        for size in range(1, x.ndim + 1):
            for over in itertools.combinations(range(x.ndim), size):
                if set(over) != set(axes):
                    words = f"the {names} over {_said(over)} in place of {name_of(traced, Ref(position))}"
                    change = partial(_kept_axes, traced.sites[position], over)
                    yield at_site(traced, user, 3.1, words, change, f"kept {names} over {over}")
        if x.ndim > 1:
            words = f"the {names} of each example in place of {name_of(traced, Ref(position))}"
            change = partial(_kept_axes, traced.sites[position], None)
            yield at_site(traced, user, 3.0, words, change, f"kept {names} of each example")
            words = f"the {names} over all axes past the second in place of {name_of(traced, Ref(position))}"
            change = partial(_kept_axes, traced.sites[position], ())
            yield at_site(traced, user, 3.1, words, change, f"kept {names} of space")


def _kept_axes(site: Site, over: tuple[int, ...] | None, at: At) -> Any:
    """None: over all axes but the first; (): over all past the second, if there are any."""
    others, own = at.traced.positions[site], at.traced.positions[at.traced.sites[at.position]]
    node = at.traced.nodes[others[own.index(at.position)] if len(others) == len(own) else others[-1]]
    x = at.place(node.args[0])
    axes = tuple(range(1, x.ndim)) if over is None else over or tuple(range(2, x.ndim))
    if not axes:
        return at.result()
    return (torch.mean if node.name == "mean" else torch.sum)(x, axes, keepdim=True)


def _axes(args: Any, x: Tensor) -> list[int]:
    given = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) and args[1] else range(x.ndim)
    return [axis % max(x.ndim, 1) for axis in given]


def _times(factor: Callable[[float], float], at: At) -> Any:
    result = at.result()
    x = at.place(at.node.args[0])
    n = x.numel() / max(result.numel(), 1)
    return result * factor(n)


def _said(axes: Sequence[int]) -> str:
    return f"ax{'e' if len(axes) > 1 else 'i'}s {', '.join(map(str, axes))}"


def _over_others(others: tuple[int, ...], at: At) -> Any:
    x, right = at.place(at.node.args[0]), at.result()
    found = (torch.mean if at.node.name == "mean" else torch.sum)(x, others, keepdim=right.ndim == x.ndim)
    if right.ndim != x.ndim and found.shape != right.shape:
        raise ValueError("of another shape here")
    return found


def _full_blocks(block: int, n: int) -> range:
    return range(n // block * block)


def _first(block: int, n: int) -> range:
    return range(min(block, n))


SLICES: dict[str, Callable[[int], range]] = {
    "the last element": lambda n: range(n - 1),
    "the first element": lambda n: range(1, n),
    "all but the first element": lambda n: range(min(n, 1)),
    "all but the last element": lambda n: range(max(n - 1, 0), n),
    "the second half": lambda n: range(n // 2),
    "every second element": lambda n: range(0, n, 2),
    "what lies beyond the largest power of two": lambda n: range(1 << (max(n, 1).bit_length() - 1)),
}
"""What is left out of what is summed, and which are taken of so many."""
for _block in (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024):
    SLICES[f"the tail after the last full block of {_block} elements"] = partial(_full_blocks, _block)
    SLICES[f"all after the first {_block} elements"] = partial(_first, _block)


def _taken(keep: Callable[[int], range], x: Tensor, axis: int) -> Tensor:
    return x.index_select(axis, torch.tensor(keep(x.shape[axis]), dtype=torch.long))


def _sliced(keep: Callable[[int], range], at: At) -> Any:
    """Of the last of the axes over which is summed a part; a mean is still divided by the whole count."""
    args = at.place(list(at.node.args))
    x = args[0]
    axes = _axes(args, x)
    if not axes:
        raise IndexError("nothing is summed here")
    length = x.shape[axes[-1]]
    args[0] = _taken(keep, x, axes[-1])
    found = at.with_args(args)
    return found * (args[0].shape[axes[-1]] / length) if at.node.name == "mean" else found


def _reduced_by(op: Callable[..., Tensor], at: At) -> Any:
    x = at.place(at.node.args[0])
    return op(x, _axes(at.node.args, x)).reshape(at.result().shape)


def _products(traced: Traced, position: int) -> Iterator[Edit]:
    """Matrix products with an operand transposed, or without a part of what is summed."""
    node, name = traced.nodes[position], name_of(traced, Ref(position))
    for i in (0, 1):
        operand = node.args[i]
        x = traced.values[operand.position] if isinstance(operand, Ref) else operand
        if x.ndim >= 2 and x.shape[-1] == x.shape[-2]:
            words = f"{name_of(traced, operand)} transposed in {name}"
            yield at_site(traced, position, 2.6, words, partial(_mapped_operand, i, lambda x: x.mT))
    for words, function in SLICES.items():
        yield at_site(traced, position, 3.3, f"{words} left out of {name}", partial(_short_product, function))
    inner = traced.values[node.args[0].position].shape[-1] if isinstance(node.args[0], Ref) else 0
    if inner:
        yield at_site(
            traced, position, 2.4, f"{name} divided by the number of its summands",
            lambda at: at.result() / at.place(at.node.args[0]).shape[-1],
        )  # fmt: skip


def _short_product(keep: Callable[[int], range], at: At) -> Any:
    args = at.place(list(at.node.args))
    args[0] = _taken(keep, args[0], args[0].ndim - 1)
    args[1] = _taken(keep, args[1], max(args[1].ndim - 2, 0))
    return at.with_args(args)


def _swapped(cost: float, words: str) -> Callable[[Traced, int], Iterator[Edit]]:
    """The first two operands exchanged."""

    def family(traced: Traced, position: int) -> Iterator[Edit]:
        one, two = (name_of(traced, a) for a in traced.nodes[position].args[:2])

        def change(at: At) -> Any:
            first, second, *others = at.place(list(at.node.args))
            return at.node.op(second, first, *others, **at.place(at.node.kwargs))

        yield at_site(traced, position, cost, words.format(one, two), change)

    return family


def _where(traced: Traced, position: int) -> Iterator[Edit]:
    """A choice that is made the other way round, or always in one way."""
    name = name_of(traced, Ref(position))
    condition, one, two = (name_of(traced, a) for a in traced.nodes[position].args)

    def picked(order: Callable[[Any, Any, Any], Any]) -> Change:
        return lambda at: order(*at.place(list(at.node.args))).expand(at.result().shape)

    yield at_site(traced, position, 2.4, f"{one} and {two} exchanged", picked(lambda c, a, b: torch.where(c, b, a)))
    yield at_site(traced, position, 2.6, f"{one} everywhere, and not only where {condition}", picked(lambda c, a, b: a))
    yield at_site(traced, position, 2.7, f"{two} everywhere, not {one} where {condition}", picked(lambda c, a, b: b))
    del name


def _outside(traced: Traced, position: int) -> Iterator[Edit]:
    """What is added before a function is taken, added after it."""
    node = traced.nodes[position]
    inner = traced.nodes[node.args[0].position] if isinstance(node.args[0], Ref) else None
    if inner is None or inner.name != "add":
        return
    name, of = name_of(traced, inner.args[1]), name_of(traced, Ref(position))

    def change(at: At) -> Any:
        before = at.traced.nodes[at.node.args[0].position]
        x, added = at.place(list(before.args[:2]))
        if at.node.name in ("rsqrt", "reciprocal"):
            return 1 / (1 / at.with_args([x, *at.place(list(at.node.args[1:]))]) + added)
        return at.with_args([x, *at.place(list(at.node.args[1:]))]) + added

    yield at_site(traced, position, 2.2, f"{name} added outside and not inside {of}", change, "outside")


def _axis(traced: Traced, position: int) -> Iterator[Edit]:
    """Another axis of a softmax, a cumulative sum, an extremum."""
    node, name = traced.nodes[position], name_of(traced, Ref(position))
    x = traced.values[position]
    for axis in range(x.ndim):
        words = f"axis {axis} in place of its own in {name}"

        def change(at: At, axis: int = axis) -> Any:
            args = at.place(list(at.node.args))
            args[1] = [axis] if isinstance(args[1], list | tuple) else axis
            return at.with_args(args)

        if len(node.args) > 1 and isinstance(node.args[1], int | list | tuple):
            yield at_site(traced, position, 3, words, change)


def _extremum(traced: Traced, position: int) -> Iterator[Edit]:
    """The smallest for the largest, the last of equals for the first."""
    name = name_of(traced, Ref(position))
    opposite = {"amax": "amin", "amin": "amax", "argmax": "argmin", "argmin": "argmax"}[traced.nodes[position].name]
    op = getattr(torch, opposite)

    def change(at: At) -> Any:
        return op(*at.place(list(at.node.args)))

    yield at_site(traced, position, 2.8, f"{opposite} in place of {traced.nodes[position].name} in {name}", change)


def _written(op: Callable[..., Any]) -> Callable[[Traced, int], Iterator[Edit]]:
    """What adds at an index, and only writes there."""
    return _another(1.9, "what comes last at an index written where it is to be added", op)


def _only_written(x: Tensor, indices: Any, values: Tensor, *_: Any) -> Tensor:
    written: Tensor = aten.index_put(x, indices, values)
    return written


MULTIPLIED = [_another(2.6, "a division in place of the multiplication {}", torch.div),
              _another(2.8, "a sum in place of the product {}", torch.add),
              _another(3.6, "a difference in place of the product {}", torch.sub)]  # fmt: skip
ADDED = [_another(2.2, "a minus in place of the plus of {}", torch.sub),
         _another(3, "a product in place of the sum {}", torch.mul),
         _another(3, "the larger in place of the sum {}", torch.maximum)]  # fmt: skip
SUBTRACTED = [_another(2.2, "a plus in place of the minus of {}", torch.add),
              _swapped(2.5, "{1} - {0} in place of {0} - {1}"),
              _another(3.2, "a product in place of the difference {}", torch.mul)]  # fmt: skip
DIVIDED = [_another(2.6, "a multiplication in place of the division {}", torch.mul),
           _swapped(2.9, "{1}/{0} in place of {0}/{1}"),
           _another(3.6, "a division rounded down in place of {}", torch.floor_divide)]  # fmt: skip


SUMMED = _another(3, "a sum in place of {}", torch.add)


def _compared(*others: tuple[str, str]) -> list[Callable[[Traced, int], Iterator[Edit]]]:
    return [_another(2.5, f"{sign} in place of the sign of {{}}", getattr(torch, op)) for op, sign in others]


FUNCTIONS = (
    *("sqrt", "exp", "log", "neg", "abs", "reciprocal", "rsqrt", "tanh", "sigmoid", "expm1", "log1p", "erf", "relu"),
    *("pow", "square", "sin", "cos", "clamp", "clamp_min", "clamp_max", "bitwise_not", "logical_not"),
)

OPERATIONS: Mapping[str, list[Callable[[Traced, int], Iterator[Edit]]]] = {
    "mul": MULTIPLIED,
    "add": ADDED,
    "sub": SUBTRACTED,
    "rsub": SUBTRACTED,
    "div": DIVIDED,
    "sum": [_reduced],
    "mean": [_reduced],
    "mm": [_products],
    "bmm": [_products],
    "mv": [_products],
    "dot": [_products],
    "where": [_where],
    "gt": _compared(("ge", "≥"), ("lt", "<"), ("le", "≤")),
    "ge": _compared(("gt", ">"), ("le", "≤"), ("lt", "<")),
    "lt": _compared(("le", "≤"), ("gt", ">"), ("ge", "≥")),
    "le": _compared(("lt", "<"), ("ge", "≥"), ("gt", ">")),
    "eq": _compared(("ne", "≠"), ("ge", "≥"), ("le", "≤")),
    "ne": _compared(("eq", "=")),
    "amax": [_extremum, _axis],
    "amin": [_extremum, _axis],
    "argmax": [_extremum],
    "argmin": [_extremum],
    "_softmax": [_axis],
    "_log_softmax": [_axis],
    "cumsum": [_axis],
    "maximum": [_another(2.6, "the smaller in place of {}", torch.minimum), SUMMED],
    "minimum": [_another(2.6, "the larger in place of {}", torch.maximum), SUMMED],
    "bitwise_and": [_another(2.6, "or in place of and in {}", torch.bitwise_or)],
    "bitwise_or": [_another(2.6, "and in place of or in {}", torch.bitwise_and)],
    "index_add": [_written(lambda x, dim, index, source, **_: aten.index_copy(x, dim, index, source))],
    "scatter_add": [_written(aten.scatter)],
    "index_put": [_written(_only_written)],
    **{name: [_left_out, _outside] for name in FUNCTIONS},
    "clamp_min": [_left_out, _another(2.4, "a sum in place of the larger of two in {}", torch.add)],
    "expm1": [_left_out, _another(3, "exp in place of expm1", torch.exp)],
    "log1p": [_left_out, _another(3, "log in place of log1p", torch.log)],
    "exp": [_left_out, _outside, _another(3.4, "expm1 in place of exp", torch.expm1)],
    "tanh": [_left_out, _another(3.4, "a sigmoid in place of tanh", torch.sigmoid)],
    "sigmoid": [_left_out, _another(3.4, "tanh in place of the sigmoid", torch.tanh)],
}  # fmt: skip
