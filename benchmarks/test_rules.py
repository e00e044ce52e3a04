"""Every rule, forward and backward: manual against torch, judged equal before either is timed.

One group a rule, one row an engine.  `ratio_to_torch` in extra_info is the median of ratios that were measured in turns
within one run, because times on a busy machine mean little by themselves.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pytest
import torch

import manual_bp as bp
from manual_bp.inputs import Edge
from manual_bp.oracle import Case, check
from manual_bp.oracle.cases import draw, large_sizes
from torch_ref import twin

ENGINES = ("manual", "torch")
# Rounds of the paired measurement: enough for a median that is good to a few per cent.
PAIRS = 15


def problem(name: str, device: str) -> tuple[tuple[torch.Tensor, ...], torch.Tensor, dict[str, object]]:
    """Large ordinary inputs in float32."""
    rule = bp.RULES[name]
    inputs, dy, hyper = draw(rule, Edge("large", sizes=large_sizes(rule)), torch.Generator().manual_seed(0))
    *cast, dy = (x.to(device, torch.float32 if x.is_floating_point() else x.dtype) for x in (*inputs, dy))
    return tuple(cast), dy, hyper


def seconds(call: Callable[[], object], device: str) -> float:
    """One call; on CUDA between two events, so that the launch queue is not what is measured."""
    if device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", list(bp.RULES))
def test_forward_and_backward(benchmark, name: str, engine: str, device: str) -> None:
    inputs, dy, hyper = problem(name, device)
    theirs = twin(name)
    assert theirs is not None
    run = {
        "manual": lambda: bp.RULES[name].vjp(inputs, dy, **hyper),
        "torch": lambda: theirs(inputs, dy, **hyper),
    }
    candidate = bp.RULES[name].vjp if engine == "manual" else theirs
    check(candidate, name, device=device, cases=[Case(inputs, dy, hyper, "benchmark")])

    benchmark.group = name
    benchmark.extra_info["elements"] = sum(x.numel() for x in inputs)
    if engine == "manual":
        pairs = [(seconds(run["manual"], device), seconds(run["torch"], device)) for _ in range(PAIRS)]
        benchmark.extra_info["ratio_to_torch"] = statistics.median(ours / torchs for ours, torchs in pairs)
    benchmark(run[engine])
