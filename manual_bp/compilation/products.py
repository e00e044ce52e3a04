"""Matrix products inside a compiled program: which library multiplies, and what it is asked to add.

Inductor calls oneDNN only for weights that are constants, which it can pack once.  In a training step every weight
changes; here oneDNN is called on plain, also transposed, matrices, and packs them itself.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import torch

from manual_bp.compilation import onednn

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
    """Gives the chosen products to oneDNN.  What is added to them is another operation."""
    for node in list(graph.nodes):
        if product_of(node) not in chosen or node.kwargs:
            continue
        *added, left, right = node.args
        with graph.inserting_before(node):
            new = graph.call_function(onednn_product, (left, right))
            new.meta.update(node.meta)
            if added:
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


def onednn_product(left: Any, right: Any) -> Any:
    """left right as inductor's node for oneDNN's product."""
    from torch._inductor.ir import ExternKernel, FixedLayout, TensorBox

    size = [left.get_size()[0], right.get_size()[1]]
    layout = FixedLayout(device=left.get_device(), dtype=left.get_dtype(), size=size)
    return TensorBox.create(_node()(layout, [ExternKernel.realize_input(factor) for factor in (left, right)]))


onednn_product._inductor_lowering_function = True  # type: ignore[attr-defined]  # how inductor knows a lowering


def _node() -> Any:
    """The class of inductor's node, made when inductor is there."""
    from torch._inductor.ir import ExternKernelOut

    class OnednnProduct(ExternKernelOut):
        def codegen(self, wrapper: Any) -> None:
            factors: Any = self.inputs
            left, right = (factor.codegen_reference() for factor in factors)
            onednn.call(wrapper, self.codegen_reference(), left, right, 0.0, 1.0)

    return OnednnProduct
