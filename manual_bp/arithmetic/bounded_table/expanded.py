"""What the terms of an expanded result add up to (see "Expanded" in bounded.py), and of how many terms a sum is."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded_table.meanings import aten
from manual_bp.arithmetic.bounded_table.products import terms_of_convolution
from manual_bp.arithmetic.bounded_table.sums import Axes, axes_of, count

TERMS: dict[Any, Callable[..., int]] = {
    **dict.fromkeys((aten.sum.default, aten.sum.dim_IntList), lambda x, dim=None, *_, **__: count(x, dim)),
    **dict.fromkeys((aten.mm.default, aten.bmm.default, aten.mv.default, aten.dot.default), lambda a, _: a.shape[-1]),
    **dict.fromkeys((aten.addmm.default, aten.baddbmm.default), lambda _, a, *__, **___: a.shape[-1] + 1),
    aten.convolution.default: lambda x, w, *rest: terms_of_convolution(x.shape, w.shape, rest[4], rest[6]),
}
"""Of how many terms each result is the sum, by the function's own arguments."""
ADDITIONS = {aten.add.Tensor, aten.sub.Tensor}


def _sum_of(a: Tensor, b: Tensor) -> Tensor:
    return a + b


def _power_of(a: Tensor, exponent: float) -> Tensor:
    return a**exponent if exponent > 0 else torch.zeros_like(a)  # a negative one is no polynomial


def _chosen_of(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(condition.bool(), a, b)


def _largest_of(*sizes: Tensor | None, **_: float) -> Tensor:
    """Of what may have been chosen; a limit that is given by name counts by the result's own size."""
    return reduce(torch.maximum, [size for size in sizes if size is not None])


def _sum_of_three(a: Tensor, b: Tensor, c: Tensor, *, value: float = 1) -> Tensor:
    return a + b * c * abs(value)


def _product_and_sum(c: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return abs(beta) * c + abs(alpha) * (a @ b)


def _deviation_of(a: Tensor, dim: Axes = None, correction: float | None = None, keepdim: bool = False) -> Tensor:
    """Of (x − mean)², of which a variance is the mean."""
    axes = axes_of(a, dim)
    terms = (a + a.mean(axes, keepdim=True)).square().sum(axes, keepdim)
    return terms / max(count(a, dim) - (1 if correction is None else correction), 1)


CHOICES = {
    *(aten.maximum.default, aten.minimum.default, aten.relu.default, aten.clamp.default, aten.clamp.Tensor),
    *(aten.clamp_min.default, aten.clamp_min.Tensor, aten.clamp_max.default, aten.clamp_max.Tensor),
}
"""Of which the result is one of the operands, or 0."""

MAGNITUDES: dict[Any, Callable[..., Tensor]] = {
    **dict.fromkeys(CHOICES, _largest_of),
    **dict.fromkeys((aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor), _sum_of),
    **dict.fromkeys((aten.rsub.Scalar, aten.rsub.Tensor), _sum_of),
    aten.mul.Scalar: torch.mul,
    aten.pow.Tensor_Scalar: _power_of,
    aten.where.self: _chosen_of,
    **dict.fromkeys((aten.masked_fill.Scalar, aten.masked_fill.Tensor), lambda a, mask, v: _chosen_of(mask, v, a)),
    aten.addcmul.default: _sum_of_three,
    **dict.fromkeys((aten.addmm.default, aten.baddbmm.default), _product_and_sum),
    **dict.fromkeys((aten.mm.default, aten.bmm.default, aten.mv.default, aten.dot.default), torch.matmul),
    aten.var.correction: _deviation_of,
    **{
        same: same
        for same in (
            *(aten.mul.Tensor, aten.div.Tensor, aten.neg.default, aten.abs.default),
            *(aten.sum.default, aten.sum.dim_IntList, aten.mean.default, aten.mean.dim),
            *(aten.cumsum.default, aten.convolution.default),
            *(aten.index_add.default, aten.scatter_add.default, aten.index_put.default),
            *(aten.prod.default, aten.prod.dim_int, aten.cumprod.default),
        )
    },
}
"""What the terms of an expanded result add up to, from what those of its operands do; never less than its own size,
which holds for every function that is not here."""
DIVISIONS = {aten.div.Tensor}
