"""Points: the numbers of one argument over all cases, each with what it may be a function of."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from manual_bp import axes
from manual_bp.inputs import Index
from manual_bp.oracle.case import Case
from manual_bp.oracle.diagnosis.examination import Examination
from manual_bp.oracle.diagnosis.fitting import counts_of
from manual_bp.oracle.diagnosis.hypothesis import Sample, wide

# From one case come at most as many, so that every hyperparameter has its share.
PER_CASE = 12


@dataclass
class Points:
    """Numbers of one argument, over all cases. letters: what a formula may be made of; numbers: hyperparameters."""

    got: Tensor
    expected: Tensor
    allowance: Tensor
    dy: Tensor
    letters: dict[str, Tensor]
    numbers: dict[str, Tensor]
    cases: int

    def where(self, mask: Tensor) -> Points:
        """Only some of the numbers, given by a mask or by their places."""
        letters, numbers = ({n: x[mask] for n, x in named.items()} for named in (self.letters, self.numbers))
        got, expected, allowance, dy = (x[mask] for x in (self.got, self.expected, self.allowance, self.dy))
        return Points(got, expected, allowance, dy, letters, numbers, self.cases)


def points_of(found: Examination, argument: str, per_case: int = PER_CASE, finite: bool = True) -> Points | None:
    """The numbers of an argument whose every element depends on one element of each letter; finite: no others."""
    found.deadline.check()
    column = found.column(argument)
    chosen = [p for s in column if (p := _of_case(found, argument, s, per_case, finite)) is not None]
    names = set.intersection(*(set(p.letters) for p in chosen)) if chosen else set()
    if not chosen or not names:
        return None

    def joined(parts: Iterable[Tensor]) -> Tensor:
        return torch.cat([*parts])

    return Points(
        joined(p.got for p in chosen),
        joined(p.expected for p in chosen),
        joined(p.allowance for p in chosen),
        joined(p.dy for p in chosen),
        {name: joined(p.letters[name] for p in chosen) for name in chosen[0].letters if name in names},
        {n: joined(p.numbers[n] for p in chosen) for n in chosen[0].numbers if all(n in p.numbers for p in chosen)},
        len(chosen),
    )


def _of_case(found: Examination, argument: str, sample: Sample, per_case: int, finite: bool) -> Points | None:
    case = sample.case
    shape = sample.expected.shape
    if sample.got.shape != shape or not sample.got.numel() or case.dy.numel() not in (1, sample.got.numel()):
        return None
    dy = wide(case.dy).expand(shape) if case.dy.ndim == 0 or case.dy.shape == shape else None
    dy = torch.ones(shape, dtype=torch.float64) if argument == "y" else dy
    letters = {n: x for n, x in letters_of(found, argument, case).items() if x.shape == shape}
    if dy is None:
        return None
    numbers = found.rule.numbers(case.hyper)
    if not axes.tokens(found.rule.y_annotation):  # a cost, which may be a mean
        numbers |= {n: float(v) for n, v in counts_of(found.rule, case).items() if n in found.rule.axis_names}
    useful = sample.judged & (dy != 0) & (sample.got.isfinite() if finite else True)
    step = max(math.ceil(int(useful.sum()) / per_case), 1)
    mask = useful.flatten()

    def picked(x: Tensor) -> Tensor:
        return x.flatten()[mask][::step]

    got = picked(sample.got)
    return Points(
        got,
        picked(sample.expected),
        picked(sample.allowance),
        picked(dy),
        {name: picked(x) for name, x in letters.items()},
        {name: torch.full_like(got, value) for name, value in numbers.items()},
        1,
    )


def letters_of(found: Examination, argument: str, case: Case) -> dict[str, Tensor]:
    """Inputs, y, and the difference of two inputs; what has one value per named axis meets the axis of that name."""
    own = argument.removeprefix("d")
    like = axes.tokens(found.rule.annotations[own] if own != "y" else found.rule.y_annotation)
    shape = case.inputs[list(found.rule.inputs).index(own)].shape if own != "y" else case.dy.shape
    letters: dict[str, Tensor] = {}
    for name, x in zip(found.rule.inputs, case.inputs, strict=True):
        if isinstance(found.rule.inputs[name], Index):  # no number of a formula
            continue
        aligned = _aligned(wide(x).double(), axes.tokens(found.rule.annotations[name]), like, len(shape))
        if aligned is not None:
            letters[name] = aligned.expand(shape)
    if own == "y":
        return letters
    same = [n for n in letters if axes.tokens(found.rule.annotations[n]) == like and found.rule.is_number(n)]
    letters |= {f"({a} - {b})": letters[a] - letters[b] for a, b in itertools.combinations(same, 2)}
    return letters | {"y": found.value(case)}


def _aligned(x: Tensor, own: list[str], like: list[str], rank: int) -> Tensor | None:
    """`x` shaped so that it meets a tensor with axes `like` by name; None if it cannot."""
    if own == like:
        return x
    if len(own) != 1 or own[0] not in like:
        return None
    before = like.index(own[0])
    if any(token.startswith("*") for token in like[:before]):
        return x.reshape((-1,) + (1,) * (len(like) - before - 1))
    return x.reshape((1,) * before + (-1,) + (1,) * (rank - before - 1))


def threshold(name: str, wrong: Tensor, right: Tensor) -> tuple[str, str] | None:
    """On which sides of a threshold the two lists lie, in words; None if they are not apart."""
    if float(wrong.min()) > float(right.max()):
        return f"{name} ≥ {float(wrong.min()):.4g}", f"{name} ≤ {float(right.max()):.4g}"
    if float(wrong.max()) < float(right.min()):
        return f"{name} ≤ {float(wrong.max()):.4g}", f"{name} ≥ {float(right.min()):.4g}"
    return None
