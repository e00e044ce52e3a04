"""Residuals of a step: what is alive until backward, where inductor would keep more.

Inductor does not store which branch a ReLU took: it asks z > 0 again in backward, and so keeps z beside a = max(z, 0),
which the next layer's gradient needs.  a > 0 is the same answer, also at NaN, and z's memory is free at once.  (To
store the answer in a byte, as the page does, took twice as long: its vectors of bytes are slow.)
"""

from __future__ import annotations

from typing import Any

import torch

aten = torch.ops.aten
Node = Any  # torch.fx.Node; mypy cannot know the types of its arguments


def ask_outputs(graph: torch.fx.Graph) -> None:
    """Rewrites z > 0 to a > 0, where a is z with 0 in place of what is z ≤ 0."""
    place = {node: i for i, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if node.target is aten.gt.Scalar and node.args[1] == 0:
            z = node.args[0]
            a = next((user for user in z.users if _is_relu(user, z) and place[user] < place[node]), None)
            if a is not None:
                node.replace_input_with(z, a)


def _is_relu(node: Node, z: Node) -> bool:
    """Whether a node is where(z <= 0, 0, z)."""
    if node.target is not aten.where.self or node.args[2] is not z:
        return False
    condition, zero, _ = node.args
    is_zero = zero.target in (aten.full.default, aten.scalar_tensor.default) and 0 in zero.args
    return is_zero and condition.target is aten.le.Scalar and condition.args == (z, 0)
