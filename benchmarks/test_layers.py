"""Layers of everyday sizes: ours, compiled, beside torch's own."""

from __future__ import annotations

import pytest
import torch

from benchmarks.contestants.torch_steps import not_compiled
from benchmarks.layers import LAYERS, Layer
from benchmarks.paired import Contestant, measure
from benchmarks.rows import timed_row
from benchmarks.rules import manual_compiled, manual_eager, torch_compiled, torch_eager

OURS = "manual, compiled"


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.row)
def test_layer(layer: Layer, device: str, timing, report) -> None:
    if device != "cpu":
        pytest.skip("recurrences are one loop on the CPU alone; on a GPU these layers were not measured")
    problem = layer.problem()
    runs = {
        "manual, eager": manual_eager(problem),
        OURS: manual_compiled(problem),
        "torch, eager": torch_eager(problem),
    }
    missing = {}
    if why_not := not_compiled():
        missing["torch.compile"] = why_not
    else:
        runs["torch.compile"] = torch_compiled(problem)
    for name, run in runs.items():
        problem.check(name, run)
    timings = measure([Contestant(name, run) for name, run in runs.items()], **timing)
    families = {"torch": ["torch, eager", "torch.compile"], "eager": ["torch, eager"]}
    targets = {"torch": layer.target}
    about = {"device": device, "precision": "float32", "rule": problem.rule.name}
    report(timed_row("layers", problem.row, timings, OURS, families, targets, missing, **about), runs[OURS])
    torch.compiler.reset()
