"""What runs along an axis, stands in order, or goes to places."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor


def running_largest(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The largest so far, and where it was: the last of equals."""
    if not x.ndim:
        return x * 1.0, torch.zeros((), dtype=torch.int64)
    line = x.movedim(dim, -1)
    n = line.shape[-1]
    later = torch.ones(n, n, dtype=torch.bool).triu(1)
    values, which = line[..., None, :].masked_fill(later, -math.inf).flip(-1).max(-1)
    return values.movedim(-1, dim), (n - 1 - which).movedim(-1, dim)


def running_smallest(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    values, indices = running_largest(-x, dim)
    return -values, indices


def logcumsumexp(x: Tensor, dim: int) -> Tensor:
    """As torch has it, from place to place: each is rounded anew."""
    if not x.ndim or not x.shape[dim]:
        return x * 1.0
    first, *others = x.unbind(dim)
    return torch.stack([*accumulate(others, torch.logaddexp, initial=first)], dim)


def kth(x: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    if not x.ndim:
        return x * 1.0, torch.zeros((), dtype=torch.int64)
    values, indices = (each.narrow(dim, k - 1, 1) for each in x.sort(dim=dim, stable=True))
    return (values, indices) if keepdim else (values.squeeze(dim), indices.squeeze(dim))


def median(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The lower one of two."""
    return kth(x, (x.shape[dim] + 1) // 2 if x.ndim else 1, dim, keepdim)


def median_of_all(x: Tensor) -> Tensor:
    return median(x.flatten(), 0)[0]


def nanmedian(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """Of what is a number: NaN comes last in order."""
    if not x.ndim:
        return x * 1.0, torch.zeros((), dtype=torch.int64)
    values, indices = x.sort(dim=dim, stable=True)
    middle = ((~x.isnan()).sum(dim, keepdim=True) - 1).clamp(min=0) // 2
    values, indices = values.gather(dim, middle), indices.gather(dim, middle)
    return (values, indices) if keepdim else (values.squeeze(dim), indices.squeeze(dim))


def mode(x: Tensor, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The smallest of those that come most often, and where it stands last."""
    if not x.ndim:
        return x * 1.0, torch.zeros((), dtype=torch.int64)
    line = x.transpose(dim, -1)
    count = (line.unsqueeze(-1) == line.unsqueeze(-2)).sum(-1)
    often = torch.where(count == count.amax(-1, keepdim=True), line, math.inf)
    indices = (x.shape[dim] - 1 - often.flip(-1).argmin(-1, keepdim=True)).transpose(dim, -1)
    values = x.gather(dim, indices)
    return (values, indices) if keepdim else (values.squeeze(dim), indices.squeeze(dim))


def scatter_reduce(
    x: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """At each place what all that goes there is reduced to, and itself."""
    inside = source[tuple(slice(length) for length in index.shape)]
    places = torch.arange(x.numel()).reshape(x.shape).gather(dim, index)
    return _reduced(x, places, inside, reduce, include_self)


def index_reduce(
    x: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    places = torch.arange(x.numel()).reshape(x.shape).index_select(dim, index)
    return _reduced(x, places, source, reduce, include_self)


def _reduced(x: Tensor, places: Tensor, source: Tensor, reduce: str, include_self: bool) -> Tensor:
    """places: of each element of the source, among those of x one after the other."""
    own, coming, places = x.flatten(), source.flatten(), places.flatten()
    goes = places == torch.arange(x.numel())[:, None]  # (places, sources)
    count = goes.sum(1)
    kept = torch.full_like(count, include_self, dtype=torch.bool) | (count == 0)
    if reduce in ("sum", "mean"):
        total = own.masked_fill(~kept, 0.0).index_add(0, places, coming)
        found = total / (count + kept).to(x.dtype) if reduce == "mean" else total
        return found.reshape(x.shape)
    neutral = {"prod": 1.0, "amax": -math.inf, "amin": math.inf}[reduce]
    each = torch.cat((own[:, None], coming.expand(goes.shape)), 1)
    each = each.masked_fill(~torch.cat((kept[:, None], goes), 1), neutral)
    return {"prod": each.prod, "amax": each.amax, "amin": each.amin}[reduce](1).reshape(x.shape)  # type: ignore[operator, no-any-return]


def put(x: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Tensor:
    flat = x.flatten().index_put((index.flatten(),), source.flatten(), accumulate)
    return flat.reshape(x.shape)


def masked_scatter(x: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """Where the mask holds, the next element of the source."""
    mask = mask.expand(x.shape)
    return torch.where(mask, source.flatten()[_numbers(mask)].reshape(x.shape), x)


def masked_scatter_backward(dy: Tensor, mask: Tensor, sizes: Sequence[int]) -> Tensor:
    due = torch.where(mask.expand(dy.shape), dy, 0.0).flatten()
    return (
        torch.zeros(math.prod(sizes), dtype=dy.dtype).index_add(0, _numbers(mask.expand(dy.shape)), due).reshape(sizes)
    )


def _numbers(mask: Tensor) -> Tensor:
    """Of each element where a mask holds, how many such come before it."""
    return (mask.flatten().long().cumsum(0) - 1).clamp(min=0)
