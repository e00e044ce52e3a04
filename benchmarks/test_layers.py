"""Layers of everyday sizes, and steps of networks of images, time and peak memory: ours, compiled, beside torch's own.

A network's contestants are judged twice: a small one's step within its allowance, and that of the network as it is
timed; with `--quick`, which does small layers and images alone, only as it is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from benchmarks.contestants.torch_steps import not_compiled
from benchmarks.images import PROBLEMS, TINY, ImageProblem, Judge, Torchs, start_of
from benchmarks.layers import LAYERS, UNROLLED, Layer
from benchmarks.memory import peak_bytes, peak_on_cpu
from benchmarks.networks import NetworkJudge, Ours
from benchmarks.paired import Contestant, measure
from benchmarks.rows import counted_row, timed_row
from benchmarks.rules import RuleProblem, Run, manual_compiled, torch_compiled, torch_eager
from benchmarks.steps import timed

OURS = "manual, compiled"


def skip_unless_asked(layer: Layer, device: str, quick: bool) -> None:
    if device != "cpu":
        pytest.skip("recurrences are one loop on the CPU alone; on a GPU these layers were not measured")
    if quick and not layer.small:
        pytest.skip("--quick: small layers only")


def programs(layer: Layer) -> tuple[dict[str, Callable[[RuleProblem], Run]], dict[str, str]]:
    """By name, what makes a contestant for a problem; and who cannot take part, and why."""
    found = {OURS: manual_compiled, "torch, eager": torch_eager}
    if why_not := UNROLLED.get(layer.name) or not_compiled():
        return found, {"torch.compile": why_not}
    return {**found, "torch.compile": torch_compiled}, {}


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.row)
def test_layer(layer: Layer, device: str, quick: bool, timing, report) -> None:
    skip_unless_asked(layer, device, quick)
    problem = layer.problem()
    found, missing = programs(layer)
    runs = {name: build(problem) for name, build in found.items()}
    for name, run in runs.items():
        problem.check(name, run)
    timings = measure([Contestant(name, run) for name, run in runs.items()], **timing)
    families = {"torch": ["torch, eager", "torch.compile"], "eager": ["torch, eager"]}
    targets = {"torch": layer.target}
    about = {"device": device, "precision": "float32", "rule": problem.rule.name}
    report(timed_row("layers", problem.row, timings, OURS, families, targets, missing, **about), runs[OURS])
    torch.compiler.reset()


@pytest.mark.parametrize("layer", [each for each in LAYERS if each.memory], ids=lambda layer: layer.row)
def test_peak_memory_of_a_layer(layer: Layer, device: str, quick: bool, report) -> None:
    """Of a call, with its results and without its inputs."""
    skip_unless_asked(layer, device, quick)
    problem = layer.problem()
    found, missing = programs(layer)
    values = {}
    for name, build in found.items():
        values[name] = float(peak_on_cpu(partial(build, problem)))
        torch.compiler.reset()
    families, row = {"torch": [name for name in values if name != OURS]}, f"{layer.row}, peak memory"
    about = {"device": device, "precision": "float32", "rule": layer.name}
    report(counted_row("layers", row, values, "bytes", OURS, families, {"torch": layer.memory}, missing, **about), None)


def of_images() -> tuple[dict[str, Callable[..., Any]], dict[str, str]]:
    """By name, what makes a contestant for a problem; and who cannot take part, and why.

    Of torch with channels last, where it is faster on the CPU; and eager as most programs have it.
    """
    found: dict[str, Callable[..., Any]] = {
        OURS: partial(Ours, OURS, compiled=True, donate=True),
        "torch, eager": partial(Torchs, "torch, eager"),
        "torch, eager, channels last": partial(Torchs, "torch, eager, channels last", side_by_side=True),
    }
    if why_not := not_compiled():
        return found, {"torch.compile": why_not}
    found["torch.compile"] = partial(Torchs, "torch.compile", side_by_side=True, compiled=True)
    return found, {}


def skip_if_large(problem: ImageProblem, quick: bool) -> None:
    if quick and problem.length > 8:
        pytest.skip("--quick: small images only")


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.row)
def test_step_of_images(problem, device, quick, timing, report) -> None:
    skip_if_large(problem, quick)
    found, missing = of_images()
    if not quick:  # half of the compiled programs of the row are small ones
        small = TINY[problem.kind]
        judge = NetworkJudge(small, start_of(small, device))
        for build in found.values():
            judge.check(build(small))
            torch.compiler.reset()
    start = start_of(problem, device)
    at_size = Judge(problem, start)
    contestants = []
    for build in found.values():
        contestants.append(build(problem))
        at_size.check(contestants[-1])
        contestants[-1].load(start)
    timings = measure([timed(c) for c in contestants], **timing)
    families = {"torch": [n for n in found if n != OURS], "eager": ["torch, eager"]}
    about = {"device": device, "precision": "float32"}
    report(timed_row("images", problem.row, timings, OURS, families, problem.targets, missing, **about), contestants[0])


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.row)
def test_peak_memory_of_images(problem, device, quick, report) -> None:
    skip_if_large(problem, quick)
    found, missing = of_images()
    start, values = start_of(problem, device), {}
    for name, build in found.items():
        values[name] = float(peak_bytes(partial(build, problem), start))
        torch.compiler.reset()
    families, row = {"torch": [name for name in values if name != OURS]}, f"{problem.row}, peak memory"
    about = {"device": device, "precision": "float32"}
    report(
        counted_row("images", row, values, "bytes", OURS, families, {"torch": problem.memory}, missing, **about), None
    )
