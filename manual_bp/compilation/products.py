"""Matrix products by oneDNN inside a compiled program.

Inductor calls oneDNN's linear operation only for weights that are constants, which it can pack once.  In a training
step every weight changes; here the operation is called on plain, also transposed, tensors, and packs them itself.
"""

from __future__ import annotations

from typing import Any

import torch

aten = torch.ops.aten


def multiply_adds(graph: torch.fx.Graph) -> list[int]:
    """Multiply-adds of every matrix product in a traced graph whose sizes are known."""
    found = []
    for node in graph.nodes:
        operands = {aten.mm.default: 0, aten.addmm.default: 1, aten.linear.default: 0, aten.matmul.default: 0}
        if node.target in operands:
            first, y = node.args[operands[node.target]].meta["val"], node.meta["val"]
            found.append(int(y.numel()) * int(first.shape[-1]))
    return found


def by_onednn(least: int) -> Any:
    """A pass over inductor's graph that gives products of at least `least` multiply-adds to oneDNN."""

    def replace(graph: torch.fx.Graph) -> None:
        graph.eliminate_dead_code()
        for node in list(graph.nodes):
            if node.target is aten.mm.default:
                added, (x, w) = None, node.args
            elif node.target is aten.addmm.default and not node.kwargs:
                added, x, w = node.args
            else:
                continue
            x_value, value = x.meta["val"], node.meta["val"]
            if int(value.numel()) * int(x_value.shape[-1]) < least:
                continue
            bias = added if added is not None and added.meta["val"].ndim == 1 else None
            with graph.inserting_before(node):
                weight = graph.call_function(aten.permute.default, (w, [1, 0]))
                weight.meta["val"] = w.meta["val"].permute(1, 0)
                new = graph.call_function(onednn_linear, (x, weight, bias))
                new.meta.update(node.meta)
                if added is not None and bias is None:
                    new = graph.call_function(aten.add.Tensor, (new, added))
                    new.meta.update(node.meta)
            node.replace_all_uses_with(new)
            graph.erase_node(node)

    return replace


def onednn_linear(x: Any, weight: Any, bias: Any) -> Any:
    """x weightᵀ + bias as inductor's node for oneDNN's operation, whose operands may have any strides."""
    from torch._inductor.ir import FixedLayout, TensorBox
    from torch._inductor.mkldnn_ir import LinearUnary

    operands = [LinearUnary.realize_input(t) for t in (x, weight, bias) if t is not None]
    size = [x.get_size()[0], weight.get_size()[0]]
    layout = FixedLayout(device=x.get_device(), dtype=x.get_dtype(), size=size)
    nothing_fused = ["none", [-1], ""]
    constants = nothing_fused if bias is not None else [None, *nothing_fused]
    return TensorBox.create(LinearUnary(layout=layout, inputs=operands, constant_args=constants))


onednn_linear._inductor_lowering_function = True  # type: ignore[attr-defined]  # how inductor knows a lowering
