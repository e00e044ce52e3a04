"""Heads of queries in groups, each of which shares a head of keys: their products, and which keys they may look at."""

import math

import torch
from torch import Tensor


def by_group(x: Tensor, heads: tuple[int, int]) -> Tensor:
    """(..., kv_heads, group, rows, ·) from (..., kv_heads·group, rows, ·)."""
    return x.reshape(*x.shape[:-3], *heads, *x.shape[-2:])


def all_heads(x: Tensor) -> Tensor:
    """(..., kv_heads·group, rows, ·) from (..., kv_heads, group, rows, ·)."""
    return x.flatten(-4, -3)


def for_group(a: Tensor, b: Tensor) -> Tensor:
    """a b, where the heads of a group share b: to b they are more rows."""
    return (a.flatten(-3, -2) @ b).reshape(*a.shape[:-1], b.shape[-1])


def over_group(a: Tensor, b: Tensor) -> Tensor:
    """aᵀ b, a sum over the rows of all heads of a group."""
    return a.flatten(-3, -2).mT @ b.flatten(-3, -2)


def default_scale(q: Tensor) -> float:
    """1/√width; where there is no width, scores are 0 and any number will do."""
    return 1 / math.sqrt(max(q.shape[-1], 1))


def largest(s: Tensor) -> Tensor:
    """The largest score of each row; −∞ where there is none."""
    s = s.detach()  # a choice between equal ones changes nothing
    return torch.amax(s, -1, keepdim=True) if s.shape[-1] else s.new_full((*s.shape[:-1], 1), -torch.inf)


def keys_ahead(queries: int, keys: int, alignment: str) -> int:
    """How many more keys than its own number the first query may see under causal."""
    return keys - queries if alignment == "bottom-right" else 0


def not_later(query: Tensor, keys: int, ahead: int) -> Tensor:
    """Whether a key is not later than a query."""
    return torch.arange(keys, device=query.device) <= query[:, None] + ahead
