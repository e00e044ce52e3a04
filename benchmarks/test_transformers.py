"""Steps of a transformer, ours against torch's and the bare products; time and peak memory.

Every kind of contestant is judged at a small network first.  `--quick` does the smaller problem alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from benchmarks.contestants.torch_steps import not_compiled
from benchmarks.memory import peak_bytes
from benchmarks.networks import NetworkJudge, Ours
from benchmarks.paired import measure
from benchmarks.rows import counted_row, timed_row
from benchmarks.steps import timed
from benchmarks.transformers import PROBLEMS, TINY, BareProducts, Torchs, start_of
from manual_bp.compilation import onednn

OURS = "manual, compiled"
Build = Callable[..., Any]


def builders() -> tuple[dict[str, Build], dict[str, str]]:
    """By name, what makes a contestant for a problem; and who cannot take part, and why."""
    found: dict[str, Build] = {
        OURS: partial(Ours, OURS, compiled=True, donate=True),
        "torch, eager": partial(Torchs, "torch, eager"),
    }
    missing = {}
    if why_not := not_compiled():
        missing["torch.compile"] = why_not
    else:
        found["torch.compile"] = partial(Torchs, "torch.compile", compiled=True)
    if torch.get_num_threads() > 1:
        for name in [name for name in found if name != OURS]:
            one = f"{name}, 1 thread"
            found[one] = partial(Torchs, one, compiled="compile" in name, threads=1)
    return found, missing


@pytest.fixture(scope="module")
def judge(request: pytest.FixtureRequest) -> NetworkJudge:
    return NetworkJudge(TINY, start_of(TINY, request.config.getoption("--device")))


def skip_if_large(problem: Any, quick: bool) -> None:
    if quick and problem is not PROBLEMS[0]:
        pytest.skip("--quick: the small problem only")


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.row)
def test_step(problem, device, quick, judge, timing, report) -> None:
    skip_if_large(problem, quick)
    found, missing = builders()
    for build in found.values():
        judge.check(build(TINY))
        torch.compiler.reset()
    start = start_of(problem, device)
    contestants = [build(problem) for build in found.values()]
    for contestant in contestants:
        contestant.load(start)
    threads = [None, *([1] if device == "cpu" and torch.get_num_threads() > 1 else [])]
    libraries = [False, *([True] if device == "cpu" and onednn.function() is not None else [])]
    limits = [BareProducts(problem, onednn, n, device) for onednn in libraries for n in threads]
    timings = measure([timed(c) for c in (*contestants, *limits)], **timing)
    families = {"torch": [n for n in found if n != OURS], "eager": ["torch, eager"], "limit": [c.name for c in limits]}
    row = timed_row(
        "transformers",
        problem.row,
        timings,
        OURS,
        families,
        problem.targets,
        missing,
        device=device,
        precision="float32",
    )
    report(row, contestants[0])


@pytest.mark.parametrize("problem", [p for p in PROBLEMS if p.memory], ids=lambda p: p.row)
def test_peak_memory(problem, device, quick, report) -> None:
    skip_if_large(problem, quick)
    found, missing = builders()
    start = start_of(problem, device)
    values = {}
    for name, build in found.items():
        if "1 thread" not in name:  # which takes no less memory
            values[name] = float(peak_bytes(partial(build, problem), start))
            torch.compiler.reset()
    families = {"torch": [name for name in values if name != OURS]}
    targets = {"torch": problem.memory}
    row = f"{problem.row}, peak memory"
    report(
        counted_row(
            "transformers", row, values, "bytes", OURS, families, targets, missing, device=device, precision="float32"
        ),
        None,
    )
