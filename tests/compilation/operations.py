"""Operations whose compiled code is tested by itself: a page that is made of these need not be compiled by default.

Inductor makes code of one operation after the other; where it was seen to go wrong, it was in one of them (its eˣ − 1
cancels near 0).  What a page adds is how they are put together, which is seen without a compiler.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cache

import torch
from torch import Tensor

from manual_bp.compilation import kernels, tracing
from manual_bp.compilation.rows import MANY, PARTS

INF, NAN = math.inf, math.nan

OF_ONE: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "expm1": torch.expm1,
    "log": torch.log,
    "log1p": torch.log1p,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "square": lambda x: x**2,
    "cube": lambda x: x**3,
    "reciprocal": torch.reciprocal,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "erf": torch.erf,
    "erfc": torch.erfc,
    "sin": torch.sin,
    "cos": torch.cos,
    "abs": torch.abs,
    "neg": torch.neg,
    "sign": torch.sign,
    "relu": torch.relu,
    "clamp": lambda x: torch.clamp(x, -1, 2),
    "round": torch.round,
    "isnan": torch.isnan,
    "isinf": torch.isinf,
    "of a mask": lambda x: (x > 0) & True,
}
OF_TWO: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "add scaled": lambda x, y: torch.add(x, y, alpha=0.5),
    "sub": torch.sub,
    "mul": torch.mul,
    "mul by a number": lambda x, y: 0.3 * x - y / 3 + 1,
    "div": torch.div,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "copysign": torch.copysign,
    "where": lambda x, y: torch.where(x > y, x, 0) + torch.where(x <= 0, 1.0, y),
    "comparisons": lambda x, y: (x < y) | (x >= y) & (x == 0) | ~(x != y) | (x <= y) | (y > 0) | (x < 1) | (x != 3),
    "equal": lambda x, y: x == y,
    "logical": lambda x, y: torch.logical_and(x > 0, torch.logical_or(y > 0, torch.logical_not(x > 1))),
}
"""Element by element."""
OF_ROWS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum of columns": lambda x, i: torch.sum(x, -1, keepdim=True),
    "mean of rows": lambda x, i: torch.mean(x, 0),
    "amax and argmax": lambda x, i: torch.amax(x, -1) + torch.argmax(x, -1),
    "gather": lambda x, i: torch.gather(x, 1, i[:, None]) + x[i],
    "remainder": lambda x, i: x[(i - 20) % 7] + (i - 20) % 7,
    "clone": lambda x, i: x.clone(memory_format=torch.contiguous_format),
    "index_add": lambda x, i: torch.zeros_like(x).index_add(0, i, x),
}
"""Of a matrix of whole numbers, (n, n), and an index of its rows: no order of summation rounds."""
OF_MANY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum over many rows": lambda rows, images: rows.sum(0),
    "sum of something computed over many rows": lambda rows, images: (rows * rows).sum(0, keepdim=True),
    "mean of many rows": lambda rows, images: rows.mean(0),
    "sum over images": lambda rows, images: images.sum((0, 2)),
    "sum of something computed over images": lambda rows, images: (images * images).sum((0, 2), keepdim=True),
}
"""Of a matrix and of images that are large enough for their sums to be cut into parts; whole numbers too."""


def numbers() -> tuple[Tensor, Tensor]:
    """Two vectors: over all magnitudes, around 0 and where functions saturate, and the special values by pairs."""
    magnitudes = torch.cat([torch.logspace(-37, 37, 149), torch.linspace(0.05, 20, 400), torch.linspace(80, 110, 61)])
    special = torch.tensor([0.0, -0.0, 1.0, -1.0, 3.0, INF, -INF, NAN, 1e-45, -1e-40])
    pairs = torch.cartesian_prod(special, special)
    x = torch.cat([magnitudes, -magnitudes, pairs[:, 0]])
    mixed = torch.cat([magnitudes, -magnitudes])[torch.randperm(2 * len(magnitudes), generator=_generator())]
    return x, torch.cat([mixed, pairs[:, 1]])


def rows(n: int = 37) -> tuple[Tensor, Tensor]:
    """A matrix of whole numbers, and an index of its rows with repeats; n is no multiple of a vector's length."""
    return whole_numbers(n, n), torch.randint(n // 2, (n,), generator=_generator())


def many() -> tuple[Tensor, Tensor]:
    """Rows of which some are left over at both levels of parts, and images."""
    n = PARTS * (3 * PARTS + 1) + 5
    return whole_numbers(n, MANY // n + 3), whole_numbers(MANY // (8 * 64), 8, 64)


def whole_numbers(*shape: int) -> Tensor:
    return torch.randint(-8, 9, shape, generator=_generator()).float()


def all_of_them(x: Tensor, y: Tensor, m: Tensor, i: Tensor, r: Tensor, p: Tensor) -> list[Tensor]:
    found = [f(x) for f in OF_ONE.values()] + [f(x, y) for f in OF_TWO.values()]
    return found + [f(m, i) for f in OF_ROWS.values()] + [f(r, p) for f in OF_MANY.values()]


def given() -> list[Tensor]:
    """What they are given."""
    return [*numbers(), *rows(), *many()]


@cache
def tested() -> frozenset[object]:
    """The operations in the graph of all of them."""
    graph = kernels.prepared(tracing.traced(all_of_them, given()))
    return frozenset(node.target for node in graph.graph.nodes if node.op == "call_function")


def untested(targets: Iterable[object]) -> set[object]:
    """Those of the operations that are functions of numbers, element by element, and are not among the tested."""
    overloads = {target for target in targets if isinstance(target, torch._ops.OpOverload)}
    return {target for target in overloads if torch.Tag.pointwise in target.tags} - tested()


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
