"""Sums over the rows of large matrices, as the gradient of a bias and the statistics of a batch are, and over images.

Inductor's loop takes one vector of columns after the other and goes down all rows for each, so that every access is to
another page of memory.  Here the matrix is cut into PARTS of consecutive rows, which are added as whole matrices:

    (n, columns)  →  (n / PARTS, columns)  →  ...  →  (columns,)

Every part is read from its beginning to its end, in the order in which it lies in memory.
"""

from __future__ import annotations

import math
from functools import reduce
from typing import Any

import torch

aten = torch.ops.aten
Node = Any  # torch.fx.Node; mypy cannot know the types of its arguments

# Elements of a matrix from which on it is cut.  Measured with batch norm over 256 channels: at 2^18, which lies in a
# cache, the parts took 1.1 times as long as inductor's loop, at 2^20 0.8 times, and at 2^22 half as long.
MANY = 2**20
# So many streams the processor still fetches ahead: 16 were at least as fast as 8, and 32 three times as slow.
PARTS = 16
# Elements of an image from which on it is summed by itself: two vectors of AVX2 or one of AVX-512, in float32.
IMAGE = 16


def images_first(graph: torch.fx.Graph) -> None:
    """Sums and means over the batch and over images, (n, channels, space), are taken over each image first.

    That sum can be taken in the loop that makes the elements, and what is left is small.  The sum over both at once is
    another pass through memory, with a stride: batch norm's inference with 2^22 elements took twice as long.
    """
    for node in list(graph.nodes):
        if node.target in (aten.sum.dim_IntList, aten.mean.dim) and _is_over_images(node):
            x, shape = node.args[0], list(node.meta["val"].shape)
            with graph.inserting_before(node):
                each = _call(graph, node.target, x, [2], True)
                new = _call(graph, aten.view.default, _call(graph, node.target, each, [0], True), shape)
            node.replace_all_uses_with(new)
            graph.erase_node(node)


def in_parts(graph: torch.fx.Graph) -> None:
    """Gives the sums and means over the first axis of large matrices to `sum_of_rows`."""
    for node in list(graph.nodes):
        if node.target in (aten.sum.dim_IntList, aten.mean.dim) and _is_over_rows(node):
            x, shape = node.args[0], list(node.meta["val"].shape)
            share = 1 / len(x.meta["val"]) if node.target is aten.mean.dim else 1.0
            with graph.inserting_before(node):
                new = graph.call_function(sum_of_rows, (x, shape, share))
                new.meta.update(node.meta)
            node.replace_all_uses_with(new)
            graph.erase_node(node)


def _call(graph: torch.fx.Graph, target: Any, x: Node, *others: Any) -> Node:
    new = graph.call_function(target, (x, *others))
    new.meta["val"] = target(x.meta["val"], *others)
    return new


def _is_over_images(node: Node) -> bool:
    """Whether the first and last of three axes are summed over, and the last is long."""
    x, result = node.args[0].meta["val"], node.meta["val"]
    if not all(isinstance(n, int) for n in x.shape) or x.dtype != result.dtype or x.device.type != "cpu":
        return False
    dim = node.args[1] if len(node.args) > 1 else None
    over = sorted(axis % x.ndim for axis in dim or ())
    return x.ndim == 3 and over == [0, 2] and x.numel() >= MANY and x.shape[2] >= IMAGE


def _is_over_rows(node: Node) -> bool:
    """Whether the first axis is the only one summed over that holds more than one element."""
    x, result = node.args[0].meta["val"], node.meta["val"]
    if not all(isinstance(n, int) for n in x.shape) or x.dtype != result.dtype or x.device.type != "cpu":
        return False
    dim = node.args[1] if len(node.args) > 1 else None
    long = [axis % x.ndim for axis in dim or () if x.shape[axis] != 1]
    return long == [0] and x.numel() >= MANY and x.shape[0] >= 2 * PARTS


def sum_of_rows(x: Any, shape: list[int], share: float) -> Any:
    """`share` times the sum over the first axis, as inductor's nodes."""
    from torch._inductor.lowering import lowerings

    view, add, mul = (lowerings[op] for op in (aten.view.default, aten.add.Tensor, aten.mul.Tensor))

    def rows(x: Any, first: int, last: int) -> Any:
        return lowerings[aten.slice.Tensor](x, 0, first, last)

    n, *others = (int(size) for size in x.get_size())
    x, left_over = view(x, [n, math.prod(others)]), []
    while n >= 2 * PARTS:
        whole, n = n, n // PARTS
        left_over += [rows(x, i, i + 1) for i in range(PARTS * n, whole)]
        x = reduce(add, [rows(x, i * n, (i + 1) * n) for i in range(PARTS)])
        x.realize()
    total = reduce(add, [*(rows(x, i, i + 1) for i in range(n)), *left_over])
    total = view(mul(total, share), shape)
    total.realize()
    return total


sum_of_rows._inductor_lowering_function = True  # type: ignore[attr-defined]  # how inductor knows a lowering
