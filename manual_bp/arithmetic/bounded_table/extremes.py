"""The largest, the first in order: what is chosen among elements by their values.

The numbers of a program that are largest, second, ... may be others than those of the values; but each of these is a
monotone function of every element, so that it lies between what it is of all lower ends and of all upper ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from manual_bp.arithmetic.bounded_table.elementary import within
from manual_bp.arithmetic.bounded_table.formats import Pair, Precision
from manual_bp.arithmetic.bounded_table.meanings import arithmetic, aten, extreme


def _monotone(a: Pair, of: Callable[[Tensor], Tensor], dim: Sequence[int]) -> Pair:
    """of: a monotone function of elements that lie along the axes `dim`."""
    x, e = a[0], a[1].expand_as(a[0])
    value = of(x)
    most = e.amax(list(dim), keepdim=True) if dim or x.ndim == 0 else e.amax()
    most = most.expand_as(x)
    most = of(most)
    return value, within(value, of(x - e), of(x + e), most)


@arithmetic(aten.amax.default, operands=1)
def amax(_: Precision, a: Pair, dim: Sequence[int] = (), keepdim: bool = False) -> Pair:
    return _monotone(a, lambda x: x.amax(tuple(dim), keepdim), dim)


@arithmetic(aten.amin.default, operands=1)
def _amin(_: Precision, a: Pair, dim: Sequence[int] = (), keepdim: bool = False) -> Pair:
    return _monotone(a, lambda x: x.amin(tuple(dim), keepdim), dim)


@arithmetic(aten.max.default, operands=1)
def _max(p: Precision, a: Pair) -> Pair:
    return amax(p, a)


@arithmetic(aten.min.default, operands=1)
def _min(p: Precision, a: Pair) -> Pair:
    return _amin(p, a)


@extreme(aten.max.dim)
def _max_along(p: Precision, a: Pair, dim: int, keepdim: bool = False) -> tuple[Pair, Tensor]:
    return amax(p, a, [dim], keepdim), a[0].max(dim, keepdim).indices


@extreme(aten.min.dim)
def _min_along(p: Precision, a: Pair, dim: int, keepdim: bool = False) -> tuple[Pair, Tensor]:
    return _amin(p, a, [dim], keepdim), a[0].min(dim, keepdim).indices


@extreme(aten.sort.default)
def _sort(_: Precision, a: Pair, dim: int = -1, descending: bool = False) -> tuple[Pair, Tensor]:
    indices = a[0].sort(dim=dim, descending=descending, stable=True).indices
    return _monotone(a, lambda x: x.sort(dim=dim, descending=descending).values, [dim]), indices


@extreme(aten.sort.stable)
def _stable_sort(
    p: Precision, a: Pair, *, stable: bool | None = None, dim: int = -1, descending: bool = False
) -> tuple[Pair, Tensor]:
    return _sort(p, a, dim, descending)


@extreme(aten.topk.default)
def _topk(
    _: Precision, a: Pair, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[Pair, Tensor]:
    return _monotone(a, lambda x: x.topk(k, dim, largest).values, [dim]), a[0].topk(k, dim, largest).indices
