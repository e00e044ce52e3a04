"""Updates folded into matrix products.

The gradient of a weight is a matrix product, and plain gradient descent adds it to the weight that it belongs to:

    W ← W − lr (δᵀ x + λ W)  =  (1 − lr λ) W − lr δᵀ x

which BLAS and oneDNN do in one call, `C ← β C + α A B`, with W for C.  So the gradient is never stored, and W is read
and written once.  An autograd engine cannot do so: its gradients exist before the optimiser sees them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from manual_bp.compilation import onednn

aten = torch.ops.aten
Node = Any  # torch.fx.Node; mypy cannot know the types of its arguments


class Update(NamedTuple):
    """of_weight · weight + of_product · product."""

    weight: Node
    product: Node
    of_weight: float
    of_product: float


def fold(graph: torch.fx.Graph, by_onednn: Callable[[Node], bool]) -> None:
    """Rewrites every new value of an input, copied into it or returned, that is an `Update` of it.

    by_onednn: whether a product goes to oneDNN, which adds to what is there: a new value that is returned is left.
    """
    for node in list(graph.nodes):
        if node.target is aten.copy_.default:
            old, new = node.args
            found = _update(new)
            if found and found.weight is old:
                factors = found.product.args[-2:]
                with graph.inserting_before(node):
                    numbers = (found.of_weight, found.of_product)
                    graph.call_function(add_product, (old, *factors, *numbers, by_onednn(found.product)))
                graph.erase_node(node)
    (output,) = (node for node in graph.nodes if node.op == "output")
    for new in list(output.all_input_nodes):
        if (found := _update(new)) and not by_onednn(found.product):
            with graph.inserting_before(new):
                scales: dict[str, Any] = {"beta": found.of_weight, "alpha": found.of_product}
                folded = graph.call_function(aten.addmm.default, (found.weight, *found.product.args[-2:]), scales)
                folded.meta.update(new.meta)
            new.replace_all_uses_with(folded)
    graph.eliminate_dead_code()


def _update(value: Node) -> Update | None:
    """`value` as an `Update` of an input of the graph, or None if it is something else."""
    terms = _terms(value, 1.0)
    if terms is None:
        return None
    products = {node: factor for node, factor in terms if node.op != "placeholder"}
    weights = {node for node, _ in terms if node.op == "placeholder"}
    if len(products) != 1 or len(weights) != 1 or len(terms) < 2:
        return None
    ((product, of_product),) = products.items()
    (weight,) = weights
    if weight.meta["val"].shape != product.meta["val"].shape:
        return None
    return Update(weight, product, sum(factor for node, factor in terms if node is weight), of_product)


def _terms(value: Any, factor: float) -> list[tuple[Node, float]] | None:
    """`factor` times `value` as a sum of inputs of the graph and one product, each with its factor; None if it is no
    such sum.  What somebody else uses too must be computed in any case, so it is no term.
    """
    if not isinstance(value, torch.fx.Node):
        return None
    if value.op == "placeholder":
        return [(value, factor)]
    if len(value.users) != 1:
        return None
    match value.target, value.args:
        case aten.mm.default, _:
            return [(value, factor)]
        case aten.addmm.default, [added, _, _] if not value.kwargs:
            before = _terms(added, factor)
            return None if before is None else [*before, (value, factor)]
        case aten.mul.Tensor, [scaled, float() | int() as number]:
            return _terms(scaled, factor * number)
        case ((aten.add.Tensor | aten.sub.Tensor), [first, second]) if not value.kwargs:
            sign = 1.0 if value.target is aten.add.Tensor else -1.0
            one, other = _terms(first, factor), _terms(second, sign * factor)
            return None if one is None or other is None else [*one, *other]
    return None


def add_product(weight: Any, left: Any, right: Any, of_weight: float, of_product: float, by_onednn: bool) -> None:
    """weight ← of_weight · weight + of_product · left right, in place, as inductor's node for BLAS's or oneDNN's own
    call."""
    from torch._inductor.ir import ExternKernel

    operands = [ExternKernel.realize_input(t) for t in (weight, left, right)]
    _in_place()(operands, of_weight, of_product, by_onednn)


add_product._inductor_lowering_function = True  # type: ignore[attr-defined]  # how inductor knows a lowering
torch.fx.node.has_side_effect(add_product)  # else it would be removed, as nobody uses its result


def _in_place() -> Any:
    """The class of inductor's node, made when inductor is there."""
    from torch._inductor.ir import ExternKernel, NoneLayout
    from torch._inductor.virtualized import V

    class AddProduct(ExternKernel):
        def __init__(self, operands: list[Any], of_weight: float, of_product: float, by_onednn: bool) -> None:
            layout = NoneLayout(device=operands[0].get_device())
            super().__init__(None, layout, self.unwrap_storage(operands), (of_weight, of_product))
            self._by_onednn = by_onednn
            V.graph.mark_buffer_mutated(operands[0].get_name())
            self.name = V.graph.register_buffer(self)
            V.graph.register_operation(self)

        def codegen(self, wrapper: Any) -> None:
            operands: Any = self.inputs
            weight, left, right = (t.codegen_reference() for t in operands)
            beta, alpha = self.constant_args
            if self._by_onednn:
                onednn.call(wrapper, weight, left, right, beta, alpha)
            elif V.graph.cpp_wrapper:
                arguments = [weight, weight, left, right, repr(beta), repr(alpha)]
                wrapper.generate_c_shim_extern_kernel_call("at::addmm_out", arguments, "cpu")
            else:
                factors = f"beta={beta}, alpha={alpha}"
                wrapper.writeline(f"extern_kernels.addmm({weight}, {left}, {right}, {factors}, out={weight})")

        def should_allocate(self) -> bool:
            return False

        def get_mutation_names(self) -> list[str]:
            return [self.input_name(0)]

        def get_unbacked_symbol_defs(self) -> Any:
            from torch.utils._ordered_set import OrderedSet

            return OrderedSet()

    return AddProduct
