"""Taking a batch apart along its axis, and putting what comes of the pieces together again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manual_bp.outputs import parts, whole
from manual_bp.rule import Rule

Lengths = int | Sequence[int] | Callable[[int], Sequence[int]]
"""How a batch is taken apart: into so many pieces, as equal as can be; into pieces of these lengths, over and over,
the last one cut (of a long batch: so many times as long, which makes no more than about MOST pieces); or a function
from the length of the batch to those of the pieces."""

MOST = 32

BATCH = ("batch", "*batch", "rows", "*rows")
"""What annotations call the axis of examples; else it is the first axis of the first input."""


def lengths_of(pieces: Lengths, length: int) -> list[int]:
    """The lengths of the pieces of a batch.  Raises ValueError if they do not add up to it."""
    if callable(pieces):
        found = [int(n) for n in pieces(length)]
        if sum(found) != length or min(found, default=0) < 0:
            raise ValueError(f"pieces must add up to the batch of {length}; came {found}.")
    elif isinstance(pieces, int):
        found = [len(x) for x in torch.arange(length).tensor_split(pieces)]
    else:
        # Of a long batch so many times as long, so that it has no more than MOST pieces.
        times = max(1, -(-length // (MOST * max(sum(pieces) // len(pieces), 1))))
        found, rest = [], length
        while rest > 0:
            found.append(min(times * pieces[len(found) % len(pieces)], rest))
            rest -= found[-1]
    return [n for n in found if n] or [length]


def require_lengths(pieces: Lengths) -> None:
    """Raises ValueError for what is no way to take a batch apart."""
    numbers = [pieces] if isinstance(pieces, int) else [] if callable(pieces) else list(pieces)
    is_none = not callable(pieces) and not numbers
    if is_none or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in numbers):
        raise ValueError(
            f"pieces must be a number of pieces, their lengths, or a function from the batch's length to theirs; came "
            f"{pieces!r}. Pass 4, [2, 1] or lambda n: [n - 1, 1], say."
        )


@dataclass(frozen=True)
class Apart:
    """Along which axis each input and each output is taken apart; None for one that every piece has whole."""

    inputs: tuple[int | None, ...]
    outputs: tuple[int | None, ...]

    @classmethod
    def of(cls, rule: Rule, inputs: Sequence[Tensor | None], dy: Any, names: Sequence[str] | None = None) -> Apart:
        """By the axes that annotations name.  names: the inputs that are taken apart, if not those with the batch."""
        tokens = [str(rule.annotation(name).dim_str).split() for name in rule.inputs]
        every = [token for of_input in tokens for token in of_input]
        axis = next((token for token in BATCH if token in every), every[0] if every else "")
        own = tuple(
            _position(axis, of_input, x) if names is None or name in names else None
            for name, of_input, x in zip(rule.inputs, tokens, inputs, strict=True)
        )
        outputs = tuple(
            None if d is None else _position(axis, str(annotation.dim_str).split(), d)
            for annotation, d in zip(rule.output_annotations.values(), parts(dy), strict=True)
        )
        return cls(own, outputs)

    def length(self, inputs: Sequence[Tensor | None]) -> int:
        """Of the batch; 0 if nothing is taken apart."""
        return next(
            (x.shape[axis] for x, axis in zip(inputs, self.inputs, strict=True) if x is not None and axis is not None),
            0,
        )

    def pieces(
        self, inputs: Sequence[Tensor | None], dy: Any, lengths: Sequence[int]
    ) -> Iterator[tuple[tuple[Tensor | None, ...], Any]]:
        """Inputs and cotangent of each piece."""
        start = 0
        for length in lengths:
            own = tuple(_piece(x, axis, start, length) for x, axis in zip(inputs, self.inputs, strict=True))
            of_dy = [_piece(d, axis, start, length) for d, axis in zip(parts(dy), self.outputs, strict=True)]
            yield own, whole(of_dy, like=dy)
            start += length

    @property
    def is_sum(self) -> bool:
        """Whether no output is taken apart: a cost, of which every piece has one."""
        return all(axis is None for axis in self.outputs)

    def together(
        self, found: Sequence[tuple[Any, Sequence[Tensor | None]]], weights: Sequence[float]
    ) -> tuple[Any, tuple[Tensor | None, ...]]:
        """y and the cotangents of the whole: pieces joined along the axis, and what every piece has whole added up,
        times the weights; a cost has its weight in all that belongs to it."""
        ys = [parts(y) for y, _ in found]
        joined = [
            _joined(of_output, axis, weights, self.is_sum)
            for of_output, axis in zip(zip(*ys, strict=True), self.outputs, strict=True)
        ]
        grads = [
            _joined(of_input, axis, weights, self.is_sum)
            for of_input, axis in zip(zip(*(g for _, g in found), strict=True), self.inputs, strict=True)
        ]
        return whole(joined, like=found[0][0]), tuple(grads)


def _position(axis: str, tokens: Sequence[str], x: Tensor | None) -> int | None:
    """Where an axis stands, if it is there."""
    if x is None or axis not in tokens or not x.ndim:
        return None
    position = tokens.index(axis)
    if any(token.startswith("*") for token in tokens[:position]):
        return None
    if axis.startswith("*") and x.ndim < len(tokens):  # a list of axes, of which there are none
        return None
    return position if position < x.ndim else None


def _piece(x: Tensor | None, axis: int | None, start: int, length: int) -> Tensor | None:
    return x if x is None or axis is None else x.narrow(axis, start, length)


def _joined(found: Sequence[Tensor | None], axis: int | None, weights: Sequence[float], is_sum: bool) -> Tensor | None:
    there = [(x, w) for x, w in zip(found, weights, strict=True) if x is not None]
    if not there:
        return None
    if axis is None:
        total = there[0][0] * there[0][1]
        for x, w in there[1:]:
            total = total + x * w
        return total
    return torch.cat([x * w if is_sum else x for x, w in there], axis)
