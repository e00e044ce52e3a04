"""What is done to every traced graph before inductor makes code of it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from manual_bp.compilation.cache import text
from manual_bp.compilation.channels import once
from manual_bp.compilation.kept import can_keep, keep
from manual_bp.compilation.numbers import store_numbers
from manual_bp.compilation.products import Product, by_onednn, by_tensor_cores, product_of, separate_biases
from manual_bp.compilation.recomputation import recompute
from manual_bp.compilation.residuals import ask_outputs
from manual_bp.compilation.rows import images_first, in_parts
from manual_bp.compilation.stand_ins import lower, rewrite
from manual_bp.compilation.updates import fold

# Up to so many tensors are read again, for the sake of a value, rather than the value stored.  The output of batch
# norm is made of six; by inductor's own limit of 4 it was kept for backward: 20 residual blocks of 256 held 12.8 MiB
# and not 10.4.  The rules took 0.97 to 1.04 of the time.
READS = 8

OPTIONS: dict[str, Any] = {"realize_reads_threshold": READS}
"""Of inductor, on every device."""


def passes(onednn: Collection[Product], keeps: bool = False) -> Any:
    """What inductor calls with a graph, which is rewritten in place.

    onednn: the products that go to oneDNN.
    keeps: whether the program keeps its memory, if it can.
    """
    from torch._inductor.custom_graph_pass import CustomGraphPass  # which takes seconds, so only who compiles waits

    lower()

    class Passes(CustomGraphPass):
        def __call__(self, graph: torch.fx.Graph) -> None:
            graph.eliminate_dead_code()
            fold(graph, by_onednn=lambda product: product_of(product) in onednn)
            by_onednn(graph, onednn)
            separate_biases(graph)
            rewrite(graph)
            by_tensor_cores(graph)
            images_first(graph)
            in_parts(graph)
            ask_outputs(graph)
            recompute(graph)
            store_numbers(graph)
            once(graph)
            if keeps and can_keep(graph):
                keep(graph)

        def uuid(self) -> str:
            """What inductor's own cache of programs depends on."""
            return f"{onednn!r}{keeps}{text()}"

    return Passes()
