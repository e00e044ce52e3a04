"""What a value, or a number of the formula, is changed to: a function of it, another order, a part of it for all; each
with how seldom it is met."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

FUNCTIONS: Mapping[str, tuple[float, Callable[[Any], Any]]] = {
    "`-{0}`": (2.2, operator.neg),
    "`2·{0}`": (2.4, lambda x: 2 * x),
    "`{0}/2`": (2.4, lambda x: x / 2),
    "`1/{0}`": (3.0, lambda x: 1 / x),
    "`|{0}|`": (3.0, abs),  # before the square, which where only the order counts is the same
    "`{0}²`": (3.0, lambda x: x * x),
    "`√{0}`": (3.0, lambda x: x**0.5),
    "`1 - {0}`": (3.4, lambda x: 1 - x),
    "`{0} + 1`": (3.8, lambda x: x + 1),
    "`{0} - 1`": (3.9, lambda x: x - 1),
    "`{0}³`": (4.0, lambda x: x**3),
    "`1/√{0}`": (4.0, lambda x: x**-0.5),
}
"""Of a number, or of each of a tensor; {0} is its name, and quotes stand about a formula."""


def _clamped(low: float | None, high: float | None, x: Tensor) -> Tensor:
    return x.clamp(low, high)


def _rounded(dtype: torch.dtype, x: Tensor) -> Tensor:
    return x.to(dtype).to(x.dtype)


NUMBERS: Mapping[str, tuple[float, Callable[[Tensor], Tensor]]] = {
    "{0} taken for 1": (2.0, torch.ones_like),
    "{0} taken for 0": (2.1, torch.zeros_like),
    **FUNCTIONS,
    "`sign({0})`": (3.4, torch.sign),
    "`exp({0})`": (4.2, torch.exp),
    "`log({0})`": (4.2, torch.log),
    "`tanh({0})`": (4.6, torch.tanh),
    "`sigmoid({0})`": (4.6, torch.sigmoid),
    "`max({0}, 0)`": (3.8, partial(_clamped, 0, None)),
    "`min({0}, 0)`": (4.4, partial(_clamped, None, 0)),
    "`max({0}, 1)`": (4.5, partial(_clamped, 1, None)),
    "{0} clamped to [-1, 1]": (3.9, partial(_clamped, -1, 1)),
    "{0} clamped to [0, 1]": (4.5, partial(_clamped, 0, 1)),
    "{0} rounded to integers": (4.5, torch.round),
    "{0} less its mean": (3.8, lambda x: x - x.mean()),
    "{0} less its mean over the last axis": (4.0, lambda x: x - x.mean(-1, keepdim=True)),
    "{0} less its mean over axis 0": (4.0, lambda x: x - x.mean(0, keepdim=True)),
    "{0} divided by its norm": (4.2, lambda x: x / x.norm()),
    "{0} rounded to bfloat16": (3.3, partial(_rounded, torch.bfloat16)),
    "{0} rounded to float16": (3.4, partial(_rounded, torch.float16)),
    "{0} rounded to float32": (5.0, partial(_rounded, torch.float32)),
}
"""What numbers are changed to."""

CLAMPED: Mapping[str, tuple[float, Callable[[Tensor], Tensor]]] = {
    f"{{0}} clamped to [-{bound}, {bound}]": (3.9 + i / 100, partial(_clamped, -bound, bound))
    for i, bound in enumerate((5, 10, 15, 20, 30, 50, 80, 88, 100))
}
"""What keeps an exponential from overflowing."""


def _along(change: Callable[[Tensor, int], Tensor], axis: int, x: Tensor) -> Tensor:
    if not -x.ndim <= axis < x.ndim - 1:
        raise IndexError("the last axis is one of its own")
    return change(x, axis).expand_as(x)


ALONG: Mapping[str, tuple[float, Callable[[Tensor, int], Tensor]]] = {
    "the mean of {0} over": (3.4, lambda x, axis: x.mean(axis, keepdim=True)),
    "the sum of {0} over": (3.4, lambda x, axis: x.sum(axis, keepdim=True)),
    "the largest of {0} along": (4.3, lambda x, axis: x.amax(axis, keepdim=True)),
    "the smallest of {0} along": (4.4, lambda x, axis: x.amin(axis, keepdim=True)),
    "the first of {0} along": (3.8, lambda x, axis: x.narrow(axis, 0, 1)),
    "the last of {0} along": (4.2, lambda x, axis: x.narrow(axis, -1, 1)),
    "{0} in reversed order along": (3.7, lambda x, axis: x.flip(axis)),
    "{0} shifted by 1 along": (3.8, lambda x, axis: x.roll(1, axis)),
    "{0} shifted by -1 along": (3.8, lambda x, axis: x.roll(-1, axis)),
}
"""What is taken for all along an axis, or in what order."""

AXES: Mapping[str, int] = {"its last axis": -1, "axis 0": 0, "axis 1": 1, "the third axis from the last": -3}
"""That of heads is the third from the last, of however many axes of a batch."""

ARRANGED: Mapping[str, tuple[float, Callable[[Tensor], Tensor]]] = {
    **{
        f"{words} {said}": (cost + i / 10, partial(_along, change, axis))
        for words, (cost, change) in ALONG.items()
        for i, (said, axis) in enumerate(AXES.items())
    },
    "the mean of {0} for each of its elements": (3.3, lambda x: x.mean().expand_as(x)),
    "the sum of {0} for each of its elements": (3.3, lambda x: x.sum().expand_as(x)),
    "the mean of {0} over all axes but the last": (3.8, lambda x: _over_others(torch.mean, x)),
    "the sum of {0} over all axes but the last": (3.8, lambda x: _over_others(torch.sum, x)),
    "{0} transposed and read in its own shape": (3.3, lambda x: x.transpose(-2, -1).reshape(x.shape)),
    "{0} read in the shape of its transpose": (3.5, lambda x: x.reshape(x.transpose(-2, -1).shape).transpose(-2, -1)),
    "{0} with its first two axes exchanged and read in its own shape": (
        3.7,
        lambda x: x.transpose(0, 1).reshape(x.shape),
    ),
    "{0} turned round along all axes past the second": (3.2, lambda x: x.flip(tuple(range(2, x.ndim)))),
    "{0} in reversed order": (4.0, lambda x: x.flatten().flip(0).reshape(x.shape)),
    "{0} sorted": (5.0, lambda x: x.flatten().sort().values.reshape(x.shape)),
    "{0} taken at an index that wraps around at 256": (5.0, lambda x: x[..., torch.arange(x.shape[-1]) % 256]),
}
"""In what order they are taken, or what is taken for all of them."""


def _over_others(reduce: Callable[..., Tensor], x: Tensor) -> Tensor:
    if x.ndim < 3:
        raise IndexError("of two axes the first is the other")
    return reduce(x, list(range(x.ndim - 1)), keepdim=True).expand_as(x)


MASKS: Mapping[str, tuple[float, Callable[[Tensor], Tensor]]] = {
    "{0} negated": (2.2, lambda m: m == 0),
    "{0} taken for True everywhere": (2.3, torch.ones_like),
    "{0} taken for False everywhere": (2.4, torch.zeros_like),
}
INDICES: Mapping[str, tuple[float, Callable[[Tensor], Tensor]]] = {
    "`{0} - 1`": (3.0, lambda i: (i - 1).clamp(min=0)),
    "`{0} + 1`": (3.0, lambda i: i + 1),
    "{0} moved on by 1, up to the last": (3.5, lambda i: (i + 1).clamp(max=int(i.max()))),
    "{0} taken for 0": (2.5, torch.zeros_like),
}


def worded(words: str, name: str) -> str:
    """The words with a name in its place; a formula made of it stands in one pair of quotes, in place of it."""
    if words.startswith("`"):
        plain = name.strip("`")
        is_one = " " not in plain or "({0}" in words or "|{0}|" in words
        return f"{words.format(plain if is_one else f'({plain})')} in place of {name}"
    said = words.format(name)
    return f"{said} in place of {name}" if said.startswith("the ") and "for each" not in said else said
