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
    "sum": [reduced, unreduced],
    "mean": [reduced, unreduced],
    **{name: [by_axis] for name in ("convolution", "avg_pool2d", "avg_pool3d", "unfold", "im2col", "col2im")},
    "mm": [products],
    "bmm": [products],
    "mv": [products],
    "dot": [products],
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
    "cumsum": [_axis, _restarted],
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
