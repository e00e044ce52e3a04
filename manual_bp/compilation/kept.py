"""Memory that a donated step keeps from one call to the next.

A transformer of 4 blocks of 128 made 19 500 page faults a step: every large tensor was asked of the system, which
clears its pages, and given back.  They were a fifth of the step's time (200 ms, one thread).  With kept.h around the
calls of its kernels a program holds its peak between its calls, as a CUDA graph does, and makes none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

HEADER = Path(__file__).with_name("kept.h")
LARGE = 2**15
"""Bytes.  What is smaller malloc has at hand, and in less time than this takes.  So must all results be, for they may
outlive the program, which owns its memory."""


def can_keep(graph: torch.fx.Graph) -> bool:
    """Whether a graph is a step, whose last result is the loss, and not the body of a loop in it; all results are
    small; and no image is convolved: torch allocates what convolutions return, and a peak was held beside them, 4.1 MiB
    where 3.3 were in use at once.  Without, steps of four networks took 1.00 to 1.02 of the time."""
    if any(node.target is torch.ops.aten.convolution.default for node in graph.nodes):
        return False
    (output,) = (node for node in graph.nodes if node.op == "output")
    results = [node.meta["val"] for node in output.all_input_nodes]
    return results[-1].ndim == 0 and all(result.nbytes < LARGE for result in results)


def keep(graph: torch.fx.Graph) -> None:
    """Has the program keep its memory."""
    with graph.inserting_before(next(node for node in graph.nodes if node.op != "placeholder")):
        graph.call_function(keep_memory)


def keep_memory() -> None:
    """As inductor's node, of which nothing is left but the text around it."""
    _node()()


keep_memory._inductor_lowering_function = True  # type: ignore[attr-defined]  # how inductor knows a lowering
torch.fx.node.has_side_effect(keep_memory)


def _node() -> Any:
    """The class of inductor's node, made when inductor is there."""
    from torch._inductor.ir import ExternKernel, NoneLayout
    from torch._inductor.virtualized import V

    class KeepMemory(ExternKernel):
        def __init__(self) -> None:
            super().__init__(None, NoneLayout(device=torch.device("cpu")), [])
            self.name = V.graph.register_buffer(self)
            V.graph.register_operation(self)

        def codegen(self, wrapper: Any) -> None:
            if V.graph.cpp_wrapper:
                wrapper.header.splice(f"#define MANUAL_BP_LARGE {LARGE}\n{HEADER.read_text()}")
                wrapper.writeline("kept::memory.begin();")

        def should_allocate(self) -> bool:
            return False

        def get_unbacked_symbol_defs(self) -> Any:
            from torch.utils._ordered_set import OrderedSet

            return OrderedSet()

        def has_side_effects(self) -> bool:
            return True

    return KeepMemory
