"""Quantities that a factor may be: constants, lengths of axes, hyperparameters, and simple functions of these."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from manual_bp import axes
from manual_bp.oracle.case import Case
from manual_bp.rule import Rule

CONSTANTS: Mapping[str, float] = {
    "0": 0.0, "-1": -1.0, "2": 2.0, "1/2": 0.5, "-2": -2.0, "-1/2": -0.5, "3": 3.0, "1/3": 1 / 3, "4": 4.0, "1/4": 0.25,
}  # fmt: skip
OF_A_COUNT: Mapping[str, Callable[[float], float]] = {
    "1/{}": lambda n: 1 / n,
    "{}": lambda n: n,
    "-1/{}": lambda n: -1 / n,
    "{0}/({0} - 1)": lambda n: n / (n - 1),
    "({0} - 1)/{0}": lambda n: (n - 1) / n,
    "2/{}": lambda n: 2 / n,
    "1/(2 {})": lambda n: 1 / (2 * n),
    "{}/2": lambda n: n / 2,
    "2 {}": lambda n: 2 * n,
    "{} - 1": lambda n: n - 1,
    "1/({} - 1)": lambda n: 1 / (n - 1),
    "{}/({} + 1)": lambda n: n / (n + 1),
    "1/√{}": lambda n: 1 / math.sqrt(n),
    "√{}": math.sqrt,
    "1/{}²": lambda n: n**-2,
    "{}²": lambda n: n * n,
    "√({0}/({0} - 1))": lambda n: math.sqrt(n / (n - 1)),
    "√(({0} - 1)/{0})": lambda n: math.sqrt((n - 1) / n),
}
OF_A_HYPERPARAMETER: Mapping[str, Callable[[float], float]] = {
    "{}": lambda h: h,
    "1/{}": lambda h: 1 / h,
    "-{}": lambda h: -h,
    "1 - {}": lambda h: 1 - h,
    "1/(1 - {})": lambda h: 1 / (1 - h),
    "1 + {}": lambda h: 1 + h,
    "1/(1 + {})": lambda h: 1 / (1 + h),
    "{}²": lambda h: h * h,
    "1/{}²": lambda h: h**-2,
    "√{}": math.sqrt,
    "1/√{}": lambda h: 1 / math.sqrt(h),
    "{0}/(1 - {0})": lambda h: h / (1 - h),
    "(1 - {0})/{0}": lambda h: (1 - h) / h,
    "(1 - {})²": lambda h: (1 - h) ** 2,
    "1 - {}²": lambda h: 1 - h * h,
    "√(1 - {})": lambda h: math.sqrt(1 - h),
    "1/√(1 - {})": lambda h: 1 / math.sqrt(1 - h),
}


class Called(Protocol):
    """A page that is called at a case."""

    @property
    def rule(self) -> Rule: ...

    @property
    def case(self) -> Case: ...


Quantity = Callable[[Called], float]
"""What a number is in a case; raises one of UNDEFINED where it has no value, as 1/limit of 0 or the root of -1."""

UNDEFINED = (ArithmeticError, ValueError, KeyError, TypeError)


@dataclass(frozen=True)
class Always:
    """A number that is the same in every case."""

    number: float

    def __call__(self, _: Called) -> float:
        return self.number


@dataclass(frozen=True)
class OfHyperparameter:
    """A function of a hyperparameter."""

    name: str
    function: Callable[[float], float]

    def __call__(self, case: Called) -> float:
        return self.function(numbers_of(case)[self.name])


def quantities(traced: Called) -> Iterator[tuple[str, Quantity]]:
    """Every quantity by name, the simplest first."""
    for name, number in CONSTANTS.items():
        yield name, Always(number)
    counts = counts_of(traced)
    for words, function in OF_A_COUNT.items():
        for name in counts:
            one = f"({name})" if "·" in name or " " in name else name
            yield words.format(one, one) if words != "{}" else name, lambda t, f=function, n=name: f(counts_of(t)[n])  # type: ignore[misc]
    for words, function in OF_A_HYPERPARAMETER.items():
        for name in numbers_of(traced):
            yield words.format(name, name), OfHyperparameter(name, function)
    for one, other in itertools.permutations([name for name in counts if "·" not in name], 2):
        words = "/".join(f"({n})" if " " in n else n for n in (one, other))
        yield words, lambda t, a=one, b=other: counts_of(t)[a] / counts_of(t)[b]  # type: ignore[misc]


def numbers_of(traced: Called) -> dict[str, float]:
    """The hyperparameters that are numbers."""
    given = {**traced.rule.defaults, **traced.case.hyper}
    return {name: float(value) for name, value in given.items() if type(value) in (int, float)}


def counts_of(traced: Called) -> dict[str, float]:
    """The length of every axis by name, the products of two, of all but one and of all ("batch·space"), and of several
    axes of one name the first, which is what len(x) says."""
    kept = traced.__dict__.setdefault("_counts", {})
    if kept:
        return dict(kept)
    rule, sizes = traced.rule, axes.Sizes()
    present = {n: x for n, x in zip(rule.inputs, traced.case.inputs, strict=True) if x is not None}
    axes.bind(rule.annotations, {n: tuple(x.shape) for n, x in present.items()}, sizes, traced.case.hyper)
    lengths = {name: math.prod(length) for name, length in sizes.items()}
    most = len(lengths)
    groups = (g for n in sorted({1, 2, most - 1, most}) if n > 0 for g in itertools.combinations(lengths, n))
    kept.update({"·".join(group): float(math.prod(lengths[name] for name in group)) for group in groups})
    for name, length in sizes.items():
        if rule.axis_names.get(name) and len(length) > 1:
            kept[f"the first axis of {name}"] = float(length[0])
            kept[f"the last axis of {name}"] = float(length[-1])
    return dict(kept)
