"""Edits of sums, means and products of matrices: over other axes, by another count, without a part; and of windows that
move along axes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from manual_bp.oracle.diagnosis.blocks import Weights, weighted, weights
from manual_bp.oracle.diagnosis.edit import Edit, at_site
from manual_bp.oracle.diagnosis.orders import counts
from manual_bp.oracle.diagnosis.program import MOVES, At, Site, Traced
from manual_bp.oracle.diagnosis.quantities import Quantity
from manual_bp.oracle.diagnosis.values import mapped_operand, meets
from manual_bp.oracle.diagnosis.words import name_of
from manual_bp.program import Ref

aten = torch.ops.aten


def _power(n: float) -> float:
    """The least power of two that is not less."""
    return 2.0 ** math.ceil(math.log2(max(n, 1)))


POWER = "the power of two from n on in place of n in {1} (the block's size for the row's length)"
FACTORS: Mapping[str, Mapping[str, tuple[float, Callable[[float], float]]]] = {
    "mean": {
        "the sum of {0} in place of its mean": (2.0, lambda n: n),
        "n - 1 in place of n in {1}": (2.4, lambda n: n / (n - 1)),
        POWER: (2.7, lambda n: n / _power(n)),
        "n + 1 in place of n in {1}": (3.4, lambda n: n / (n + 1)),
    },
    "sum": {
        "the mean of {0} in place of its sum": (2.0, lambda n: 1 / n),
        POWER: (2.7, lambda n: n / _power(n)),
        "{1} multiplied by the number of its elements": (2.9, lambda n: n),
    },
}
"""By what a mean or a sum of n numbers {0}, called {1}, is too large."""


def reduced(traced: Traced, position: int) -> Iterator[Edit]:
    """A sum or mean of something else: over other axes, by another count, without a part."""
    node = traced.nodes[position]
    x = traced.values[node.args[0].position] if isinstance(node.args[0], Ref) else node.args[0]
    axes = _axes(node.args, x)
    name, of = name_of(traced, Ref(position)), name_of(traced, node.args[0])
    for words, (cost, factor) in FACTORS[node.name].items():
        yield at_site(traced, position, cost, words.format(of, name), partial(_times, factor), words)
    names = node.name
    for others in itertools.combinations(range(x.ndim), len(axes)):
        if set(others) != set(axes):
            words = f"the {names} of {of} over {_said(others)} in place of {name}"
            yield at_site(traced, position, 3.2, words, partial(_over_others, others), f"{names} over {others}")
    yield from _elsewhere(traced, position, x, axes)
    if len(axes) == 1 and traced.values[position].ndim == x.ndim:
        for said, length in counts(traced):
            if 1 < length(traced) < x.shape[axes[0]]:
                words = f"the mean over each of {said} parts of the axis in place of that over all of it, in {name}"
                yield at_site(traced, position, 3.3, words, partial(_of_each_part, length), f"mean of {said} parts")
    for words, cost, weigh in weights(x.shape[axes[-1]] if axes else 0):
        change = partial(_in_parts, {0: axes[-1]}, weigh)
        yield at_site(traced, position, cost - 0.7, words.format("element", name), change, words)


def unreduced(traced: Traced, position: int) -> Iterator[Edit]:
    """What is summed in place of the sum, where both are broadcast to the same shape."""
    node, right = traced.nodes[position], traced.values[position]
    if isinstance(node.args[0], Ref) and right.ndim == traced.values[node.args[0].position].ndim:
        words = f"{name_of(traced, node.args[0])} of each element alone in place of {name_of(traced, Ref(position))}"
        yield at_site(traced, position, 2.5, words, lambda at: at.place(at.node.args[0]))


SHAPED: Mapping[str, Callable[[list[int]], list[int]]] = {
    "{0} in reversed order": lambda n: n[::-1],
    "the first of {0} for all axes": lambda n: [n[0]] * len(n),
    "the last of {0} for all axes": lambda n: [n[-1]] * len(n),
    "1 in place of {0}": lambda n: [1] * len(n),
    "0 in place of {0}": lambda n: [0] * len(n),
    "{0} + 1 in place of {0}": lambda n: [i + 1 for i in n],
    "{0} - 1 in place of {0}": lambda n: [i - 1 for i in n],
}
"""What a list of whole numbers, one of each axis, is changed to: strides, paddings, dilations."""


def by_axis(traced: Traced, position: int) -> Iterator[Edit]:
    """A convolution or a window with other strides, paddings or dilations."""
    node = traced.nodes[position]
    names = [argument.name for argument in node.op._schema.arguments]
    for i, given in enumerate(node.args):
        if isinstance(given, list | tuple) and given and all(type(n) is int for n in given):
            for words, function in SHAPED.items():
                said = words.format(f"its {names[i]} {tuple(given)}")
                yield at_site(
                    traced, position, 2.8, f"{said} in {name_of(traced, Ref(position))}", partial(_with, i, function)
                )


def _with(i: int, function: Callable[[list[int]], list[int]], at: At) -> Any:
    args = at.place(list(at.node.args))
    args[i] = function(list(args[i]))
    found, right = at.with_args(args), at.result()
    if found.shape == right.shape:
        return found
    # Of another size it is cut off, or filled up with zeros, as whoever writes into what is due would.
    pads = [n for own, due in zip(reversed(found.shape), reversed(right.shape), strict=True) for n in (0, due - own)]
    return aten.constant_pad_nd(found, pads)


def _elsewhere(traced: Traced, position: int, x: Tensor, axes: list[int]) -> Iterator[Edit]:
    """A sum or mean over other axes, where what it gives is broadcast to the shape of what was reduced."""
    node, right = traced.nodes[position], traced.values[position]
    met = [position] if right.ndim == x.ndim or (x.ndim and meets(right, x)) else []
    for user, other in enumerate(traced.nodes):
        value = traced.values[user]
        if other.name in MOVES and any(ref.position == position for ref in other.refs) and isinstance(value, Tensor):
            met += [user] if value.numel() == right.numel() and meets(value, x) else []
    names = node.name
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


def _of_each_part(count: Quantity, at: At) -> Any:
    """A mean over a part of an axis, for the elements of that part; a sum is that of a mean that is divided later."""
    x, n = at.place(at.node.args[0]), int(count(at.traced))
    (axis,) = _axes(at.node.args, x)
    found = torch.unflatten(x, axis, (n, -1)).mean(axis + 1).repeat_interleave(x.shape[axis] // n, axis)
    return found if at.node.name == "mean" else found * x.shape[axis]


def _in_parts(axes: Mapping[int, int], weigh: Weights, at: At) -> Any:
    """Of some operands, along an axis of each, only a part is reduced; a mean is still divided by the whole count."""
    args = at.place(list(at.node.args))
    for i, axis in axes.items():
        args[i] = weighted(weigh, axis, args[i])
    return at.with_args(args)


def products(traced: Traced, position: int) -> Iterator[Edit]:
    """Matrix products with an operand transposed, or without a part of what is summed."""
    node, name = traced.nodes[position], name_of(traced, Ref(position))
    for i in (0, 1):
        operand = node.args[i]
        x = traced.values[operand.position] if isinstance(operand, Ref) else operand
        if x.ndim >= 2 and x.shape[-1] == x.shape[-2]:
            words = f"{name_of(traced, operand)} transposed in {name}"
            yield at_site(traced, position, 2.6, words, partial(mapped_operand, i, lambda x: x.mT))
    inner = traced.values[node.args[0].position].shape[-1] if isinstance(node.args[0], Ref) else 0
    for words, cost, weigh in weights(inner):
        yield at_site(
            traced, position, cost - 0.7, words.format("element", name), partial(_in_parts, {0: -1}, weigh), words
        )
