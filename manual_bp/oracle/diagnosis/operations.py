"""Edits of operations: another one, or none, a choice made the other way round."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from manual_bp.oracle.diagnosis.edit import Edit, Slot
from manual_bp.oracle.diagnosis.program import At
from manual_bp.oracle.diagnosis.reductions import by_axis, products, reduced
from manual_bp.oracle.diagnosis.words import name_of
from manual_bp.program import Ref

aten = torch.ops.aten

CALLED: Mapping[str, str] = {
    "add": "a plus", "sub": "a minus", "rsub": "a minus", "mul": "a product", "div": "a division",
    "floor_divide": "a division rounded down", "maximum": "the larger of two", "minimum": "the smaller of two",
    "clamp_min": "the larger of two", "clamp_max": "the smaller of two", "bitwise_and": "and", "bitwise_or": "or",
    "gt": ">", "ge": "≥", "lt": "<", "le": "≤", "eq": "=", "ne": "≠",
}  # fmt: skip
"""What is said of an operation that has no name of its own."""

ALIKE: tuple[tuple[float, tuple[str, ...]], ...] = (
    (2.2, ("add", "sub", "rsub")),
    (2.6, ("mul", "div")),
    (2.6, ("maximum", "minimum")),
    (2.6, ("clamp_min", "clamp_max", "add")),
    (2.6, ("bitwise_and", "bitwise_or")),
    (2.2, ("gt", "ge", "lt", "le")),
    (2.5, ("eq", "ne")),
    (2.8, ("amax", "amin")),
    (2.8, ("argmax", "argmin")),
    (3.0, ("add", "sub", "rsub", "mul", "maximum", "minimum")),
    (3.2, ("exp", "expm1")),
    (3.2, ("log", "log1p")),
    (3.4, ("tanh", "sigmoid")),
    (3.6, ("div", "floor_divide")),
)
"""Operations that are taken for each other, on the same operands, with how seldom that is met."""


def _another(slot: Slot) -> Iterator[Edit]:
    """Another operation on the same operands."""
    own, seen = slot.traced.nodes[slot.position].name, set[str]()
    for cost, names in ALIKE:
        for other in names if own in names else ():
            if other != own and other not in seen and {own, other} != {"sub", "rsub"}:
                seen.add(other)
                words = f"{CALLED.get(other, other)} in place of {CALLED.get(own, own)} in {slot.name}"
                yield _called(slot, cost, words, getattr(torch, other), f"{other} for {own}")


def _called(slot: Slot, cost: float, words: str, op: Callable[..., Any], kind: str = "") -> Edit:
    """Something else called with what an operation is called with."""
    return slot.instead(cost, words, lambda at: op(*at.args(), **at.place(at.node.kwargs)), kind)


def _left_out(slot: Slot) -> Iterator[Edit]:
    """An operation left out, so that its operand stands there."""
    operand = slot.traced.nodes[slot.position].args[0]
    if isinstance(operand, Ref):
        words = f"{name_of(slot.traced, operand)} in place of {slot.name}"
        yield slot.edit_at(2.3, words, lambda x, at: at.args()[0].expand(x.shape))


def _swapped(cost: float, words: str) -> Callable[[Slot], Iterator[Edit]]:
    """The first two operands exchanged."""

    def family(slot: Slot) -> Iterator[Edit]:
        node = slot.traced.nodes[slot.position]
        said = words.format(*(name_of(slot.traced, a) for a in node.args[:2]))
        yield _called(slot, cost, said, lambda one, two, *others, **more: node.op(two, one, *others, **more))

    return family


def _where(slot: Slot) -> Iterator[Edit]:
    """A choice that is made the other way round, or always in one way."""
    condition, one, two = (name_of(slot.traced, a) for a in slot.traced.nodes[slot.position].args)
    yield _called(slot, 2.4, f"{one} and {two} exchanged", lambda c, a, b: torch.where(c, b, a))
    words = f"{one} everywhere, and not only where {condition}"
    yield slot.edit_at(2.6, words, lambda x, at: at.args()[1].expand(x.shape))
    words = f"{two} everywhere, not {one} where {condition}"
    yield slot.edit_at(2.7, words, lambda x, at: at.args()[2].expand(x.shape))


def _outside(slot: Slot) -> Iterator[Edit]:
    """What is added before a function is taken, added after it."""
    node = slot.traced.nodes[slot.position]
    inner = slot.traced.nodes[node.args[0].position] if isinstance(node.args[0], Ref) else None
    if inner is None or inner.name != "add":
        return

    def change(at: At) -> Any:
        x, added = at.place(list(at.traced.nodes[at.node.args[0].position].args[:2]))
        found = at.with_args([x, *at.args()[1:]])
        return 1 / (1 / found + added) if at.node.name in ("rsqrt", "reciprocal") else found + added

    words = f"{name_of(slot.traced, inner.args[1])} added outside and not inside {slot.name}"
    yield slot.instead(2.2, words, change, "outside")


def _axis(slot: Slot) -> Iterator[Edit]:
    """Another axis of a softmax, a cumulative sum, an extremum."""
    args = slot.traced.nodes[slot.position].args
    for axis in range(slot.value.ndim if len(args) > 1 and isinstance(args[1], int | list | tuple) else 0):
        words = f"axis {axis} in place of its own in {slot.name}"
        another = [axis] if isinstance(args[1], list | tuple) else axis
        yield slot.edit(3, words, partial(_instead, another), arg=1)


def _instead(another: Any, _: Any) -> Any:
    return another


def _regrouped(slot: Slot) -> Iterator[Edit]:
    """An axis split into groups, or put together again, as if these were interleaved: of heads, of channels."""
    of = slot.traced.nodes[slot.position].args[0]
    x, value = slot.traced.values[of.position], slot.value
    if isinstance(x, Tensor) and _interleaved(x, value.shape) is not None:
        words = f"groups interleaved, and not one after the other, in {slot.name}"
        yield slot.edit_at(2.6, words, _grouped_otherwise, "interleaved")


def _grouped_otherwise(right: Tensor, at: At) -> Tensor:
    found = _interleaved(at.args()[0], right.shape)
    return right if found is None else found


def _interleaved(x: Tensor, shape: Sequence[int]) -> Tensor | None:
    """x read in another shape, where the first axis that differs is split or put together with what follows; None if
    it is not, or if it is the same."""
    axis = next((i for i, (n, m) in enumerate(zip(x.shape, shape, strict=False)) if n != m), None)
    if axis is None or not x.numel():
        return None
    n, m = x.shape[axis], shape[axis]
    if 1 < m < n and n % m == 0:
        return torch.unflatten(x, axis, (n // m, m)).transpose(axis, axis + 1).reshape(shape)
    if 1 < n < m and m % n == 0:
        return x.reshape(*shape[:axis], n, m // n, *shape[axis + 1 :]).transpose(axis, axis + 1).reshape(shape)
    return None


def _only_written(slot: Slot) -> Iterator[Edit]:
    """What adds at an index, and only writes there."""
    words = f"what comes last at an index written where it is to be added in {slot.name}"
    yield _called(slot, 1.9, words, WRITING[slot.traced.nodes[slot.position].name], "written")


WRITING: Mapping[str, Callable[..., Tensor]] = {
    "index_add": lambda x, dim, index, source, **_: aten.index_copy(x, dim, index, source),
    "scatter_add": aten.scatter,
    "index_put": lambda x, indices, values, *_: aten.index_put(x, indices, values),
}
"""By what adds at an index, what writes there."""

FUNCTIONS = (
    *("sqrt", "exp", "log", "neg", "abs", "reciprocal", "rsqrt", "tanh", "sigmoid", "expm1", "log1p", "erf", "relu"),
    *("pow", "square", "sin", "cos", "clamp", "clamp_min", "clamp_max", "bitwise_not", "logical_not"),
)

WINDOWS = ("convolution", "avg_pool2d", "avg_pool3d", "unfold", "im2col", "col2im", "constant_pad_nd")

OPERATIONS: Mapping[str, list[Callable[[Slot], Iterator[Edit]]]] = {
    "sub": [_swapped(2.5, "{1} - {0} in place of {0} - {1}")],
    "rsub": [_swapped(2.5, "{0} - {1} in place of {1} - {0}")],
    "div": [_swapped(2.9, "{1}/{0} in place of {0}/{1}")],
    "sum": [reduced],
    "mean": [reduced],
    **{key: [by_axis] for key in WINDOWS},
    **{key: [products] for key in ("mm", "bmm", "mv", "dot")},
    "where": [_where],
    **{key: [_axis] for key in ("amax", "amin", "_softmax", "_log_softmax", "cumsum")},
    **{key: [_regrouped] for key in ("view", "_unsafe_view", "_reshape_alias")},
    **{key: [_only_written] for key in WRITING},
    **{key: [_left_out, _outside] for key in FUNCTIONS},
}


def operations(slot: Slot) -> Iterator[Edit]:
    """All of one operation."""
    for family in (_another, *OPERATIONS.get(slot.traced.nodes[slot.position].name, ())):
        yield from family(slot)
