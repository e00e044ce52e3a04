"""How programs come to rows, and other ways to sum."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.oracle.third_bank.entry import Vjp


def rows(x: Tensor) -> Tensor:
    """(..., features) as (rows, features), with sizes of 0 too."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def on_last_axis(f: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Vjp:
    """A program along any axis from f(x, dy) -> y, dx along the last one; x may be a single number."""

    def along(inputs: tuple[Tensor], dy: Tensor, dim: int = -1) -> tuple[Tensor, tuple[Tensor]]:
        (x,) = inputs
        if x.ndim == 0:
            y, dx = f(x[None], dy[None])
            return y[0], (dx[0],)
        y, dx = f(x.movedim(dim, -1), dy.movedim(dim, -1))
        return y.movedim(-1, dim), (dx.movedim(-1, dim),)

    return along


def top(x: Tensor) -> Tensor:
    """The largest of each row, kept as an axis."""
    return x.amax(-1, keepdim=True) if x.shape[-1] else x.sum(-1, keepdim=True)


def total(x: Tensor) -> Tensor:
    return x.sum(-1, keepdim=True)


def total_in(width: int) -> Callable[[Tensor], Tensor]:
    """The sum of each row in blocks, then over the blocks."""

    def add(x: Tensor) -> Tensor:
        padded = torch.cat([x, x.new_zeros(*x.shape[:-1], -x.shape[-1] % width)], -1)
        return padded.reshape(*x.shape[:-1], padded.shape[-1] // width, width).sum(-1).sum(-1, keepdim=True)

    return add


def column_total_in(width: int) -> Callable[[Tensor], Tensor]:
    """The sum down the rows of a matrix in blocks of rows, then over the blocks."""

    def add(x: Tensor) -> Tensor:
        padded = torch.cat([x, x.new_zeros(-x.shape[0] % width, x.shape[1])])
        return padded.reshape(padded.shape[0] // width, width, x.shape[1]).sum(1).sum(0)

    return add


def in_order(terms: Tensor) -> Tensor:
    """Down the rows one after the other, rounded to the dtype of the terms each time."""
    summed = torch.zeros_like(terms[0]) if len(terms) else terms.sum(0)
    for row in terms:
        summed = summed + row
    return summed


def by_autograd(f: Callable[..., Tensor], cotangents: tuple[bool, ...]) -> Vjp:
    """torch.autograd as a program, for the inputs that have a cotangent."""

    def vjp(inputs: tuple[Any, ...], dy: Tensor, **hyper: Any) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        with torch.enable_grad():
            taken = tuple(
                x.detach().requires_grad_() if x is not None and has else x
                for x, has in zip(inputs, cotangents, strict=True)
            )
            y = f(*taken, **hyper)
            leaves = [x for x, has in zip(taken, cotangents, strict=True) if x is not None and has]
            found = iter(torch.autograd.grad(y, leaves, dy))
        grads = tuple(next(found) if x is not None and has else None for x, has in zip(taken, cotangents, strict=True))
        return y.detach(), grads

    return vjp
