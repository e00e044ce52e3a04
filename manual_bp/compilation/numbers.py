"""Numbers that every element of a tensor is computed with.

Inductor computes what is cheap to it again where it is read, a power of float64 among it: Adam's 1 − βᵗ for every
vector of every parameter, and so the factor that shortens gradients.  Here such a number is stored.
"""

from __future__ import annotations

from typing import Any

import torch

aten = torch.ops.aten
Node = Any  # torch.fx.Node; mypy cannot know the types of its arguments


def store_numbers(graph: torch.fx.Graph) -> None:
    """Stores each number that is worked out in the graph and enters operations on tensors."""
    for node in list(graph.nodes):
        if not _is_number(node) or node.op == "placeholder" or node.target is aten.full.default:
            continue
        readers = [user for user in node.users if user.op != "output" and not _is_number(user)]
        if readers:
            with graph.inserting_after(node):
                new = graph.call_function(stored, (node,))
                new.meta.update(node.meta)
            for reader in readers:
                reader.replace_input_with(node, new)


def _is_number(node: Node) -> bool:
    found = node.meta.get("val")
    return isinstance(found, torch.Tensor) and found.ndim == 0


def stored(x: Any) -> Any:
    """x, in memory, as inductor's node."""
    x.realize()
    return x


stored._inductor_lowering_function = True  # type: ignore[attr-defined]  # how inductor knows a lowering
