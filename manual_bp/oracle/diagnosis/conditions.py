"""Conditions: what the cases, or the elements, have in common in which something holds.

A condition says of one feature, or of two, between which bounds it lies.  It is told if it is true of all that hold,
and of no other (or of few), if chance would hardly make one such among all that were asked, and if no feature of
something else fits as well.  A bound is told as a number where hardly another one could stand there, else as a gap.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from manual_bp.inputs import Index
from manual_bp.oracle.diagnosis.program import Traced
from manual_bp.oracle.diagnosis.quantities import Called, counts_of, numbers_of
from manual_bp.oracle.diagnosis.samples import CERTAIN

# A bound is one number if those that it parts lie nearer to each other than this share of them.
NARROW = 0.1
# What is smaller than this share of the usual is nearly 0.
UNSEEN = 0.01


Kind = Literal["flag", "count", "number"]


class Feature(NamedTuple):
    """numbers: of each case, or element; NaN where it is not known.  subject: of what it speaks.  kind: a flag is 1 or
    0, a count a whole number.  is_option: whether it says how the page is called, which decides most."""

    numbers: Tensor
    subject: str
    kind: Kind
    is_option: bool = False


Features = Mapping[str, Feature]


class _Fit(NamedTuple):
    """Features that fit, in words; spared: of how many it is true that do not hold; bits: against chance; is_natural:
    whether people make such a condition, an option, a flag or a sign, and it is not where the numbers happen to lie."""

    words: str
    subjects: frozenset[str]
    is_option: bool
    spared: int
    bits: float
    is_natural: bool


def condition(features: Features, holds: Tensor, spare: float = 0.0) -> str:
    """What those have in common that hold, and no other, as in "alpha < 0 and x > 1"; "" if nothing, or if several
    things fit as well.  spare: of so many others it may be true, as a share of those that hold."""
    if not bool(holds.any()) or bool(holds.all()):
        return ""
    needed, boxes = math.log2(2 * len(features)) + CERTAIN, _boxes(features, holds)
    single = [_fit(w, [features[n]], holds, x) for n, x in boxes.items() if (w := _words(n, features[n], holds, x))]
    spared = [f for f in single if f.is_natural and f.spared <= spare * int(holds.sum())]
    fits = [f for f in single if not f.spared and f.bits >= needed]
    fits = fits or [f for f in _pairs(features, holds, boxes) if f.bits >= 2 * needed - CERTAIN]
    fits = fits or [f for f in spared if f.bits >= needed]
    if not fits:
        return ""
    best, *others = sorted(fits, key=lambda fit: (not fit.is_option, fit.spared))
    as_good = [fit for fit in others if (fit.is_option, fit.spared) == (best.is_option, best.spared)]
    if any(fit.subjects != best.subjects for fit in as_good):
        return ""
    more = f" (of which {best.spared} more {'is' if best.spared == 1 else 'are'} right)" if best.spared else ""
    return best.words + more


def _boxes(features: Features, holds: Tensor) -> dict[str, Tensor]:
    """Where each feature lies outside the bounds of what holds, of those that are known of all that do."""
    found = {}
    for name, feature in features.items():
        mine = feature.numbers[holds]
        if not bool(mine.isnan().any()):
            numbers = feature.numbers
            found[name] = (numbers < mine.min()) | (numbers > mine.max()) | numbers.isnan()
    return found


def _pairs(features: Features, holds: Tensor, boxes: Mapping[str, Tensor]) -> Iterator[_Fit]:
    """Two features of different things of which each leaves some out; of lengths and places any two might."""
    several = [n for n in boxes if not features[n].subject.startswith(("axis ", "place")) and boxes[n][~holds].any()]
    for one, two in itertools.combinations(several, 2):
        both = boxes[one] | boxes[two]
        if features[one].subject == features[two].subject or not bool(both[~holds].all()):
            continue
        first = _words(one, features[one], holds, boxes[one])
        second = _words(two, features[two], holds | boxes[one], boxes[two], holds)
        if first and second:
            yield _fit(f"{first} and {second}", [features[one], features[two]], holds, both)


def _fit(words: str, features: Sequence[Feature], holds: Tensor, outside: Tensor) -> _Fit:
    holding, spared = int(holds.sum()), int((~outside & ~holds).sum())
    bits = _ways(holding, len(holds)) - _ways(holding, holding + spared)
    if " and " in words:  # an interval may begin at any of the others
        bits -= math.log2(len(holds) - holding + 1)
    is_option = all(feature.is_option for feature in features)
    is_said = is_option or all(feature.kind == "flag" for feature in features) or words.endswith(" 0")
    # Of all numbers of a case that the largest is above 0 is nearly always true.
    is_natural = is_said and not any(said in words for said in ("(right", " and ", " is odd", "est of "))
    return _Fit(words, frozenset(f.subject for f in features), is_option, spared, bits, is_natural)


def _ways(some: int, of: int) -> float:
    """In how many ways so many may be chosen, in bits."""
    return (math.lgamma(of + 1) - math.lgamma(some + 1) - math.lgamma(of - some + 1)) / math.log(2)


def _words(name: str, feature: Feature, holds: Tensor, outside: Tensor, mine: Tensor | None = None) -> str:
    """Between which bounds a feature lies; "" if that is no natural thing to say.  mine: those that hold, where
    others are left out beside them."""
    own, theirs = feature.numbers[holds if mine is None else mine], feature.numbers[outside & ~holds]
    low, high = float(own.min()), float(own.max())
    theirs = theirs[~theirs.isnan()]
    below, above = theirs[theirs < low], theirs[theirs > high]
    if not theirs.numel():
        return ""
    if feature.kind == "flag":
        return name if low else _denied(name)
    if low == high and (low == 0 or (below.numel() and above.numel())):
        is_pinned = low == 0 or (feature.kind == "count" and below.max() == low - 1 and above.min() == low + 1)
        return f"{name} = {low:g}" if feature.is_option or is_pinned else ""
    said = []
    # Where it is 0, or nearly, nothing is seen of it.
    is_seen = "|" not in name or (below.numel() and float(below.max()) > UNSEEN * float(own.median()))
    if below.numel() and is_seen:
        said.append(_bound(name, feature, float(below.max()), low, "<"))
    if above.numel():
        said.append(_bound(name, feature, float(above.min()), high, ">"))
    # Where most is wrong, and only what lies far further out is right, an error does not show out there.
    far = [x for x, mine in ((below, low), (above, high)) if x.numel() and float(x.abs().min()) > abs(mine)]
    if far and "(" in "".join(said) and feature.kind == "number" and len(own) > len(theirs):
        return ""
    # What lies between two bounds of which nobody can say where they are is together by chance.
    return " and ".join(said) if len(said) < 2 or "(" not in "".join(said) else ""


def _bound(name: str, feature: Feature, theirs: float, mine: float, sign: str) -> str:
    """What parts mine from theirs, which lie on that side of it."""
    low, high = sorted((theirs, mine))
    beyond, least = (">", "≥") if sign == "<" else ("<", "≤")
    if feature.kind == "count" and high - low == 1:
        return f"{name} {least} {mine:g}"
    is_one = low <= 0 <= high or high - low <= NARROW * max(abs(low), abs(high))
    if feature.kind != "count" and is_one:
        bound = between(low, high)
        return f"{name} {beyond if bound != mine else least} {bound:g}"
    return f"{name} {least} {mine:.4g} (right {'up to' if sign == '<' else 'from'} {theirs:.4g})"


DENIED = {
    " is odd": "",
    " is repeated": "",
    " holds ": "",
    " is absent": " is given",
    " is not ": " is ",
    " is ": " is not ",
    " < 0": " ≥ 0",
}


def _denied(words: str) -> str:
    """What holds where these words do not."""
    for said, other in DENIED.items():
        if said in words:
            # Who works in pairs fails for odd lengths; and that nothing is 0, NaN or repeated makes no program fail:
            # where something is, an error may not show.
            return words.replace(said, other, 1) if other else ""
    raise ValueError(f"no words deny {words!r}")


def between(low: float, high: float) -> float:
    """The roundest number from one to the other: 0, or that of fewest digits."""
    if low <= 0 <= high:
        return 0.0
    middle = (low + high) / 2 if math.isfinite(low + high) else low
    for digits in range(1, 17):
        for number in (middle, low, high):
            rounded = float(f"{number:.{digits}g}")
            if low <= rounded <= high:
                return rounded
    return middle


# ------------------------------------------------------------------------------------------------------ of the cases


def of_cases(cases: Sequence[Called]) -> dict[str, Feature]:
    """The features of all cases, by name; what is not defined in some is not known there."""
    each = [dict(_of_case(case)) for case in cases]
    nan = torch.tensor(float("nan"), dtype=torch.float64)
    found = {}
    for name in dict.fromkeys(name for own in each for name in own):
        like = next(own[name] for own in each if name in own)
        numbers = torch.stack([own[name].numbers if name in own else nan for own in each])
        if like.kind == "flag" and like.is_option:
            numbers = numbers.nan_to_num(0.0)
        kind: Kind = "number" if any(own[name].kind == "number" for own in each if name in own) else like.kind
        found[name] = like._replace(numbers=numbers, kind=kind)
    return found


def _of_case(traced: Called) -> Iterator[tuple[str, Feature]]:
    rule, case = traced.rule, traced.case

    def feature(number: float | Tensor, subject: str, kind: Kind, is_option: bool = False) -> Feature:
        return Feature(torch.tensor(float(number), dtype=torch.float64), subject, kind, is_option)

    for name, value in {**rule.defaults, **case.hyper}.items():
        if name in rule.hyper:
            several = value if isinstance(value, tuple) and value else (value,)
            if all(type(n) in (int, float) for n in several):  # of each axis of space, perhaps
                kind: Kind = "count" if all(type(n) is int for n in several) else "number"
                yield name, feature(max(several), name, kind, True)
            else:
                yield f"{name} is {value!r}", feature(1, name, "flag", True)
    present = case.named(rule)
    for name in rule.absentable:
        yield f"{name} is absent", feature(name not in present, name, "flag", True)
    with suppress(ValueError, KeyError):  # whose axes have no names
        for axis, length in counts_of(traced).items():
            if "·" not in axis and " " not in axis:
                yield f"the length of {axis} is odd", feature(length % 2, f"axis {axis}", "flag")
    for name, x in present.items():
        yield f"{name} is not contiguous", feature(not x.is_contiguous(), f"layout of {name}", "flag")
        yield f"the number of axes of {name}", feature(x.ndim, "axis count", "count")
        if isinstance(rule.inputs.get(name), Index):
            yield f"{name} is repeated", feature(len(set(x.flatten().tolist())) < x.numel(), name, "flag")
        if name in rule.inputs and x.is_floating_point() and x.numel():
            finite = x.double()[x.isfinite()]
            if finite.numel():
                yield f"the smallest of {name}", feature(finite.min(), name, "number")
                yield f"the largest of {name}", feature(finite.max(), name, "number")
                yield f"the largest |{name}|", feature(finite.abs().max(), name, "number")
            yield f"{name} holds 0", feature(bool((x == 0).any()), name, "flag")
            yield f"{name} holds NaN or infinity", feature(finite.numel() < x.numel(), name, "flag")


# --------------------------------------------------------------------------------------------------- of the elements


def of_elements(traced: Traced, argument: str, shape: tuple[int, ...]) -> dict[str, Feature]:
    """The features of each element of an argument: the numbers that stand at its place, and where that is.

    dy has a sign alone: how large it is decides how large an error is, and none is made of that."""
    found: dict[str, Feature] = {}

    def enter(name: str, x: Tensor) -> None:
        numbers = x.expand(shape).double().flatten()
        if x.dtype == torch.bool:
            found[f"{name} is True there"] = Feature(numbers, name, "flag")
        elif name in traced.rule.cotangents:
            found[f"{name} < 0"] = Feature((numbers < 0).double(), name, "flag")
        else:
            found[name] = Feature(numbers, name, "number" if x.is_floating_point() else "count")
            if x.is_floating_point():
                found[f"|{name}|"] = Feature(numbers.abs(), name, "number")
                for h, number in numbers_of(traced).items():  # a threshold is often one of what is computed of it first
                    found[f"{h}·{name}"] = Feature(number * numbers, name, "number")

    known = {n: traced.values[p] for p, n in traced.names.items() if p < len(traced.case.tensors)}
    for name, x in known.items():
        # One number for all is one of the case.
        if isinstance(x, Tensor) and name != argument and x.ndim in range(bool(shape), len(shape) + 1):
            with suppress(RuntimeError):  # it does not meet this argument
                enter(name, x)
    number = torch.arange(math.prod(shape), dtype=torch.float64)
    found["the position in memory order"] = Feature(number, "place", "count")
    for axis in range(len(shape)):
        index = torch.arange(shape[axis]).reshape(-1, *(1,) * (len(shape) - axis - 1)).expand(shape).flatten().double()
        found[f"the index on axis {axis}"] = Feature(index, "place", "count")
        found[f"the index from the end of axis {axis}"] = Feature(shape[axis] - 1 - index, "place", "count")
        found[f"the index on axis {axis} is odd"] = Feature(index % 2, "place", "flag")
    return found
