"""Fitting: by which numbers the parts of a cotangent would have to be multiplied to give what a candidate returned, and
what such a number is called."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manual_bp import axes
from manual_bp.oracle.case import Case
from manual_bp.oracle.diagnosis.forms import Form
from manual_bp.oracle.diagnosis.hypothesis import Sample


class Fit(NamedTuple):
    """The factors of the parts in one case, and how far off each may be."""

    case: Case
    factors: tuple[float, ...]
    uncertainty: tuple[float, ...]


# A factor that the allowance leaves open by more than this says nothing.
UNCERTAIN = 0.02
# The parts of a cotangent are told apart if none is, to so many digits, a combination of the others.  With fewer left,
# a rounding of float32 (1.2e-7) moves a factor by about UNCERTAIN.
INDEPENDENT = 1e-5
# The least squares are solved in float64: some thousand of its roundings are granted beside the uncertainty.
SOLVER = 1e-12
# Closer to 1 than this a factor is written as its difference from 1.
NEAR = 1e-3
# Of a cotangent below this, a part that is a millionth of it has lost digits in float32, whose normal numbers end at
# 1.2e-38.
TINY = 1e-32
# Of a case with more elements than this some are taken, and the last few, which a kernel may miss.
ENOUGH = 4096
FEW = 64
# So many axes have all their groups looked at, and the quotients of all groups; of more those of single axes.
FEW_AXES = 4
# What rounding may do beyond the allowance of the right formula, where the parts no longer cancel as they do in it: so
# many units roundoff of the largest magnitudes.
ROUNDINGS = 64


def fit(sample: Sample, parts: Sequence[Tensor], slack: float) -> Fit | str:
    """Least-squares factors of `parts`; slack: what the roundings of several parts may add, relative to their size.

    "contradicts" if what is left is more than rounding, "says nothing" if the case does not determine them.
    """
    judged = sample.judged
    if sample.got.shape != sample.expected.shape or not bool(sample.got[judged].isfinite().all()):
        return "contradicts"
    count = int(judged.sum())
    if count > ENOUGH:
        judged = _some(judged)
    if count < len(parts) * 2 - 1:
        return "says nothing"
    columns = torch.stack([p.expand_as(sample.expected)[judged] for p in parts], 1)
    got, allowance = sample.got[judged], sample.allowance[judged]
    scale = float(columns.abs().max())
    if not math.isfinite(scale) or scale < TINY:
        return "says nothing"
    u_, singular, vh = torch.linalg.svd(columns / scale, full_matrices=False)
    if float(singular[-1]) <= INDEPENDENT * float(singular[0]):
        return "says nothing"
    inverse = (vh.T / singular) @ u_.T / scale
    factors = inverse @ got
    rounding = slack * columns.abs().sum(1) if len(parts) > 1 else 0
    tolerance = allowance * (1 + float(factors.abs().max())) + slack * got.abs() / ROUNDINGS + rounding
    uncertainty = inverse.abs() @ tolerance
    if bool((uncertainty > UNCERTAIN * factors.abs().clamp(min=1)).any()):
        return "says nothing"
    # The fitted factors are themselves off by as much as the tolerance lets them.
    if bool(((got - columns @ factors).abs() > tolerance + columns.abs() @ uncertainty).any()):
        return "contradicts"
    return Fit(sample.case, tuple(factors.tolist()), tuple(uncertainty.tolist()))


def _some(mask: Tensor) -> Tensor:
    """At most so many of the marked elements: the first, the last, and some between."""
    chosen = mask.flatten().nonzero().flatten()
    some = torch.zeros(mask.numel(), dtype=torch.bool)
    some[chosen[:: math.ceil(len(chosen) / ENOUGH)]] = True
    some[chosen[-FEW:]] = True
    return some.reshape(mask.shape)


# --------------------------------------------------------------------------------------------- what a factor is called


class Factor(NamedTuple):
    """A number by which a part is multiplied. name: in words. why: what the name means, with a value."""

    name: str
    why: str = ""


CONSTANTS = {"0": 0.0, "-1": -1.0, "2": 2.0, "1/2": 0.5, "-2": -2.0, "-1/2": -0.5}
OF_A_COUNT: Mapping[str, Callable[[float], float]] = {
    "1/n": lambda n: 1 / n,
    "n": lambda n: n,
    "n/(n-1)": lambda n: n / (n - 1),
    "(n-1)/n": lambda n: (n - 1) / n,
    "1/n²": lambda n: 1 / n**2,
    "2/n": lambda n: 2 / n,
    "n/2": lambda n: n / 2,
    "2n": lambda n: 2 * n,
    "n-1": lambda n: n - 1,
    "1/(n-1)": lambda n: 1 / (n - 1),
    "1/√n": lambda n: n**-0.5,
    "√n": lambda n: n**0.5,
    "-1/n": lambda n: -1 / n,
    "√(n/(n-1))": lambda n: (n / (n - 1)) ** 0.5,
    "√((n-1)/n)": lambda n: ((n - 1) / n) ** 0.5,
}
OF_A_HYPERPARAMETER: Mapping[str, Callable[[float], float]] = {
    "{}": lambda h: h,
    "1/{}": lambda h: 1 / h,
    "1-{}": lambda h: 1 - h,
    "1/(1-{})": lambda h: 1 / (1 - h),
    "{}/(1-{})": lambda h: h / (1 - h),
    "{}²": lambda h: h * h,
    "1/{}²": lambda h: 1 / (h * h),
    "-{}": lambda h: -h,
    "1+{}": lambda h: 1 + h,
    "1/(1+{})": lambda h: 1 / (1 + h),
    "1-{}²": lambda h: 1 - h * h,
    "(1-{})²": lambda h: (1 - h) ** 2,
    "(1-{})/{}": lambda h: (1 - h) / h,
    "√{}": lambda h: h**0.5,
    "1/√{}": lambda h: h**-0.5,
    "√(1-{})": lambda h: (1 - h) ** 0.5,
    "1/√(1-{})": lambda h: (1 - h) ** -0.5,
}
OF_A_NORM: Mapping[str, Callable[[float], float]] = {"‖{}‖": lambda s: s, "1/‖{}‖": lambda s: 1 / s}


def recognise(rule: Form, fits: Sequence[Fit], part: int) -> Factor | None:
    """What the factors of one part have in common over all cases; a factor of 1 has the name "1"."""
    found = [(f.case, f.factors[part], f.uncertainty[part]) for f in fits]

    def equal(values: Sequence[float]) -> bool:
        """In every case in which the value is defined, if these are several."""
        defined = [(f, v, e) for (_, f, e), v in zip(found, values, strict=True) if not math.isnan(v)]
        several = len(defined) == len(found) or len({v for _, v, _ in defined}) > 1
        return several and all(abs(f - v) <= e + SOLVER * abs(v) for f, v, e in defined)

    for name, value in {"1": 1.0, **CONSTANTS}.items():
        if equal([value] * len(found)):
            return Factor(name)
    constant = _constant([(f, e) for _, f, e in found])
    for name, why, values in _expressions(rule, [case for case, _, _ in found]):
        # A quantity that was the same everywhere is no better a name than the number.
        if equal(values) and (constant is None or len(found) == 1):
            known = next(i for i, value in enumerate(values) if not math.isnan(value))
            return Factor(name, f"{why}{values[known]:.4g} in case {found[known][0].name!r}")
    return constant


def _constant(found: Sequence[tuple[float, float]]) -> Factor | None:
    low, high = max(f - e for f, e in found), min(f + e for f, e in found)
    best = min(found, key=lambda pair: pair[1])[0]
    if low > high + SOLVER * abs(high) or best == 1:
        return None
    return Factor(f"1 {'+' if best > 1 else '-'} {abs(best - 1):.2g}" if abs(best - 1) < NEAR else f"{best:.4g}")


def _expressions(rule: Form, cases: Sequence[Case]) -> Iterator[tuple[str, str, list[float]]]:
    """Every expression that may be a factor: its name, what its letter means, its value in each case."""
    counts, hyper = [counts_of(rule, case) for case in cases], [rule.numbers(case.hyper) for case in cases]
    norms = [_norms(rule, case) for case in cases]
    sources: list[tuple[Mapping[str, Callable[[float], float]], Sequence[Mapping[str, Any]], str, str]]
    sources = [(OF_A_COUNT, counts, name, f"n = {name}; ") for name in counts[0]]
    sources += [(OF_A_HYPERPARAMETER, hyper, name, "") for name in rule.hyper]
    sources += [(OF_A_NORM, norms, name, "") for name in norms[0]]
    for table, values, quantity, why in sources:
        for name, function in table.items():
            try:
                found = [_defined(function, v[quantity]) for v in values]
            except (KeyError, TypeError):
                continue
            yield name.replace("{}", quantity), why, found
    several = counts[0] if len(rule.axis_names) <= FEW_AXES else [n for n in counts[0] if n in rule.axis_names]
    for a, b in itertools.permutations(several, 2):
        if all(v.get(b) for v in counts):
            yield f"{a} / {b}", "", [v.get(a, math.nan) / v[b] for v in counts]


def _defined(function: Callable[[float], float], quantity: float) -> float:
    """nan where it is not."""
    try:
        return float(function(quantity))
    except (ZeroDivisionError, OverflowError):
        return math.nan


def _norms(rule: Form, case: Case) -> dict[str, float]:
    named = {**dict(zip(rule.inputs, case.inputs, strict=True)), "dy": case.dy}
    return {name: float(x.double().norm()) for name, x in named.items() if x.is_floating_point()}


def counts_of(rule: Form, case: Case) -> dict[str, float]:
    """The length of every axis by name, the product of groups of them ("batch·space"), and the first of several axes
    that have one name, which is what len(x) says.

    A sum runs over one axis or two, or over all but one, or all: of up to FEW_AXES these are all groups there are, and
    of more their number grows as the square, not as a power of 2.
    """
    sizes: axes.Sizes = {}
    shapes = {name: tuple(x.shape) for name, x in zip(rule.inputs, case.inputs, strict=True)}
    axes.bind(rule.annotations, shapes, sizes, case.hyper)
    lengths = {name: math.prod(length) for name, length in sizes.items()}
    most = len(lengths)
    groups = (g for n in sorted({1, 2, most - 1, most}) if n > 0 for g in itertools.combinations(lengths, n))
    counts = {"·".join(group): float(math.prod(lengths[name] for name in group)) for group in groups}
    first = {f"first axis of {n}": float((*length, 1)[0]) for n, length in sizes.items() if rule.axis_names.get(n)}
    return counts | first
