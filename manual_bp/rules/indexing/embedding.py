"""Embedding: rows of a table, looked up by their numbers.

    y_b = W_{i_b}

for every position b of `index`.

Derivation.  W_e reaches the cost through every y_b with i_b = e, each time with factor 1:

    dW_e = Σ_b [i_b = e] dy_b

A row that is not looked up gets 0, one that is looked up often the sum of all its dy_b.  The index has no cotangent.

With `padding_idx` one row is a constant, whatever it holds: it is looked up like any other, and dW is 0 there.  A
negative number counts from the end.

Source: Mikolov et al., "Efficient Estimation of Word Representations in Vector Space" (2013), section 3.1: a table that
is multiplied by one-hot rows; dW is the transposed product.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from manual_bp.inputs import Edge, Index, Input, Mistake, normal, require


class Residuals(NamedTuple):
    row: Int[Tensor, "*batch"]
    """The index: which row stands where."""
    entries: int
    """How many rows there are; what they hold makes no difference to dW."""
    padding_idx: int | None


def forward(
    index: Int[Tensor, "*batch"], weight: Float[Tensor, "entries features"], *, padding_idx: int | None = None
) -> tuple[Float[Tensor, "*batch features"], Residuals]:
    entries = weight.shape[0]
    if padding_idx is not None:
        must = f"embedding: padding_idx must be one of {entries} rows"
        require(-entries <= padding_idx < entries, must, padding_idx, "The last row is -1; None is no row.")
        weight = torch.where(_is_padding(entries, padding_idx, weight.device), weight.detach(), weight)
    index = index.long()
    return weight[index], Residuals(index, entries, padding_idx)


def backward(
    residuals: Residuals, dy: Float[Tensor, "*batch features"]
) -> tuple[None, Float[Tensor, "entries features"]]:
    row, entries, padding_idx = residuals
    features = dy.shape[-1]
    zeros = torch.zeros(entries, features, dtype=dy.dtype, device=dy.device)
    dweight = zeros.index_add(0, row.flatten(), dy.reshape(row.numel(), features))
    if padding_idx is not None:
        dweight = torch.where(_is_padding(entries, padding_idx, dy.device), 0, dweight)
    return None, dweight


def _is_padding(entries: int, padding_idx: int, device: torch.device) -> Tensor:
    """Which row is constant; shape (entries, 1)."""
    return (torch.arange(entries, device=device) == padding_idx % entries)[:, None]


INPUTS = {"index": Index("entries"), "weight": Input(normal())}
USUAL = {"padding_idx": (0, 1, -1)}

_INF = float("inf")
_TABLE = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0], [10.0, 11.0, 12.0]]

EDGES = (
    Edge("a sequence", sizes={"batch": (5,)}),
    Edge("a batch of sequences", sizes={"batch": (3, 4)}),
    Edge("a single number", sizes={"batch": ()}),
    Edge("nothing looked up", sizes={"batch": (0,)}),
    Edge("no sequence", sizes={"batch": (0, 3)}),
    Edge("one entry", sizes={"entries": 1, "batch": (4,)}),
    Edge("one feature", sizes={"features": 1}),
    Edge("no feature", sizes={"features": 0}),
    Edge("no entry, and none looked up", sizes={"entries": 0, "batch": (0,)}),
    Edge("each once", {"index": [2, 0, 3, 1], "weight": _TABLE}),
    Edge("both ends", {"index": [0, 3], "weight": _TABLE}),
    Edge("repeats", {"index": [[1, 3, 1], [3, 1, 1]], "weight": _TABLE}),
    Edge("all alike", {"index": [2, 2, 2, 2, 2, 2, 2], "weight": _TABLE}),
    Edge("sorted", {"index": [0, 0, 1, 1, 1, 3], "weight": _TABLE}),
    Edge("skewed as words are", {"index": [0, 0, 1, 0, 2, 0, 1, 0, 0, 3, 0, 1, 0, 0, 0, 2], "weight": _TABLE}),
    Edge("a row that is not looked up", {"index": [0, 1, 3], "weight": _TABLE}),
    Edge("repeats that cancel", {"index": [1, 1, 2], "weight": _TABLE, "dy": [[1.0] * 3, [-1.0] * 3, [0.5] * 3]}),
    Edge("padding", {"index": [0, 1, 0, 3], "weight": _TABLE, "padding_idx": 0}),
    Edge("padding at the end", {"index": [3, 1, 3, 0], "weight": _TABLE, "padding_idx": 3}),
    Edge("padding from the end", {"index": [3, 1, 3, 0], "weight": _TABLE, "padding_idx": -1}),
    Edge("padding at the start, from the end", {"index": [3, 1, 0, 0], "weight": _TABLE, "padding_idx": -4}),
    Edge("padding that is not looked up", {"index": [3, 1, 3], "weight": _TABLE, "padding_idx": 2}),
    Edge("nothing but padding", {"index": [2, 2], "weight": _TABLE, "padding_idx": 2}),
    Edge(
        "infinite cotangent of padding",
        {"index": [0, 1], "weight": _TABLE, "padding_idx": 0, "dy": [[_INF] * 3, [1.0] * 3]},
    ),
    Edge("infinite rows", {"index": [1, 0], "weight": [[1.0, 2.0], [_INF, -_INF]]}),
    Edge("signed zeros and subnormal numbers", {"index": [0, 0], "weight": [[0.0, -0.0, 1e-310, -1e-40]]}),
    Edge("subnormal cotangents", {"index": [0, 0], "weight": [[1.0, 2.0]], "dy": [[1e-40, -1e-310], [1e-40, 1e-310]]}),
    Edge("an index above the last row", {"index": [4], "weight": _TABLE}, raises=ValueError),
    Edge("a negative index", {"index": [-1], "weight": _TABLE}, raises=ValueError),
    Edge("padding above the last row", {"index": [0], "weight": _TABLE, "padding_idx": 4}, raises=ValueError),
    Edge("padding before the first row", {"index": [0], "weight": _TABLE, "padding_idx": -5}, raises=ValueError),
)


def _rows(index: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    """Each number that is looked up, and its cotangent."""
    return index.flatten(), dy.reshape(index.numel(), dy.shape[-1])


def _summed(numbers: Tensor, rows: Tensor, weight: Tensor, padding_idx: int | None) -> tuple[None, Tensor]:
    """The right formula, from which wrong ones are made."""
    return None, _without_padding(torch.zeros_like(weight).index_add(0, numbers, rows), padding_idx)


def _in_bfloat16(numbers: Tensor, rows: Tensor, weight: Tensor, padding_idx: int | None) -> tuple[None, Tensor]:
    """The sum so far is rounded to bfloat16 some 64 times."""
    so_far = torch.zeros_like(weight)
    some = max(len(rows) // 64, 1)
    for few, their_rows in zip(torch.split(numbers, some), torch.split(rows, some), strict=True):
        so_far = so_far.index_add(0, few, their_rows).bfloat16().to(rows.dtype)
    return None, _without_padding(so_far, padding_idx)


def _without_padding(dweight: Tensor, padding_idx: int | None) -> Tensor:
    if padding_idx is None:
        return dweight
    return torch.where(_is_padding(len(dweight), padding_idx, dweight.device), 0, dweight)


def _assigned(numbers: Tensor, rows: Tensor, weight: Tensor, padding_idx: int | None) -> tuple[None, Tensor]:
    """The last row of each number in place of the sum."""
    found = torch.zeros_like(weight)
    for number, row in zip(numbers.tolist(), rows, strict=True):
        found[number] = row
    return None, _without_padding(found, padding_idx)


def _often(index: Tensor, weight: Tensor) -> Tensor:
    """How often each row is looked up, and 1 where it is not; shape (entries, 1)."""
    return torch.bincount(index.flatten(), minlength=len(weight)).clamp(min=1)[:, None]


def _gathered(index: Tensor, weight: Tensor, dy: Tensor) -> Tensor:
    """To each row the cotangent at the place that the index names."""
    numbers, rows = _rows(index, dy)
    if not len(numbers):
        return torch.zeros_like(weight)
    entries = torch.arange(len(weight), device=dy.device)
    return rows[numbers[entries % len(numbers)] % len(numbers)]


MISTAKES = (
    Mistake(
        "last of repeats",
        lambda index, weight, dy, padding_idx: _assigned(*_rows(index, dy), weight, padding_idx),
        forgets="that a row which is looked up several times gets a sum: it assigns where it should add",
        shows="where an index is repeated",
        seen="https://github.com/pytorch/pytorch/issues/1528",
    ),
    Mistake(
        "first of repeats",
        lambda index, weight, dy, padding_idx: _assigned(
            index.flatten().flip(0), _rows(index, dy)[1].flip(0), weight, padding_idx
        ),
        forgets="that a row which is looked up several times gets a sum",
        shows="where an index is repeated",
        seen="https://github.com/tenstorrent/tt-metal/issues/6232",
    ),
    Mistake(
        "mean of repeats",
        lambda index, weight, dy, padding_idx: (
            None,
            _summed(*_rows(index, dy), weight, padding_idx)[1] / _often(index, weight),
        ),
        forgets="that repeats add up (a deliberate change, to keep frequent rows from moving far)",
        shows="where an index is repeated",
    ),
    Mistake(
        "mean over what is looked up",
        lambda index, weight, dy, padding_idx: (
            None,
            _summed(*_rows(index, dy), weight, padding_idx)[1] / max(index.numel(), 1),
        ),
        forgets="that nothing is divided: a mean in the cost is in dy already",
        shows="for two numbers and more",
    ),
    Mistake(
        "dy times how often",
        lambda index, weight, dy, padding_idx: (
            None,
            _assigned(*_rows(index, dy), weight, padding_idx)[1] * _often(index, weight),
        ),
        forgets="that repeats have a dy each",
        shows="where an index is repeated",
    ),
    Mistake(
        "gather for scatter",
        lambda index, weight, dy, padding_idx: (None, _without_padding(_gathered(index, weight, dy), padding_idx)),
        forgets="in which direction the index leads: dy is spread by it, not looked up",
        shows="wherever something is looked up",
        seen="https://github.com/ooples/AiDotNet.Tensors/pull/894",
    ),
    Mistake(
        "sorted index, unsorted dy",
        lambda index, weight, dy, padding_idx: _summed(
            index.flatten().sort().values, _rows(index, dy)[1], weight, padding_idx
        ),
        forgets="to bring the rows of dy into the order of the sorted index",
        shows="where the index is not sorted",
    ),
    Mistake(
        "last index dropped",
        lambda index, weight, dy, padding_idx: _summed(
            index.flatten()[:-1], _rows(index, dy)[1][:-1], weight, padding_idx
        ),
        forgets="the end of the last run of equal numbers",
        shows="wherever something is looked up",
        seen="https://github.com/pytorch/pytorch/pull/27731",
    ),
    Mistake(
        "padding row too",
        lambda index, weight, dy, padding_idx: _summed(*_rows(index, dy), weight, None),
        forgets="padding_idx: its row is a constant",
        shows="where padding is looked up",
        seen="https://github.com/pytorch/pytorch/issues/26302",
    ),
    Mistake(
        "padding of 0 taken for none",
        lambda index, weight, dy, padding_idx: _summed(*_rows(index, dy), weight, padding_idx or None),
        forgets="that 0 is a row",
        shows="where padding_idx = 0 is looked up",
    ),
    Mistake(
        "padding not counted from the end",
        lambda index, weight, dy, padding_idx: _summed(
            *_rows(index, dy), weight, None if padding_idx is not None and padding_idx < 0 else padding_idx
        ),
        forgets="that a negative padding_idx is a row too",
        shows="where padding_idx is negative and looked up",
    ),
    Mistake(
        "first row always padding",
        lambda index, weight, dy, padding_idx: _summed(
            *_rows(index, dy), weight, padding_idx if padding_idx is not None else 0 if len(weight) else None
        ),
        forgets="that there is no padding unless it is asked for",
        shows="where the first row is looked up",
        seen="https://github.com/ibalazevic/TuckER/issues/17",
    ),
    Mistake(
        "added up in bfloat16",
        lambda index, weight, dy, padding_idx: _in_bfloat16(*_rows(index, dy), weight, padding_idx),
        forgets="that what is small against the sum so far is lost, and frequent rows have long sums",
        shows="where an index is repeated",
        seen="https://www.doubleai.com/research/warpspeed-approaches-speed-of-light-on-blackwell",
    ),
    Mistake(
        "cotangent dropped",
        lambda index, weight, dy, padding_idx: _summed(*_rows(index, torch.ones_like(dy)), weight, padding_idx),
        forgets="dy",
        shows="wherever dy is not 1",
    ),
)
