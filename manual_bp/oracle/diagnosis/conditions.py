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

from manual_bp import axes
from manual_bp.inputs import Index
from manual_bp.oracle.diagnosis.program import Traced
from manual_bp.oracle.diagnosis.quantities import Called, counts_of, numbers_of

# So seldom a condition of one feature, and of two, would be found by chance among as many as are tried.
CHANCE_OF_ONE, CHANCE_OF_TWO = 1e3, 1e6
# Of hyperparameters and absent inputs, that decide most, there are few.
CHANCE_OF_OPTION, CHANCE_OF_OPTIONS = 50, 1e4
# What holds nearly everywhere tells nothing: of so many right ones, for one that is wrong, it is not true.
OUTSIDE = 0.5
# Between two numbers a bound is found sooner than among counts: of so many times fewer right ones may it be true.
OF_NUMBERS = 5


def condition(
    features: Mapping[str, Tensor], holds: Tensor, options: Collection[str] = (), besides: float | None = None
) -> str:
    """What those have in common that hold, and no other, as in "alpha < 0 and x > 1"; "" if nothing.

    features: by name, of each its numbers; True and False are 1 and 0, and NaN says nothing.  options: the names of
        those that say how something is called.  besides: if given, one bound of one feature is asked for, and it may be
        true of so many others too, as a share of those that hold.
    """
    holding, others = int(holds.sum()), int((~holds).sum())
    if not holding or not others:
        return ""
    chance = _chance(holding, others)
    boxes = {}
    for name, numbers in features.items():
        mine = numbers[holds]
        if not bool(mine.isnan().any()):
            boxes[name] = _outside(numbers[~holds], float(mine.min()), float(mine.max()))
    if besides is not None:
        return _one_sided(features, holds, boxes, besides)
    for name in sorted(boxes, key=lambda name: name not in options):
        if bool(boxes[name].all()):
            words = _words(name, features[name], holds)
            by_chance = CHANCE_OF_TWO if " and " in words else CHANCE_OF_ONE
            if chance > math.log(CHANCE_OF_OPTION if name in options else by_chance):
                return words
    for one, two in itertools.combinations(boxes, 2):
        are_options = one in options and two in options
        if chance > math.log(CHANCE_OF_OPTIONS if are_options else CHANCE_OF_TWO):
            outside_two = boxes[one] | boxes[two]
            if bool(outside_two.all()):
                first = _words(one, features[one], holds, ~holds)
                return f"{first} and {_words(two, features[two], holds, _where(~holds, ~boxes[one]))}"
    return ""


def _one_sided(features: Mapping[str, Tensor], holds: Tensor, boxes: Mapping[str, Tensor], besides: float) -> str:
    """What is true of all that hold, and of the fewest others: a flag, or that a number is above or below a bound."""
    holding, others = int(holds.sum()), int((~holds).sum())
    for name, outside in sorted(boxes.items(), key=lambda each: int((~each[1]).sum())):
        too = int((~outside).sum())
        is_count = name.endswith("?") or name.startswith(("how often", "the index", "the number", "the length"))
        if too > (besides if is_count else besides / OF_NUMBERS) * holding or others - too < OUTSIDE * holding:
            continue
        if _chance(holding, others) - _chance(holding, too) <= math.log(CHANCE_OF_ONE * len(boxes)):
            continue
        said = _words(name, features[name], holds, _where(~holds, outside))
        if " and " not in said and " = " not in said:
            more = f" (of which {too} more {'is' if too == 1 else 'are'} right)" if too else ""
            return said + more
    return ""


def _chance(holding: int, others: int) -> float:
    """In how many ways so many may be chosen, as a logarithm."""
    return math.lgamma(holding + others + 1) - math.lgamma(holding + 1) - math.lgamma(others + 1)


def _where(mask: Tensor, of_these: Tensor) -> Tensor:
    found = mask.clone()
    found[mask] = of_these
    return found


def _outside(numbers: Tensor, low: float, high: float) -> Tensor:
    return (numbers < low) | (numbers > high) | numbers.isnan()


def _words(name: str, numbers: Tensor, holds: Tensor, against: Tensor | None = None) -> str:
    """Between which bounds a feature lies where something holds; against: of which others it is to be told apart."""
    mine, theirs = numbers[holds], numbers[~holds if against is None else against]
    low, high = float(mine.min()), float(mine.max())
    theirs = theirs[~theirs.isnan()]
    below, above = theirs[theirs < low], theirs[theirs > high]
    if name.endswith("?"):
        return name.removesuffix("?") if low else _denied(name.removesuffix("?"))
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


DENIED = {" is absent": " is given", " is not ": " is ", " is ": " is not ", " holds ": " holds no "}


def _denied(words: str) -> str:
    """What holds where these words do not."""
    for said, other in DENIED.items():
        if said in words:
            return words.replace(said, other, 1)
    raise ValueError(f"no words deny {words!r}")


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


def of_cases(cases: Sequence[Called]) -> dict[str, Tensor]:
    """The features of each case, by name; what is not defined in some is left out of it."""
    each = [_of_case(case) for case in cases]
    names = dict.fromkeys(name for found in each for name in found)
    nan = float("nan")
    return {n: torch.tensor([found.get(n, nan) for found in each], dtype=torch.float64) for n in names}


def _of_case(traced: Called) -> dict[str, float]:
    rule, case = traced.rule, traced.case
    found: dict[str, float] = dict(numbers_of(traced))
    for name, value in {**rule.defaults, **case.hyper}.items():
        if name in rule.hyper and not isinstance(value, float | int):
            found[f"{name} is {value!r}?"] = 1.0
        if name in rule.hyper and isinstance(value, tuple) and value and all(type(n) is int for n in value):
            found[f"the largest {name}"] = float(max(value))
        elif type(value) is int:
            found[f"the largest {name}"] = float(value)
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


def options_of(traced: Called) -> set[str]:
    """The features that say how the page is called."""
    hyper = traced.rule.hyper
    absent = {f"{name} is absent?" for name in traced.rule.absentable}
    said = {name for name in _of_case(traced) if name.partition(" is ")[0] in hyper or name.split()[-1] in hyper}
    return {*hyper, *absent, *said}


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
    for name, spec in traced.rule.inputs.items():
        if isinstance(spec, Index) and name in known and (place := _axis_of(traced, argument, spec.axis)) is not None:
            count = torch.bincount(known[name].flatten().clamp(min=0), minlength=shape[place])[: shape[place]]
            by_axis = count.reshape(-1, *(1,) * (len(shape) - place - 1)).expand(shape)
            found[f"how often {name} names it"] = by_axis.double().flatten()
    found["the number of elements"] = torch.full_like(number, math.prod(shape))
    for name, value in numbers_of(traced).items():
        found[name] = torch.full_like(number, value)
    return found


def _axis_of(traced: Traced, argument: str, name: str) -> int | None:
    """Which axis of a cotangent has this name, if any."""
    annotation = traced.rule.annotations.get(argument.removeprefix("d"))
    names = axes.tokens(annotation) if annotation is not None else []
    return names.index(name) if name in names and not any(n.startswith("*") for n in names) else None
