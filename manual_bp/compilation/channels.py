"""What there is of each channel, as batch norm's statistics, beside images whose channels lie side by side.

Inductor computes what is small again for each number that it is used with.  Of planes that is nothing, for it does not
change along one; where the innermost loop goes through the channels, it is a square root and three divisions for each
number: batch norm and ReLU of (128, 32, 28, 28) took 12 ms so, and 5 ms with what is small computed once.
"""

from __future__ import annotations

from typing import Any

import torch

from manual_bp.compilation.numbers import stored

aten = torch.ops.aten

# How many numbers at least use a value that is computed once: a vector's would be computed at the same time.
MANY = 64


def once(graph: torch.fx.Graph) -> None:
    """Where images are convolved, has what enters them by channel computed once."""
    if not any(node.target is aten.convolution.default for node in graph.nodes):
        return
    made: dict[Any, Any] = {}
    for node in list(graph.nodes):
        if not _is_of_images(node):
            continue
        for small in node.all_input_nodes:
            if small.op != "call_function" or not _has_a_value(small) or not 1 < _numel(small) <= _numel(node) // MANY:
                continue
            if small not in made:
                with graph.inserting_after(small):
                    made[small] = graph.call_function(stored, (small,))
                made[small].meta.update(small.meta)
            node.replace_input_with(small, made[small])


def _is_of_images(node: Any) -> bool:
    """Whether a node makes each number of images from what it is given."""
    elementwise = isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags
    return elementwise and _has_a_value(node) and node.meta["val"].ndim == 4


def _has_a_value(node: Any) -> bool:
    return isinstance(node.meta.get("val"), torch.Tensor)


def _numel(node: Any) -> int:
    return int(node.meta["val"].numel())
