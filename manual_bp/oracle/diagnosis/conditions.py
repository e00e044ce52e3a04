"""Conditions: what the cases, or the elements, have in common in which something holds.

A condition says of one feature, or of two, between which bounds it lies; it is read off, and counts only if by chance
it would hardly be found.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from manual_bp.inputs import Index
from manual_bp.oracle.diagnosis.program import Traced
from manual_bp.oracle.diagnosis.quantities import counts_of, numbers_of

# So seldom a condition of one feature, and of two, would be found by chance among as many as are tried.
CHANCE_OF_ONE, CHANCE_OF_TWO = 1e3, 1e6
# Of hyperparameters and absent inputs, that decide most, there are few.
CHANCE_OF_OPTION = 50
# Of one kind so many elements are looked at.
ELEMENTS = 20000


def condition(features: Mapping[str, Tensor], holds: Tensor, options: Collection[str] = ()) -> str:
    """What those have in common that hold, and no other, as in "alpha < 0 and x > 1"; "" if nothing.

    features: by name, of each its numbers; True and False are 1 and 0, and NaN says nothing.  options: the names of
        those that say how something is called.
    """
    holding, others = int(holds.sum()), int((~holds).sum())
    if not holding or not others:
        return ""
    chance = math.lgamma(holding + others + 1) - math.lgamma(holding + 1) - math.lgamma(others + 1)
    boxes = {}
    for name, numbers in features.items():
        mine = numbers[holds]
        if not bool(mine.isnan().any()):
            boxes[name] = _outside(numbers[~holds], float(mine.min()), float(mine.max()))
    for name, outside in boxes.items():
        if bool(outside.all()) and chance > math.log(CHANCE_OF_OPTION if name in options else CHANCE_OF_ONE):
            return _words(name, features[name], holds)
    if chance > math.log(CHANCE_OF_TWO):
        for one, two in itertools.combinations(boxes, 2):
            outside_two = boxes[one] | boxes[two]
            if bool(outside_two.all()):
                left = ~holds.clone()
                first = _words(one, features[one], holds, left)
                left[~holds] = ~boxes[one]
                return f"{first} and {_words(two, features[two], holds, left)}"
    return ""


def _outside(numbers: Tensor, low: float, high: float) -> Tensor:
    return (numbers < low) | (numbers > high) | numbers.isnan()


def _words(name: str, numbers: Tensor, holds: Tensor, against: Tensor | None = None) -> str:
    """Between which bounds a feature lies where something holds; against: of which others it is to be told apart."""
    mine, theirs = numbers[holds], numbers[~holds if against is None else against]
    low, high = float(mine.min()), float(mine.max())
    theirs = theirs[~theirs.isnan()]
    below, above = theirs[theirs < low], theirs[theirs > high]
    if name.endswith("?"):
        return name.removesuffix("?") if low else f"not: {name.removesuffix('?')}"
    if low == high and below.numel() and above.numel():
        return f"{name} = {low:g}"
    said = []
    if below.numel():
        bound = between(float(below.max()), low)
        said.append(f"{name} > {bound:g}" if bound < low else f"{name} ≥ {bound:g}")
    if above.numel():
        bound = between(high, float(above.min()))
        said.append(f"{name} < {bound:g}" if bound > high else f"{name} ≤ {bound:g}")
    return " and ".join(said) or f"{name} is known"


def between(low: float, high: float) -> float:
    """The roundest number from one to the other: 0, a power of two of whole numbers, or that of fewest digits."""
    if low <= 0 <= high:
        return 0.0
    if float(low).is_integer() and float(high).is_integer() and 0 < low < high:
        power = 2.0 ** math.floor(math.log2(high))
        if low <= power:
            return power
    middle = (low + high) / 2 if math.isfinite(low + high) else low
    for digits in range(1, 17):
        for number in (middle, low, high):
            rounded = float(f"{number:.{digits}g}")
            if low <= rounded <= high:
                return rounded
    return middle


# ------------------------------------------------------------------------------------------------------ of the cases


def of_cases(cases: Sequence[Traced]) -> dict[str, Tensor]:
    """The features of each case, by name; what is not defined in some is left out of it."""
    each = [_of_case(case) for case in cases]
    names = dict.fromkeys(name for found in each for name in found)
    nan = float("nan")
    return {n: torch.tensor([found.get(n, nan) for found in each], dtype=torch.float64) for n in names}


def _of_case(traced: Traced) -> dict[str, float]:
    rule, case = traced.rule, traced.case
    found: dict[str, float] = dict(numbers_of(traced))
    for name, value in {**rule.defaults, **case.hyper}.items():
        if name in rule.hyper and not isinstance(value, float | int):
            found[f"{name} is {value!r}?"] = 1.0
    every = {**rule.defaults, **case.hyper}
    found |= {f"{name} is set?": 1.0 for name in every if isinstance(every[name], bool) and every[name]}
    present = case.named(rule)
    for name in rule.inputs:
        if name in rule.absentable:
            found[f"{name} is absent?"] = float(name not in present)
    with suppress(ValueError, KeyError):  # whose axes have no names
        found |= {f"the length of {name}": length for name, length in counts_of(traced).items()}
    for name, x in present.items():
        found[f"{name} is not contiguous?"] = float(not x.is_contiguous())
        found[f"the number of axes of {name}"] = float(x.ndim)
        found[f"the number of elements of {name}"] = float(x.numel())
        if x.ndim:
            found[f"the first axis of {name}"] = float(x.shape[0])
            found[f"the last axis of {name}"] = float(x.shape[-1])
            found[f"the last axis of {name} modulo 8"] = float(x.shape[-1] % 8)
            found[f"the last axis of {name} is odd?"] = float(x.shape[-1] % 2)
        if not x.numel():
            continue
        if isinstance(rule.inputs.get(name), Index):
            found[f"{name} is repeated?"] = float(len(set(x.flatten().tolist())) < x.numel())
        if x.is_floating_point():
            finite = x.double()[x.isfinite()]
            if finite.numel():
                found[f"the smallest of {name}"] = float(finite.min())
                found[f"the largest of {name}"] = float(finite.max())
                found[f"the largest |{name}|"] = float(finite.abs().max())
            found[f"{name} holds 0?"] = float(bool((x == 0).any()))
            found[f"{name} holds NaN or infinity?"] = float(finite.numel() < x.numel())
    flags = {name for name in found if name.endswith("?")}
    return {name: found[name] for name in (*sorted(found.keys() - flags, key=list(found).index), *sorted(flags))}


def options_of(traced: Traced) -> set[str]:
    """The features that say how the page is called."""
    absent = {f"{name} is absent?" for name in traced.rule.absentable}
    said = {name for name in _of_case(traced) if " is " in name and name.partition(" is ")[0] in traced.rule.hyper}
    return {*traced.rule.hyper, *absent, *said}


# --------------------------------------------------------------------------------------------------- of the elements


def of_elements(traced: Traced, argument: str, shape: tuple[int, ...]) -> dict[str, Tensor]:
    """The features of each element of an argument: the numbers that stand at its place, and where that is."""
    found: dict[str, Tensor] = {}

    def enter(name: str, x: Tensor) -> None:
        if x.dtype == torch.bool:
            found[f"{name} is True there?"] = x.expand(shape).double().flatten()
        elif x.is_floating_point():
            found[name] = x.expand(shape).flatten()
            found[f"|{name}|"] = found[name].abs()
        else:
            found[name] = x.expand(shape).double().flatten()

    known = {n: traced.values[p] for p, n in traced.names.items() if p < len(traced.case.tensors)}
    known |= {n: x for n, x in traced.right.items() if n.startswith("y") and x is not None}
    for name, x in known.items():
        if isinstance(x, Tensor) and name != argument and x.ndim <= len(shape):
            try:
                enter(name, x)
            except RuntimeError:  # it does not meet this argument
                continue
    number = torch.arange(math.prod(shape), dtype=torch.float64)
    found["the position in memory order"] = number
    for axis in range(len(shape)):
        index = torch.arange(shape[axis]).reshape(-1, *(1,) * (len(shape) - axis - 1)).expand(shape).flatten()
        found[f"the index on axis {axis}"] = index.double()
        found[f"the index from the end of axis {axis}"] = shape[axis] - 1 - index.double()
        found[f"the index on axis {axis} is odd?"] = (index % 2).double()
    found["the number of elements"] = torch.full_like(number, math.prod(shape))
    for name, value in numbers_of(traced).items():
        found[name] = torch.full_like(number, value)
    return found
