"""Fitting: by which numbers the parts of a cotangent would have to be multiplied to give what a candidate returned, and
which sums of a page would have to be taken otherwise."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from manual_bp import axes
from manual_bp.oracle.cases import Case
from manual_bp.rule import Rule

aten = torch.ops.aten


class Sample(NamedTuple):
    """One argument in one record, in float64 on the CPU; judged: where a derivative exists and is finite."""

    case: Case
    got: Tensor
    expected: Tensor
    allowance: Tensor
    judged: Tensor

    @property
    def error(self) -> float:
        """The largest error over allowance where it is judged."""
        if self.got.shape != self.expected.shape:
            return math.inf
        ratio = ((self.got - self.expected).abs() / self.allowance.clamp(min=NO_ALLOWANCE))[self.judged]
        return float(ratio.nan_to_num(nan=math.inf).max()) if ratio.numel() else 0.0


class Fit(NamedTuple):
    """The factors of the parts in one case, and how far off each may be."""

    case: Case
    factors: tuple[float, ...]
    uncertainty: tuple[float, ...]


# A factor that the allowance leaves open by more than this says nothing.
UNCERTAIN = 0.02
# The parts of a cotangent are told apart if none is, to so many digits, a combination of the others.
INDEPENDENT = 1e-5
# The least squares are solved in float64: some thousand of its roundings are granted beside the uncertainty.
SOLVER = 1e-12
# Closer to 1 than this a factor is written as its difference from 1.
NEAR = 1e-3
# Keeps 0 / 0 from being NaN where nothing may be off; the quotient is judged only where it means something.
NO_ALLOWANCE = 1e-320
# A case with more elements than this adds time and no evidence.
ENOUGH = 4096
# What rounding may do beyond the allowance of the right formula, where the parts no longer cancel as they do in it: so
# many units roundoff of the largest magnitudes.
ROUNDINGS = 64


def fit(sample: Sample, parts: Sequence[Tensor], dtype: torch.dtype) -> Fit | str:
    """Least-squares factors of `parts`.

    "contradicts" if what is left is more than rounding, "says nothing" if the case does not determine them.
    """
    judged = sample.judged
    count = int(judged.sum())
    if sample.got.shape != sample.expected.shape or not bool(sample.got[judged].isfinite().all()):
        return "contradicts"
    if not len(parts) * 2 - 1 <= count <= ENOUGH:
        return "says nothing"
    columns = torch.stack([p.expand_as(sample.expected)[judged] for p in parts], 1)
    got, allowance = sample.got[judged], sample.allowance[judged]
    scale = float(columns.abs().max())
    if not math.isfinite(scale) or scale < torch.finfo(dtype).smallest_normal * 1e6:
        return "says nothing"
    u_, singular, vh = torch.linalg.svd(columns / scale, full_matrices=False)
    if float(singular[-1]) <= INDEPENDENT * float(singular[0]):
        return "says nothing"
    inverse = (vh.T / singular) @ u_.T / scale
    factors = inverse @ got
    rounding = ROUNDINGS * torch.finfo(dtype).eps * columns.abs().sum(1) if len(parts) > 1 else 0
    tolerance = allowance * (1 + float(factors.abs().max())) + 2 * torch.finfo(dtype).eps * got.abs() + rounding
    uncertainty = inverse.abs() @ tolerance
    if bool((uncertainty > UNCERTAIN * factors.abs().clamp(min=1)).any()):
        return "says nothing"
    # The fitted factors are themselves off by as much as the tolerance lets them.
    if bool(((got - columns @ factors).abs() > tolerance + columns.abs() @ uncertainty).any()):
        return "contradicts"
    return Fit(sample.case, tuple(factors.tolist()), tuple(uncertainty.tolist()))


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
}


def recognise(rule: Rule, fits: Sequence[Fit], part: int) -> Factor | None:
    """What the factors of one part have in common over all cases; a factor of 1 has the name "1"."""
    found = [(f.case, f.factors[part], f.uncertainty[part]) for f in fits]

    def equal(values: Sequence[float]) -> bool:
        return all(abs(f - v) <= e + SOLVER * abs(v) for (_, f, e), v in zip(found, values, strict=True))

    for name, value in {"1": 1.0, **CONSTANTS}.items():
        if equal([value] * len(found)):
            return Factor(name)
    constant = _constant([(f, e) for _, f, e in found])
    for name, why, values in _expressions(rule, [case for case, _, _ in found]):
        # A quantity that was the same everywhere is no better a name than the number.
        if equal(values) and (constant is None or len(found) == 1):
            return Factor(name, f"{why}{values[0]:.4g} in case {found[0][0].name!r}")
    return constant


def _constant(found: Sequence[tuple[float, float]]) -> Factor | None:
    low, high = max(f - e for f, e in found), min(f + e for f, e in found)
    best = min(found, key=lambda pair: pair[1])[0]
    if low > high + SOLVER * abs(high):
        return None
    return Factor(f"1 {'+' if best > 1 else '-'} {abs(best - 1):.2g}" if abs(best - 1) < NEAR else f"{best:.4g}")


def _expressions(rule: Rule, cases: Sequence[Case]) -> Iterator[tuple[str, str, list[float]]]:
    """Every expression that may be a factor: its name, what its letter means, its value in each case."""
    counts, hyper = [counts_of(rule, case) for case in cases], [{**rule.defaults, **case.hyper} for case in cases]
    sources = [(OF_A_COUNT, counts, name, f"n = {name}; ") for name in counts[0]]
    sources += [(OF_A_HYPERPARAMETER, hyper, name, "") for name in rule.hyper]
    for table, values, quantity, why in sources:
        for name, function in table.items():
            try:
                yield name.replace("{}", quantity), why, [float(function(v[quantity])) for v in values]
            except (ZeroDivisionError, KeyError, TypeError, OverflowError):
                continue


def counts_of(rule: Rule, case: Case) -> dict[str, float]:
    """The length of every axis by name, and the product of every group of them ("batch·space")."""
    sizes: axes.Sizes = {}
    for name, x in zip(rule.inputs, case.inputs, strict=True):
        axes.bind(name, rule.annotations[name], tuple(x.shape), sizes, case.hyper)
    lengths = {name: math.prod(length) for name, length in sizes.items()}
    groups = (g for size in range(1, len(lengths) + 1) for g in itertools.combinations(lengths, size))
    return {"·".join(group): math.prod(lengths[name] for name in group) for group in groups}


# --------------------------------------------------------------------------------------- sums that are taken otherwise

SUMS = {aten.sum.default: "sum", aten.sum.dim_IntList: "sum", aten.mean.default: "mean", aten.mean.dim: "mean"}
PRODUCTS = (aten.mm.default, aten.bmm.default, aten.mv.default, aten.dot.default)

Change = Callable[[Tensor, Any, tuple[Any, ...], Mapping[str, Any]], Tensor]
"""(right result, torch function, its arguments) -> wrong result."""


class Altered(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs a page's text with its reduction number `position` done otherwise; counts its reductions."""

    def __init__(self, position: int = -1, change: Change | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.position, self.change, self.seen = position, change, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        right = func(*args, **(kwargs or {}))
        if func not in SUMS and func not in PRODUCTS:
            return right
        self.seen += 1
        return self.change(right, func, args, kwargs or {}) if self.change and self.seen == self.position + 1 else right


def altered(rule: Rule, residuals: Any, dy: Tensor) -> Iterator[tuple[str, Callable[[Any, Tensor], Any]]]:
    """Every other way to take a sum of the page: in words, and the backward that does so.

    `residuals` and `dy` stand for those of any case: how many reductions there are does not depend on it.
    """
    with Altered() as text:
        rule.page.backward(residuals, dy)
    for position, (words, change) in itertools.product(range(text.seen), CHANGES.items()):

        def backward(residuals: Any, dy: Tensor, position: int = position, change: Change = change) -> Any:
            with Altered(position, change):
                return rule.page.backward(residuals, dy)

        yield words, backward


def _reduced(func: Any, args: tuple[Any, ...]) -> tuple[int, ...]:
    """The axes of the first operand over which is summed."""
    if func in PRODUCTS:
        return (args[0].ndim - 1,)
    given = args[1] if len(args) > 1 and args[1] else range(args[0].ndim)
    return tuple(axis % args[0].ndim for axis in given)


def _count(func: Any, args: tuple[Any, ...]) -> int:
    return math.prod(args[0].shape[axis] for axis in _reduced(func, args))


def _times(function: Callable[[int], float], which: Sequence[str]) -> Change:
    """The reduction times a function of its count; only for the kinds `which`."""

    def change(right: Tensor, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        if SUMS.get(func, "product") not in which or _count(func, args) < 2:
            return right
        return right * function(_count(func, args))

    return change


def _first_only(axis: int) -> Change:
    """An axis is not summed: only its first element is taken."""

    def change(right: Tensor, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        if func not in SUMS or axis not in _reduced(func, args):
            return right
        taken: Tensor = func(args[0].narrow(axis, 0, 1), *args[1:], **kwargs)
        return taken

    return change


def _over(*over: int) -> Change:
    """A sum or mean over these axes, in place of its own; for one that has too few elements, whatever shape comes."""

    def change(right: Tensor, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        x = args[0]
        if func not in SUMS or max(over) >= x.ndim or set(over) == set(_reduced(func, args)):
            return right
        taken: Tensor = x.mean(over) if SUMS[func] == "mean" else x.sum(over)
        return taken

    return change


def _without_last(axis: int) -> Change:
    """The reduction without the last element of an axis; of a product, if it is axis 0."""

    def change(right: Tensor, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        a, *rest = args
        if func in PRODUCTS and axis == 0:
            b = rest[0]
            shorter: Tensor = func(a[..., :-1], b[:-1] if b.ndim == 1 else b[..., :-1, :])
            return shorter
        if func in PRODUCTS or axis not in _reduced(func, args):
            return right
        left: Tensor = func(a.narrow(axis, 0, max(a.shape[axis] - 1, 0)), *rest, **kwargs)
        return left

    return change


def _transposed(operand: int) -> Change:
    """A matrix product whose operand is transposed; only where both are square is there a result."""

    def change(right: Tensor, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        if func not in PRODUCTS or args[operand].ndim < 2 or args[operand].shape[-1] != args[operand].shape[-2]:
            return right
        operands = list(args)
        operands[operand] = operands[operand].mT
        product: Tensor = func(*operands)
        return product

    return change


CHANGES: Mapping[str, Change] = {
    "a mean where a sum is due (1/n)": _times(lambda n: 1 / n, ("sum", "product")),
    "a sum where a mean is due (n)": _times(lambda n: n, ("mean",)),
    "divided by its count n once more": _times(lambda n: 1 / n, ("mean",)),
    "multiplied by its count n": _times(lambda n: n, ("sum", "product")),
    "divided by n - 1 and not by n": _times(lambda n: n / (n - 1), ("mean",)),
    "multiplied by n/(n-1)": _times(lambda n: n / (n - 1), ("sum", "product")),
    "taken without its last element": _without_last(0),
    **{f"taken without the last element of axis {axis}": _without_last(axis) for axis in range(1, 4)},
    **{f"not summed over axis {axis}: only its first element is taken": _first_only(axis) for axis in range(4)},
    "summed over axis 0 only": _over(0),
    "summed over axis 1 only": _over(1),
    "summed over axis 2 only": _over(2),
    "summed over axis 3 only": _over(3),
    "summed over axes 0 and 1": _over(0, 1),
    "summed over axes 1 and 2": _over(1, 2),
    "summed over axes 0 and 2": _over(0, 2),
    "summed over axes 1, 2 and 3": _over(1, 2, 3),
    "summed over axes 0, 1 and 3": _over(0, 1, 3),
    "summed over axes 0, 1 and 2": _over(0, 1, 2),
    "taken of a transposed first factor": _transposed(0),
    "taken of a transposed second factor": _transposed(1),
}
"""How a reduction is got wrong, in words that follow "a sum is"."""
