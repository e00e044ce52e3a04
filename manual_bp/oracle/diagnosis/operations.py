"""Edits of operations: another one, or none, a choice made the other way round."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from manual_bp.oracle.diagnosis.blocks import BLOCKS
from manual_bp.oracle.diagnosis.edit import Edit, at_site
from manual_bp.oracle.diagnosis.program import At, Change, Traced
from manual_bp.oracle.diagnosis.reductions import by_axis, products, reduced, unreduced
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
    (2.5, ("gt", "ge", "lt", "le")),
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


def _another(traced: Traced, position: int) -> Iterator[Edit]:
    """Another operation on the same operands."""
    own, seen = traced.nodes[position].name, set[str]()
    for cost, names in ALIKE:
        for other in names if own in names else ():
            if other != own and other not in seen and {own, other} != {"sub", "rsub"}:
                seen.add(other)
                words = f"{CALLED.get(other, other)} in place of {CALLED.get(own, own)}"
                said = f"{words} in {name_of(traced, Ref(position))}"
                yield at_site(traced, position, cost, said, partial(_by, getattr(torch, other)), f"{other} for {own}")


def _by(op: Callable[..., Any], at: At) -> Any:
    return op(*at.place(list(at.node.args)), **at.place(at.node.kwargs))


def _left_out(traced: Traced, position: int) -> Iterator[Edit]:
    """An operation left out, so that its operand stands there."""
    node = traced.nodes[position]
    if isinstance(node.args[0], Ref):
        words = f"{name_of(traced, node.args[0])} in place of {name_of(traced, Ref(position))}"
        yield at_site(traced, position, 2.3, words, lambda at: at.place(at.node.args[0]).expand(at.result().shape))


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
    condition, one, two = (name_of(traced, a) for a in traced.nodes[position].args)

    def picked(order: Callable[[Any, Any, Any], Any]) -> Change:
        return lambda at: order(*at.place(list(at.node.args))).expand(at.result().shape)

    yield at_site(traced, position, 2.4, f"{one} and {two} exchanged", picked(lambda c, a, b: torch.where(c, b, a)))
    yield at_site(traced, position, 2.6, f"{one} everywhere, and not only where {condition}", picked(lambda c, a, b: a))
    yield at_site(traced, position, 2.7, f"{two} everywhere, not {one} where {condition}", picked(lambda c, a, b: b))


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


def _clamp(traced: Traced, position: int) -> Iterator[Edit]:
    """What lies beyond two bounds of one size, or where that begins, taken for 1."""
    node = traced.nodes[position]
    if len(node.args) != 3 or type(node.args[2]) not in (int, float) or node.args[1] != -node.args[2]:
        return
    of, bound = name_of(traced, node.args[0]), name_of(traced, node.args[2])

    def change(begins: bool, at: At) -> Any:
        x, _, most = at.place(list(at.node.args))
        return torch.where(x.abs() <= (1 if begins else most), x, torch.sign(x) * (most if begins else 1))

    words = f"±1 in place of ±{bound} where |{of.strip('`')}| > {bound}"
    yield at_site(traced, position, 2.6, words, partial(change, False))
    words = f"±{bound} where |{of.strip('`')}| > 1, and not where it is > {bound}"
    yield at_site(traced, position, 2.6, words, partial(change, True))


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


def _restarted(traced: Traced, position: int) -> Iterator[Edit]:
    """A running sum that begins anew in each block."""
    name, axis = name_of(traced, Ref(position)), traced.nodes[position].args[1]
    for j, block in enumerate(BLOCKS):
        for from_end, words in ((False, ""), (True, ", counted from the end")):
            if block < traced.values[position].shape[axis]:
                said = f"{name} begun anew in every block of {block}{words}"
                yield at_site(traced, position, 2.6 + j / 100, said, partial(_anew, block, from_end))


def _anew(block: int, from_end: bool, at: At) -> Any:
    x, axis, *others = at.place(list(at.node.args))
    first = x.shape[axis] % block if from_end else 0
    lengths = [first] * (first > 0) + [block] * ((x.shape[axis] - first) // block)
    lengths += [x.shape[axis] - sum(lengths)] * (sum(lengths) < x.shape[axis])
    return torch.cat([at.with_args([part, axis, *others]) for part in x.split(lengths, axis)], axis)


def _only_written(traced: Traced, position: int) -> Iterator[Edit]:
    """What adds at an index, and only writes there."""
    words = f"what comes last at an index written where it is to be added in {name_of(traced, Ref(position))}"
    yield at_site(traced, position, 1.9, words, partial(_by, WRITING[traced.nodes[position].name]), "written")


def _put(x: Tensor, indices: Any, values: Tensor, *_: Any) -> Tensor:
    written: Tensor = aten.index_put(x, indices, values)
    return written


WRITING: Mapping[str, Callable[..., Tensor]] = {
    "index_add": lambda x, dim, index, source, **_: aten.index_copy(x, dim, index, source),
    "scatter_add": aten.scatter,
    "index_put": _put,
}
"""By what adds at an index, what writes there."""

FUNCTIONS = (
    *("sqrt", "exp", "log", "neg", "abs", "reciprocal", "rsqrt", "tanh", "sigmoid", "expm1", "log1p", "erf", "relu"),
    *("pow", "square", "sin", "cos", "clamp_min", "clamp_max", "bitwise_not", "logical_not"),
)

WINDOWS = ("convolution", "avg_pool2d", "avg_pool3d", "unfold", "im2col", "col2im", "constant_pad_nd")

OPERATIONS: Mapping[str, list[Callable[[Traced, int], Iterator[Edit]]]] = {
    "sub": [_swapped(2.5, "{1} - {0} in place of {0} - {1}")],
    "rsub": [_swapped(2.5, "{0} - {1} in place of {1} - {0}")],
    "div": [_swapped(2.9, "{1}/{0} in place of {0}/{1}")],
    "sum": [reduced, unreduced],
    "mean": [reduced, unreduced],
    **{key: [by_axis] for key in WINDOWS},
    **{key: [products] for key in ("mm", "bmm", "mv", "dot")},
    "where": [_where],
    **{key: [_axis] for key in ("amax", "amin", "_softmax", "_log_softmax")},
    "cumsum": [_axis, _restarted],
    "clamp": [_left_out, _outside, _clamp],
    **{key: [_only_written] for key in WRITING},
    **{key: [_left_out, _outside] for key in FUNCTIONS},
}


def operations(traced: Traced, position: int) -> Iterator[Edit]:
    """All of one operation."""
    for family in (_another, *OPERATIONS.get(traced.nodes[position].name, ())):
        yield from family(traced, position)
