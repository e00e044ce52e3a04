"""Sums of products: matrices and convolution.  Each of n products is rounded once and takes part in n − 1 additions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded_table.elementary import add, scaled
from manual_bp.arithmetic.bounded_table.formats import NO_ERROR, Pair, Precision
from manual_bp.arithmetic.bounded_table.meanings import arithmetic, aten
from manual_bp.arithmetic.bounded_table.sums import accumulated


def _bilinear(p: Precision, a: Pair, b: Pair, terms: int, product: Callable[[Tensor, Tensor], Tensor]) -> Pair:
    """product: bilinear, each result a sum of so many products of an element of each operand, at most."""
    (x, y), (e, f) = (a[0], b[0]), (a[1].expand_as(a[0]), b[1].expand_as(b[0]))
    size, other = x.abs(), y.abs()
    magnitude = product(size, other)
    propagated = NO_ERROR
    if b[1].any():  # where errors are drawn at random, there are none that are bounded
        propagated = propagated + product(size, f)
    if a[1].any():
        propagated = propagated + product(e, other + f)
    if propagated is not NO_ERROR:
        magnitude = magnitude + propagated
    fresh = magnitude * p.gamma(terms)
    if magnitude.numel() and magnitude.min() > 0:
        fresh = fresh + terms * p.eta
    else:
        rounds = magnitude > 0
        if _least(size) * _least(other) == 0:  # a product of two numbers underflows in float64 itself
            rounds |= product((x != 0).double(), (y != 0).double()) > 0
        fresh = torch.where(rounds, fresh + terms * p.eta, fresh)
    return accumulated(p, product(x, y), propagated, fresh, magnitude)


def _least(size: Tensor) -> float:
    """The least that is not 0; infinity if there is none."""
    above = size[size > 0]
    return float(above.min()) if above.numel() else math.inf


@arithmetic(aten.mm.default, aten.bmm.default, aten.mv.default, aten.dot.default, operands=2)
def matmul(p: Precision, a: Pair, b: Pair) -> Pair:
    return _bilinear(p, a, b, a[0].shape[-1], torch.matmul)


@arithmetic(aten.addmm.default, aten.baddbmm.default, aten.addmv.default, operands=3)
def _addmm(p: Precision, c: Pair, a: Pair, b: Pair, beta: float = 1, alpha: float = 1) -> Pair:
    """What is added may be added first."""
    product = scaled(p, matmul(p, a, b), alpha)
    return product if beta == 0 else with_first(p, product, scaled(p, c, beta), a[0].shape[-1])


def with_first(p: Precision, total: Pair, first: Pair, terms: int) -> Pair:
    """A sum of so many terms and a number that may be its first, and takes part in all its roundings."""
    value, error = add(p, total, first)
    return value, error + p.gamma(terms) * (first[0].abs() + first[1])


@arithmetic(aten.convolution.default, operands=3)
def _convolution(
    p: Precision,
    x: Pair,
    weight: Pair,
    bias: Pair | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Pair:
    terms = terms_of_convolution(x[0].shape, weight[0].shape, transposed, groups)

    def product(x: Tensor, w: Tensor) -> Tensor:
        return torch.convolution(x, w, None, stride, padding, dilation, transposed, output_padding, groups)

    y = _bilinear(p, x, weight, terms, product)
    if bias is None:
        return y
    along = (-1, *(1,) * (weight[0].ndim - 2))
    return with_first(p, y, (bias[0].reshape(along), bias[1].expand_as(bias[0]).reshape(along)), terms)


def terms_of_convolution(x: Sequence[int], weight: Sequence[int], transposed: bool, groups: int) -> int:
    """How many products make one result, at most: channels of its group times taps of the kernel."""
    channels = weight[0] // groups if transposed else weight[1]
    return channels * math.prod(weight[2:])
