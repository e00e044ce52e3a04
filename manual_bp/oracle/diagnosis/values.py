"""Edits of values: a value, or one operand of an operation, is another."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from manual_bp.oracle.diagnosis.changes import ARRANGED, CLAMPED, FUNCTIONS, INDICES, MASKS, NUMBERS, worded
from manual_bp.oracle.diagnosis.edit import Edit, RefusedError, at_site
from manual_bp.oracle.diagnosis.program import MOVES, At, Traced
from manual_bp.oracle.diagnosis.words import called, hyperparameter, name_of
from manual_bp.program import Ref

# A mask that a page computes often only helps it to keep digits: what is edited there is seldom the cause.
HELPING = 0.8


def values(traced: Traced, position: int) -> Iterator[Edit]:
    """The value of an operation, an input, a residual or a result changed by itself."""
    value = traced.values[position]
    name = name_of(traced, Ref(position))
    if traced.nodes[position].name in NOTHING and position not in traced.names and traced.used_by[position]:
        name = f"{name} in {name_of(traced, Ref(traced.used_by[position][0]))}"  # there are several of it
    stage = traced.sites[position].stage
    first: Mapping[str, tuple[float, Callable[[Tensor], Tensor]]] = INDICES
    if value.is_floating_point() or value.dtype == torch.bool:
        first = NUMBERS if value.is_floating_point() else MASKS
    tables = [first, ARRANGED, *([CLAMPED] if first is NUMBERS and stage in ("inputs", "residuals") else [])]
    for table in tables if value.ndim else tables[:1]:
        for words, (cost, function) in table.items():
            cost += {"results": -0.3, "inputs": 0, "residuals": 0.1}.get(stage, 0.4)
            cost += HELPING if table is MASKS and stage in ("forward", "backward") else 0.0
            kind = words if "rounded to" in words and stage in ("forward", "backward") else ""
            yield at_site(traced, position, cost, worded(words, name), partial(_changed, function), kind)


def _changed(function: Callable[[Tensor], Tensor], at: At) -> Any:
    return function(at.result())


def other_values(traced: Traced, position: int) -> Iterator[Edit]:
    """Another value of the same shape in place of one, wherever it is used."""
    value, name = traced.values[position], name_of(traced, Ref(position))
    stage = traced.sites[position].stage
    near = _near(traced, position) if stage == "residuals" else set()
    for other in _fitting(traced, position, value, near):
        cost = (2.9 if other in traced.names else 3.3 if other in near else 3.9) + (
            0.0 if stage in ("residuals", "results") else 0.4
        )
        words = f"{name_of(traced, Ref(other))} in place of {name}"
        yield at_site(traced, position, cost, words, partial(_instead, finder(traced, position, other)))


# In a program of more operations only values that have a name are taken in place of others.
SHORT = 60
NOTHING = frozenset(("scalar_tensor", "full", "zeros_like", "ones_like", "zeros", "ones"))
"""What gives constants alone."""


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


def _fitting(traced: Traced, position: int, value: Tensor, near: Collection[int] = ()) -> Iterator[int]:
    """Those of this shape and kind."""
    for other in _others(traced, position, near):
        x = traced.values[other]
        if x.shape == value.shape and x.dtype == value.dtype:
            yield other


def finder(traced: Traced, position: int, other: int) -> Callable[[At], Any]:
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
    for other in _others(traced, position):
        x = traced.values[other]
        if not x.is_floating_point() or not meets(x, value):
            continue
        cost = (3.0 if other in traced.names else 4.0) + (0.2 if traced.sites[position].stage == "results" else 0.4)
        find, of = finder(traced, position, other), name_of(traced, Ref(other))
        words = f"{name} multiplied by {of} once more"
        yield at_site(traced, position, cost, words, partial(_combined, torch.mul, find))
        words = f"{name} divided by {of} once more"
        yield at_site(traced, position, cost + 0.1, words, partial(_combined, torch.div, find))
        words = f"{of} added to {name}"
        yield at_site(traced, position, cost + 0.3, words, partial(_combined, torch.add, find))
        words = f"{of} subtracted from {name}"
        yield at_site(traced, position, cost + 0.4, words, partial(_combined, torch.sub, find))


def meets(x: Tensor, value: Tensor) -> bool:
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
        if len(traced.used_by[ref.position]) < 2 and traced.nodes[ref.position].name not in MOVES:
            continue  # the value itself is edited
        for table in (NUMBERS, ARRANGED) if value.is_floating_point() else (MASKS,):
            for words, (cost, function) in table.items():
                yield at_site(
                    traced, position, cost + 0.6, worded(words, name), partial(mapped_operand, i, function), operand=i
                )
    yield from other_operands(traced, position)


def other_operands(traced: Traced, position: int) -> Iterator[Edit]:
    """Another value in place of one operand, where that is used elsewhere too."""
    for i, ref in enumerate(traced.nodes[position].args):
        if not isinstance(ref, Ref) or not isinstance(traced.values[ref.position], Tensor):
            continue
        if len(traced.used_by[ref.position]) < 2:
            continue
        near = _near(traced, ref.position)
        for other in _fitting(traced, position, traced.values[ref.position], near):
            if other != ref.position:
                cost = 3.1 if other in traced.names else 3.3 if other in near else 4.1
                words = f"{name_of(traced, Ref(other))} in place of {name_of(traced, ref)}"
                change = partial(other_operand, i, finder(traced, position, other))
                yield at_site(traced, position, cost, words, change, operand=i)


def _filled_operand(i: int, number: float, at: At) -> Any:
    args = at.place(list(at.node.args))
    args[i] = torch.full_like(args[i], number)
    return at.with_args(args)


def mapped_operand(i: int, function: Callable[[Tensor], Tensor], at: At) -> Any:
    args = at.place(list(at.node.args))
    args[i] = function(args[i])
    return at.with_args(args)


def other_operand(i: int, find: Callable[[At], Any], at: At) -> Any:
    args = at.place(list(at.node.args))
    args[i] = find(at)
    return at.with_args(args)


# Where a number is written into a formula, these are others.
PLAIN = (0.0, 1.0, 2.0, -1.0, 0.5, 3.0, 4.0, 1e-5, 1e-6, 1e-8, 1e-12)


def constants(traced: Traced, position: int) -> Iterator[Edit]:
    """Another number in place of a constant."""
    node = traced.nodes[position]
    for i, number in enumerate(node.args):
        if type(number) not in (int, float) or node.name not in NUMERIC:
            continue
        name = f"`{called(traced, number)}`"
        what = f" in {name_of(traced, Ref(position))}"
        others: dict[str, tuple[float, Callable[[Any], Any]]] = dict(FUNCTIONS)
        others |= {f"`{c:g}`": (2.1 + i / 5, partial(_always, c)) for i, c in enumerate(PLAIN)}
        default = traced.rule.defaults.get(hyperparameter(traced, number))
        if isinstance(default, int | float) and not isinstance(default, bool):
            others[f"`{default:g}`"] = (2.0, partial(_always, default))
        for words, (cost, function) in others.items():
            said = f"{worded(words, name)}{what}"
            change = partial(_number, i, function, None if hyperparameter(traced, number) else number)
            yield at_site(traced, position, cost + 0.3, said, change, f"{words} for {number}")


def _always(number: float, _: float) -> float:
    return number


NUMERIC = frozenset((
    "add", "sub", "rsub", "mul", "div", "pow", "clamp", "clamp_min", "clamp_max", "gt", "ge", "lt", "le", "where", "ne",
    "eq", "maximum", "minimum",
))  # fmt: skip
"""Operations whose arguments that are numbers are numbers of the formula, and not axes or sizes."""


def _number(i: int, function: Callable[[float], float], number: float | None, at: At) -> Any:
    """number: which alone is changed; None for a hyperparameter, which is another number elsewhere."""
    args = at.place(list(at.node.args))
    if number is not None and args[i] != number:
        raise RefusedError("it is no number of the formula")
    args[i] = function(float(args[i]))
    return at.with_args(args)


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
        of, find = name_of(traced, Ref(other)), finder(traced, position, other)
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
