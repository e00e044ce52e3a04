"""Weighted sums: where a cotangent is Σ dy times a factor, as that of a bias or of a weight is, which factor it is."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from manual_bp import axes
from manual_bp.oracle.case import Case
from manual_bp.oracle.diagnosis.examination import Examination
from manual_bp.oracle.diagnosis.hypothesis import Explanation, Prediction, wide
from manual_bp.oracle.diagnosis.points import letters_of

CENTRED = " less its mean"


def weighted_sums(found: Examination) -> Iterator[Explanation]:
    """Σ dy times an input, y, or a difference or product of them, over all axes that the cotangent lacks, where
    something else is due."""
    numbers = [n for n in _letters_of_y(found, found.rows[0][0].evidence.case) if n != "y"]
    factors = _factors(numbers)
    centred = {f"({n}{CENTRED})": partial(_centred, factor) for n, factor in factors.items() if n in numbers}
    for name, factor in (factors | centred).items():
        predict = partial(_summed, found, factor)
        yield from found.matched(predict, f"{{}} is Σ dy·{name}" if name else "{} is Σ dy")


Letters = Mapping[str, Tensor]
Factor = Callable[[Letters, Sequence[int]], Tensor]
"""What dy is multiplied by before it is summed over some axes, from the letters of a case."""


def _letters_of_y(found: Examination, case: Case) -> dict[str, Tensor]:
    """Inputs and y that are shaped like dy, or can be."""
    letters = {n: x for n, x in letters_of(found, "y", case).items() if x.shape == case.dy.shape}
    return letters | {"y": found.value(case)}


def _factors(numbers: Sequence[str]) -> dict[str, Factor]:
    """1, letters, their differences, the products of two of these, and squares."""

    def letter(name: str) -> Factor:
        return lambda letters, _: letters[name]

    def minus(a: str, b: str) -> Factor:
        return lambda letters, _: letters[a] - letters[b]

    def product(f: Factor, g: Factor) -> Factor:
        return lambda letters, over: f(letters, over) * g(letters, over)

    single = {n: letter(n) for n in (*numbers, "y")}
    single |= {f"({a} - {b})": minus(a, b) for a, b in itertools.permutations(numbers, 2)}
    squares = {f"{n}²": product(f, f) for n, f in single.items()}
    products = {f"{a}·{b}": product(single[a], single[b]) for a, b in itertools.combinations(single, 2)}
    return {"": lambda letters, _: torch.ones_like(letters["y"]), **single, **squares, **products}


def _centred(factor: Factor, letters: Letters, over: Sequence[int]) -> Tensor:
    value = factor(letters, over)
    return value - value.mean(list(over), keepdim=True)


def _summed(found: Examination, factor: Factor, case: Case) -> Prediction:
    dy, letters = wide(case.dy), _letters_of_y(found, case)
    y_axes = axes.tokens(found.rule.y_annotation)
    values: list[Any] = [None]
    for argument, x in zip(found.rule.inputs, case.inputs, strict=True):
        own = axes.tokens(found.rule.annotations[argument])
        if len(own) != 1 or own[0].startswith("*") or own[0] not in y_axes:
            values.append(None)
            continue
        before = y_axes.index(own[0])
        axis = before if not any(t.startswith("*") for t in y_axes[:before]) else dy.ndim - len(y_axes) + before
        over = [a for a in range(dy.ndim) if a != axis]
        values.append((dy * factor(letters, over)).sum(over) if x.ndim else None)
    return Prediction(tuple(values))
