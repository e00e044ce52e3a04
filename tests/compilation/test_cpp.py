"""Functions of our own in C++ are called before whoever reads what they fill, and by no inductor that may forget it."""

from __future__ import annotations

import pytest
import torch
from torch._guards import detect_fake_mode
from torch._inductor.debug import DebugContext
from torch._inductor.graph import GraphLowering
from torch._inductor.scheduler import SchedulerNode
from torch._inductor.virtualized import V

from manual_bp.compilation import cpp, kernels, taps, tracing
from manual_bp.compilation.inductor import NotCompiled


def scheduled(function, *example):
    """Inductor's nodes, in the order in which the program runs them."""
    graph = kernels.prepared(tracing.traced(function, example))
    taps.lower()
    given = [node.meta["val"] for node in graph.graph.nodes if node.op == "placeholder"]
    fakes = detect_fake_mode(given)
    lowered = GraphLowering(graph, shape_env=fakes.shape_env)
    with V.set_fake_mode(fakes), V.set_graph_handler(lowered), V.set_debug_handler(DebugContext()):
        lowered.run(*given)
        lowered._update_scheduler()
    return lowered.scheduler.nodes


def test_who_reads_what_it_fills_waits_for_it():
    """Also where loops are made anew to be fused, as an update's with whatever else reads the parameter."""

    def step(x, dy, weight, factor):
        gradient = taps.compared(x, dy, (3, 3), (1, 1), (1, 1), (1, 1))
        return weight * factor, weight - gradient

    shapes = ((2, 3, 5, 5), (2, 4, 5, 5), (4, 3, 3, 3), (4, 1, 1, 1))
    nodes = scheduled(step, *(torch.zeros(shape) for shape in shapes))
    (call,) = (node for node in nodes if node.is_extern())
    (update,) = (node for node in nodes if len(node.get_nodes()) > 1)  # the two results, fused
    (filled,) = call.get_outputs()
    assert filled.get_name() in {dep.name for dep in update.unmet_dependencies}
    assert nodes.index(call) < nodes.index(update)


def test_of_another_inductor_no_program_is_made(monkeypatch):
    monkeypatch.delattr(SchedulerNode, "recompute_size_and_body")
    with pytest.raises(NotCompiled, match=r"the order of C\+\+ cannot be kept: inductor has no SchedulerNode.rec"):
        cpp._keep_order.__wrapped__()
