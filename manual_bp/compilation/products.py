"""Matrix products inside a compiled program: which library multiplies, and what it is asked to add.

Inductor calls oneDNN's linear operation only for weights that are constants, which it can pack once.  In a training
step every weight changes; here the operation is called on plain, also transposed, tensors, and packs them itself.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import torch

aten = torch.ops.aten
prims = torch.ops.prims
Node = Any  # torch.fx.Node; mypy cannot know the types of its arguments


class Product(NamedTuple):
    """A matrix product (m, k) (k, n), and which of its factors lie transposed in memory."""

    m: int
    n: int
    k: int
    left_transposed: bool
    right_transposed: bool

    @property
    def multiply_adds(self) -> int:
        return self.m * self.n * self.k


def products(graph: torch.fx.Graph) -> Iterator[Product]:
    """The products of a traced graph whose sizes are known."""
    return (product for node in graph.nodes if (product := product_of(node)) is not None)


def product_of(node: Node) -> Product | None:
    """What a node multiplies; None if it is no product of a matrix with a matrix, or with rows along several axes,
    (batch, positions, features), which are one axis when it is compiled."""
    if node.target not in (aten.mm.default, aten.addmm.default, aten.matmul.default):
        return None
    left, right = (factor.meta["val"] for factor in node.args[-2:])
    if left.ndim < 2 or right.ndim != 2 or (left.ndim > 2 and not left.is_contiguous()):
        return None
    # A factor of one row or column lies both ways.
    transposed = (not left.is_contiguous(), not right.is_contiguous())
    return Product(math.prod(map(int, left.shape[:-1])), int(right.shape[1]), int(left.shape[-1]), *transposed)


def separate_biases(graph: torch.fx.Graph) -> None:
    """x Wᵀ + b as two operations.

    BLAS adds b by filling the result with copies of it first; the activation behind it reads the result anyway, and
    inductor lets it add b on the way.
    """
    for node in list(graph.nodes):
        if node.target is aten.addmm.default and not node.kwargs and node.args[0].meta["val"].ndim == 1:
            bias, left, right = node.args
            with graph.inserting_before(node):
                product = graph.call_function(aten.mm.default, (left, right))
                product.meta.update(node.meta)
                sum_ = graph.call_function(aten.add.Tensor, (product, bias))
                sum_.meta.update(node.meta)
            node.replace_all_uses_with(sum_)
            graph.erase_node(node)


def by_onednn(graph: torch.fx.Graph, chosen: Collection[Product]) -> None:
    """Gives the chosen products to oneDNN.  It adds a bias by itself; what else is added is another operation."""
    for node in list(graph.nodes):
        if product_of(node) not in chosen or node.kwargs:
            continue
        *added, x, w = node.args
        bias = added[0] if added and added[0].meta["val"].ndim == 1 else None
        with graph.inserting_before(node):
            weight = graph.call_function(aten.permute.default, (w, [1, 0]))
            weight.meta["val"] = w.meta["val"].permute(1, 0)
            new = graph.call_function(onednn_linear, (x, weight, bias))
            new.meta.update(node.meta)
            if added and bias is None:
                new = graph.call_function(aten.add.Tensor, (new, added[0]))
                new.meta.update(node.meta)
        node.replace_all_uses_with(new)
        graph.erase_node(node)


def by_tensor_cores(graph: torch.fx.Graph) -> None:
    """On a GPU, products of 16-bit numbers as such, and not of the float32 that they were widened to.

    Tensor cores multiply them exactly and add up in float32, so the result is the same sum of the same terms.
    """
    for node in list(graph.nodes):
        if node.target is not aten.mm.default or not node.meta["val"].is_cuda:
            continue
        left, right = (_widened(factor) for factor in node.args)
        if left is None or right is None or left.meta["val"].dtype != right.meta["val"].dtype:
            continue
        with graph.inserting_before(node):
            factors = [_as(factor, of) for factor, of in zip(node.args, (left, right), strict=True)]
            new = graph.call_function(aten.mm.dtype, tuple(factors), {"out_dtype": torch.float32})
        new.meta.update(node.meta)
        node.replace_all_uses_with(new)
        graph.erase_node(node)
    graph.eliminate_dead_code()


def _widened(factor: Node) -> Node | None:
    """The 16-bit matrix that a factor, transposed or not, is in float32; None if it is none."""
    if factor.target is aten.permute.default:
        factor = factor.args[0]
    if factor.target is not prims.convert_element_type.default or factor.meta["val"].dtype is not torch.float32:
        return None
    (narrow, _) = factor.args
    return narrow if narrow.meta["val"].dtype in (torch.float16, torch.bfloat16) else None


def _as(factor: Node, narrow: Node) -> Node:
    """`narrow`, transposed if the factor is."""
    if factor.target is not aten.permute.default:
        return narrow
    transposed = factor.graph.call_function(aten.permute.default, (narrow, factor.args[1]))
    transposed.meta["val"] = narrow.meta["val"].permute(factor.args[1])
    return transposed


def onednn_linear(x: Any, weight: Any, bias: Any) -> Any:
    """x weightᵀ + bias as inductor's node for oneDNN's operation, whose weight may have any strides.

    An x that lies transposed, as δ does in the gradient of a weight, is copied here: the operation would do so element
    by element, and δᵀ x of 512 x 2048 x 128 took 2.7 ms, of which the product is 1.2 (one thread of a Zen 5).
    """
    from torch._inductor.ir import FixedLayout, TensorBox
    from torch._inductor.mkldnn_ir import LinearUnary

    whole = LinearUnary.require_contiguous(x)
    operands = [LinearUnary.realize_input(t) for t in (whole, weight, bias) if t is not None]
    size = [x.get_size()[0], weight.get_size()[0]]
    layout = FixedLayout(device=x.get_device(), dtype=x.get_dtype(), size=size)
    nothing_fused = ["none", [-1], ""]
    constants = nothing_fused if bias is not None else [None, *nothing_fused]
    return TensorBox.create(LinearUnary(layout=layout, inputs=operands, constant_args=constants))


onednn_linear._inductor_lowering_function = True  # type: ignore[attr-defined]  # how inductor knows a lowering
