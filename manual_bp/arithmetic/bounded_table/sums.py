"""Sums and products along axes, sums that go to places, and what is made of them: mean, variance, norms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded_table.elementary import absolute, divide, multiply, power, scaled, sqrt, subtract
from manual_bp.arithmetic.bounded_table.extremes import amax
from manual_bp.arithmetic.bounded_table.formats import (
    EXACT,
    INF,
    NO_ERROR,
    NoMeaning,
    Pair,
    Precision,
    number,
    rounded,
    ulps,
)
from manual_bp.arithmetic.bounded_table.meanings import arithmetic, aten

Axes = int | Sequence[int] | None


def axes_of(x: Tensor, dim: Axes) -> list[int]:
    return [dim] if isinstance(dim, int) else list(dim) if dim else list(range(x.ndim))


def count(x: Tensor, dim: Axes) -> int:
    return math.prod(x.shape[axis] for axis in axes_of(x, dim)) if x.ndim else 1


@arithmetic(aten.sum.default, aten.sum.dim_IntList, operands=1)
def summed(p: Precision, a: Pair, dim: Axes = None, keepdim: bool = False) -> Pair:
    axes = axes_of(a[0], dim)
    propagated = NO_ERROR if a[1] is NO_ERROR else a[1].expand_as(a[0]).sum(axes, keepdim)
    magnitude = a[0].abs().sum(axes, keepdim) + propagated
    fresh = magnitude * p.gamma(max(count(a[0], dim) - 1, 0))
    return accumulated(p, a[0].sum(axes, keepdim), propagated, fresh, magnitude)


def accumulated(p: Precision, value: Tensor, propagated: Tensor, fresh: Tensor, magnitude: Tensor) -> Pair:
    """The pair of a sum, whose fresh roundings are known; one more where it was added up in another format.

    magnitude: what the terms add up to if all have one sign: in some order a part of the sum is up to half of that
    beyond the whole, and may overflow.
    """
    error = propagated + fresh
    if p.accumulate:
        error = error + p.u * (value.abs() + error)
    if magnitude.numel() and (magnitude + error).max().item() <= p.max:  # the ordinary case: no part is larger
        return value, error
    largest = torch.maximum(value.abs(), (value.abs() + magnitude) / 2)
    return value, torch.where(largest + error <= p.max, error, INF)  # a NaN fails the comparison too


@arithmetic(aten.mean.default, aten.mean.dim, operands=1)
def mean(p: Precision, a: Pair, dim: Axes = None, keepdim: bool = False) -> Pair:
    return divide(p, summed(p, a, dim, keepdim), number(float(count(a[0], dim)), p.dtype))


@arithmetic(aten.cumsum.default, operands=1)
def _cumsum(p: Precision, a: Pair, dim: int) -> Pair:
    propagated = a[1].expand_as(a[0]).cumsum(dim)
    magnitude = a[0].abs().cumsum(dim) + propagated
    fresh = magnitude * _along(a[0], dim, p.gamma)
    return accumulated(p, a[0].cumsum(dim), propagated, fresh, magnitude)


def _along(x: Tensor, dim: int, of: Callable[[int], float]) -> Tensor:
    """of(0), of(1), ... along an axis: what so many roundings do."""
    if not x.ndim:
        return torch.tensor(of(0), dtype=torch.float64)
    numbers = torch.tensor([of(n) for n in range(x.shape[dim])], dtype=torch.float64)
    return numbers.reshape([-1 if axis == dim % x.ndim else 1 for axis in range(x.ndim)])


# Products.


@arithmetic(aten.prod.default, aten.prod.dim_int, operands=1)
def _prod(p: Precision, a: Pair, dim: int | None = None, keepdim: bool = False) -> Pair:
    x, e = (a[0].flatten(), a[1].expand_as(a[0]).flatten()) if dim is None else (a[0], a[1].expand_as(a[0]))
    axis = 0 if dim is None else dim

    def reduced(t: Tensor, by: str) -> Tensor:
        result: Tensor = getattr(t, by)(axis, keepdim=keepdim and dim is not None)
        return result

    return _multiplied(p, x, e, reduced, p.gamma(max(count(x, axis) - 1, 0)))


@arithmetic(aten.cumprod.default, operands=1)
def _cumprod(p: Precision, a: Pair, dim: int) -> Pair:
    def running(t: Tensor, by: str) -> Tensor:
        result: Tensor = getattr(t, f"cum{by}")(dim)
        return result

    return _multiplied(p, a[0], a[1].expand_as(a[0]), running, _along(a[0], dim, p.gamma))


def _multiplied(
    p: Precision, x: Tensor, e: Tensor, reduced: Callable[[Tensor, str], Tensor], gamma: Tensor | float
) -> Pair:
    """Π x.  Relative errors multiply: Π(1 + e/|x|) − 1; where a factor is 0 only Π(|x| + e) is known.  In some order a
    part of the product is as large as all factors above 1 together, and may overflow, or as small as all below 1."""
    value = reduced(x, "prod")
    most = x.abs() + e
    relative = torch.expm1(reduced(torch.log1p(torch.where(x == 0, EXACT, e / x.abs())), "sum"))
    has_zero = reduced((x == 0).double(), "sum") > 0
    propagated = torch.where(has_zero, reduced(most, "prod"), value.abs() * relative)
    fresh = (value.abs() + propagated) * gamma
    largest = reduced(most.clamp(min=1), "prod")
    smallest = reduced(torch.where(x == 0, 1.0, (x.abs() - e).clamp(0, 1)), "prod")
    rounds = has_zero.logical_not() & (smallest < p.tiny)
    fresh = torch.where(rounds, fresh + largest * p.eta * max(len(x.shape) and max(x.shape), 1), fresh)
    return value, torch.where(largest <= p.max, propagated + fresh, INF)


# Sums that go to places.


def _to_places(p: Precision, a: Pair, source: Pair, place: Callable[[Tensor, Tensor], Tensor]) -> Pair:
    """What is there and all that is added to it; as many roundings as there are terms, but for one on an exact 0.

    place: adds a source to what is there.
    """
    x, s = a[0], source[0]
    e_x, e_s = a[1].expand_as(x), source[1].expand_as(s)
    terms = place(((x != 0) | (e_x != 0)).double(), torch.ones_like(s)) - 1
    gammas = torch.zeros_like(terms)
    for n in set(terms.flatten().tolist()):
        gammas = torch.where(terms == n, p.gamma(max(int(n), 0)), gammas)
    propagated = place(e_x, e_s)
    magnitude = place(x.abs(), s.abs()) + propagated
    return accumulated(p, place(x, s), propagated, magnitude * gammas, magnitude)


@arithmetic(aten.index_add.default, operands=(0, 3))
def _index_add(p: Precision, a: Pair, dim: int, index: Tensor, source: Pair, alpha: float = 1) -> Pair:
    return _to_places(p, a, scaled(p, source, alpha), lambda x, s: x.index_add(dim, index, s))


@arithmetic(aten.scatter_add.default, operands=(0, 3))
def _scatter_add(p: Precision, a: Pair, dim: int, index: Tensor, source: Pair) -> Pair:
    return _to_places(p, a, source, lambda x, s: x.scatter_add(dim, index, s))


@arithmetic(aten.index_put.default, operands=(0, 2))
def _index_put(p: Precision, a: Pair, indices: list[Tensor | None], source: Pair, accumulate: bool = False) -> Pair:
    if accumulate:
        return _to_places(p, a, source, lambda x, s: aten.index_put(x, indices, s, True))
    x, e = (aten.index_put(t, indices, s) for t, s in zip((a[0], a[1].expand_as(a[0])), source, strict=True))
    return x, e


# Variance and norms.


@arithmetic(aten.var.correction, operands=1)
def variance(p: Precision, a: Pair, dim: Axes = None, correction: float | None = None, keepdim: bool = False) -> Pair:
    """Σ (x − mean)² / (n − correction)."""
    deviation = subtract(p, a, mean(p, a, dim, keepdim=True))
    freedom = count(a[0], dim) - (1 if correction is None else correction)
    squares = summed(p, multiply(p, deviation, deviation), dim, keepdim)
    return divide(p, squares, number(float(max(freedom, 0)), p.dtype))


@arithmetic(aten.std.correction, operands=1)
def _std(p: Precision, a: Pair, dim: Axes = None, correction: float | None = None, keepdim: bool = False) -> Pair:
    return sqrt(p, variance(p, a, dim, correction, keepdim))


@arithmetic(aten.linalg_vector_norm.default, operands=1)
def _norm(p: Precision, a: Pair, ord: float = 2, dim: Axes = None, keepdim: bool = False) -> Pair:
    if ord == 1:
        return summed(p, absolute(p, a), dim, keepdim)
    if ord == math.inf:
        return amax(p, absolute(p, a), axes_of(a[0], dim), keepdim)
    if not 0 < ord < math.inf:
        raise NoMeaning(f"of order {ord}")
    if ord != 2:
        return power(p, summed(p, power(p, absolute(p, a), ord), dim, keepdim), 1 / ord)
    return _euclidean(p, a, axes_of(a[0], dim), keepdim)


def _euclidean(p: Precision, a: Pair, axes: list[int], keepdim: bool) -> Pair:
    """√Σx².  An error moves it by its own norm at most.  The sum of squares is off by γ(n), half of which is left under
    the root; where squares underflow it is off by n eta, which is √(n eta) under the root at most."""
    x, e = a[0], a[1].expand_as(a[0])

    def norm(t: Tensor) -> Tensor:
        """Scaled, so that no square over- or underflows in float64."""
        largest = t.abs().amax(axes, keepdim=True) if t.numel() else t.sum(axes, keepdim=True)
        scale = torch.where((largest > 0) & largest.isfinite(), largest, 1.0)
        found = scale * (t / scale).square().sum(axes, keepdim=True).sqrt()
        return found if keepdim else found.sum(axes)

    value, propagated, n = norm(x), norm(e), count(x, axes)
    of_sum = p.gamma(n)
    fresh = (value + propagated) * of_sum / 2 * (1 + of_sum)
    lost = n * p.eta
    underflow = torch.where(value > 0, lost / (value.square() + lost).sqrt(), EXACT)
    pair = rounded(p, value, propagated + fresh + underflow, roundings=ulps("sqrt"), underflows=False)
    fits = (value + propagated).square() <= p.max  # a program squares
    return pair[0], torch.where(fits, pair[1], INF)
