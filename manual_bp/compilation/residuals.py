"""Residuals of a step: what is kept for backward, where inductor would keep more.

Inductor computes a condition again where it is asked for, from the tensor that it is about.  So a ReLU, whose page
keeps one byte per element, would hold its input until backward, beside the output that the next layer keeps.
"""

from __future__ import annotations

from typing import Any

import torch

from manual_bp.compilation.products import product_of

Node = Any  # torch.fx.Node; mypy cannot know the types of its arguments


def keep_conditions(graph: torch.fx.Graph) -> None:
    """Stores every tensor of bool that could be had before a matrix product and is asked for behind it, as soon as it
    can be had."""
    place = {node: i for i, node in enumerate(graph.nodes)}
    products = [place[node] for node in graph.nodes if product_of(node) is not None]
    for node in list(graph.nodes):
        if node.op != "call_function" or getattr(node.meta.get("val"), "dtype", None) is not torch.bool:
            continue
        known = max(node.all_input_nodes, key=place.__getitem__, default=None)
        if known is None or known.op == "placeholder":
            continue
        following = next((i for i in products if i > place[known]), len(place))
        if all(place[user] < following for user in node.users):
            continue
        known.append(node)
        place[node] = place[known]
        with graph.inserting_after(node):
            kept = graph.call_function(stored, (node,))
        kept.meta.update(node.meta)
        node.replace_all_uses_with(kept, delete_user_cb=lambda user, kept=kept: user is not kept)
        place[kept] = place[known]


def stored(x: Any) -> Any:
    """`x` in memory, as inductor's node."""
    x.realize()
    return x


stored._inductor_lowering_function = True  # type: ignore[attr-defined]  # how inductor knows a lowering
