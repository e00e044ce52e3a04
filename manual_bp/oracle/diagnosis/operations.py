"""Edits of operations: another one, a sum over other axes or without a part, a choice made the other way round."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from manual_bp.oracle.diagnosis.edit import Edit, at_site
from manual_bp.oracle.diagnosis.program import MOVES, At, Change, Site, Traced
from manual_bp.oracle.diagnosis.values import mapped_operand, meets
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
    met = [position] if right.ndim == x.ndim or (x.ndim and meets(right, x)) else []
    for user, other in enumerate(traced.nodes):
        value = traced.values[user]
        if other.name in MOVES and any(ref.position == position for ref in other.refs) and isinstance(value, Tensor):
            met += [user] if value.numel() == right.numel() and meets(value, x) else []
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
            yield at_site(traced, position, 2.6, words, partial(mapped_operand, i, lambda x: x.mT))
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
