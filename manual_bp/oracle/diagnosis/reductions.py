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

from manual_bp.oracle.diagnosis.blocks import left_out
from manual_bp.oracle.diagnosis.edit import Edit, Slot
from manual_bp.oracle.diagnosis.orders import counts
from manual_bp.oracle.diagnosis.program import MOVES, Altered, At, Site
from manual_bp.oracle.diagnosis.quantities import Quantity
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


def reduced(slot: Slot) -> Iterator[Edit]:
    """A sum or mean of something else: over other axes, by another count, without a part."""
    traced, node, name = slot.traced, slot.traced.nodes[slot.position], slot.name
    x = traced.values[node.args[0].position] if isinstance(node.args[0], Ref) else node.args[0]
    axes, of, how = _axes(node.args, x), name_of(traced, node.args[0]), node.name
    for words, (cost, factor) in FACTORS[how].items():
        yield slot.edit_at(cost, words.format(of, name), _by_count(factor), words)
    yield from _over_other_axes(slot, x, axes)
    yield from _plain(slot)
    if len(axes) == 1 and slot.value.ndim == x.ndim:
        for said, length in counts(traced):
            if 1 < length(traced) < x.shape[axes[0]]:
                words = f"the mean over each of {said} parts of the axis in place of that over all of it, in {name}"
                yield slot.edit_at(3.3, words, partial(_of_each_part, length), f"mean of {said} parts")
    if axes:
        yield from left_out(slot, "element", x.shape[axes[-1]], axes[-1], -0.7, arg=0)


def _plain(slot: Slot) -> Iterator[Edit]:
    """A plain mean in place of a sum of products, which is a mean that is weighted."""
    of = slot.traced.nodes[slot.position].args[0]
    product = slot.traced.nodes[of.position] if isinstance(of, Ref) else None
    if slot.traced.nodes[slot.position].name != "sum" or product is None or product.name != "mul":
        return
    for ref in product.args:
        if isinstance(ref, Ref) and slot.traced.values[ref.position].shape == slot.traced.values[of.position].shape:
            words = f"the plain mean of {name_of(slot.traced, ref)} in place of {slot.name}"
            yield slot.instead(2.8, words, partial(_mean_of, ref))


def _mean_of(ref: Ref, at: At) -> Tensor:
    right, x = at.result(), at.value(ref)
    return torch.mean(x, _axes(at.node.args, x)).reshape(right.shape)


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


def by_axis(slot: Slot) -> Iterator[Edit]:
    """A convolution or a window with other strides, paddings or dilations."""
    node = slot.traced.nodes[slot.position]
    names = [argument.name for argument in node.op._schema.arguments]
    for i, given in enumerate(node.args):
        if isinstance(given, list | tuple) and given and all(type(n) is int for n in given):
            for words, function in SHAPED.items():
                said = f"{words.format(f'its {names[i]} {tuple(given)}')} in {slot.name}"
                yield slot.edit_at(2.8, said, partial(_shaped, i, function))


def _shaped(i: int, function: Callable[[list[int]], list[int]], right: Tensor, at: At) -> Any:
    found = at.altered(lambda given: function(list(given)), i)
    if found.shape == right.shape:
        return found
    # Of another size it is cut off, or filled up with zeros, as whoever writes into what is due would.
    pads = [n for own, due in zip(reversed(found.shape), reversed(right.shape), strict=True) for n in (0, due - own)]
    return aten.constant_pad_nd(found, pads)


EACH, SPACE = (-1,), ()
"""All axes but the first, and all past the second, of however many."""


def _over_other_axes(slot: Slot, x: Tensor, axes: list[int]) -> Iterator[Edit]:
    """Where what it gives keeps its shape, or is broadcast to that of what was reduced."""
    traced, how = slot.traced, slot.traced.nodes[slot.position].name
    moved = [Slot(traced, p) for p in traced.used_by[slot.position] if traced.nodes[p].name in MOVES]
    moved = [user for user in moved if isinstance(user.value, Tensor) and user.value.numel() == slot.value.numel()]
    subsets = itertools.chain(*(itertools.combinations(range(x.ndim), size) for size in range(1, x.ndim + 1)))
    others = {over: (3.1, f"the {how} over {_said(over)}") for over in subsets if set(over) != set(axes)}
    if x.ndim > 1:
        others |= {EACH: (3.0, f"the {how} of each example"), SPACE: (3.1, f"the {how} over all axes past the second")}
    for user in (slot, *moved):
        for over, (cost, words) in others.items():
            change = partial(_over, traced.sites[slot.position], over)
            if _meets(user.value, x) or (user is slot and len(over) == len(axes)):
                yield user.edit_at(
                    cost, f"{words} in place of {slot.name}", change, f"{how} over {over}, {user is slot}"
                )


def _meets(x: Tensor, value: Tensor) -> bool:
    """Whether they broadcast to the shape of the second."""
    pairs = zip(reversed(x.shape), reversed(value.shape), strict=False)
    return x.ndim <= value.ndim and all(own in (1, due) for own, due in pairs)


def _over(site: Site, over: tuple[int, ...], right: Tensor, at: At) -> Tensor:
    """The sum or mean that stands at a site over these axes, which are kept where the result is broadcast."""
    others, own = at.traced.positions[site], at.traced.positions[at.traced.sites[at.position]]
    node = at.traced.nodes[others[own.index(at.position)] if len(others) == len(own) else others[-1]]
    x = at.place(node.args[0])
    axes = tuple({EACH: range(1, x.ndim), SPACE: range(2, x.ndim)}.get(over, over))
    if not axes:
        return right
    found = REDUCED[node.name](x, axes, keepdim=True)
    dropped = REDUCED[node.name](x, axes)
    return dropped if right.ndim < x.ndim and dropped.shape == right.shape else found


REDUCED: Mapping[str, Callable[..., Tensor]] = {"mean": torch.mean, "sum": torch.sum}


def _axes(args: Any, x: Tensor) -> list[int]:
    given = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) and args[1] else range(x.ndim)
    return [axis % max(x.ndim, 1) for axis in given]


def _by_count(factor: Callable[[float], float]) -> Altered:
    return lambda result, at: result * factor(at.args()[0].numel() / max(result.numel(), 1))


def _said(axes: Sequence[int]) -> str:
    return f"ax{'e' if len(axes) > 1 else 'i'}s {', '.join(map(str, axes))}"


def _of_each_part(count: Quantity, _: Tensor, at: At) -> Tensor:
    """A mean over a part of an axis, for the elements of that part; a sum is that of a mean that is divided later."""
    x, n = at.args()[0], int(count(at.traced))
    (axis,) = _axes(at.node.args, x)
    found: Tensor = torch.unflatten(x, axis, (n, -1)).mean(axis + 1).repeat_interleave(x.shape[axis] // n, axis)
    return found if at.node.name == "mean" else found * x.shape[axis]


def products(slot: Slot) -> Iterator[Edit]:
    """Matrix products with an operand transposed, or without a part of what is summed."""
    operands = list(slot.operands)
    for operand in operands[:2]:
        if operand.value.ndim >= 2 and operand.value.shape[-1] == operand.value.shape[-2]:
            yield operand.edit(2.6, f"{operand.name} transposed in {slot.name}", lambda x: x.mT)
    if operands:
        yield from left_out(slot, "element", operands[0].value.shape[-1], -1, -0.7, arg=0)
