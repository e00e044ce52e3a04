"""The largest amount of memory that a step holds at one time, its parameters, gradients and workspace included."""

from __future__ import annotations

import gc
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

STEPS = 3
"""In the first ones a program may still allocate what it keeps."""
MEASURED = 5
"""The median of so many counts on the CPU: one profile of many had not the allocations of a whole forward pass."""


def peak_bytes(build: Callable[[], Callable[[], object]], device: str) -> int:
    """The peak during a step, after a few others.

    build: makes the program, loads its state and returns its step.  It is called here so that what a program allocates
    beforehand, such as buffers that it uses again in every step, counts too.
    """
    return _peak_on_cuda(build) if device.startswith("cuda") else _peak_on_cpu(build)


def _peak_on_cuda(build: Callable[[], Callable[[], object]]) -> int:
    """max_memory_allocated, and what a captured graph keeps, whose replays allocate nothing that torch sees."""
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    step = build()
    for _ in range(STEPS):
        step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before + _kept_by_graphs()


def _kept_by_graphs() -> int:
    """Bytes of the graphs' own pools of memory that no tensor holds: whole segments, of 2 MiB and more."""
    pools = (segment for segment in torch.cuda.memory_snapshot() if tuple(segment["segment_pool_id"]) != (0, 0))
    return sum(segment["total_size"] - segment["allocated_size"] for segment in pools)


def _peak_on_cpu(build: Callable[[], Callable[[], object]]) -> int:
    """From the profile of torch's CPU allocator, which reports every allocation and every release with its size.

    What other libraries allocate for themselves (scratch space of a matrix product) is not in it, for any program.
    """
    build()()  # what it compiles comes from the disk from now on: a profile of a compilation lost all that came after
    labels = [f"step {i} that is measured" for i in range(MEASURED)]
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step = build()
        for _ in range(STEPS):
            step()
        for label in labels:
            with record_function(label):
                step()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiled.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    changes = sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["args"]["Ev Idx"])
    if not changes:
        raise RuntimeError("torch's profiler reported no allocation.")
    spans = {e["name"]: (e["ts"], e["ts"] + e["dur"]) for e in events if e.get("ph") == "X" and e["name"] in labels}
    return int(statistics.median(_peak_within(changes, *spans[label]) for label in labels))


def _peak_within(changes: list[Any], begin: float, end: float) -> int:
    """The highest level between two times, of a list of allocations and releases."""
    level = at_begin = peak = 0
    for event in changes:
        if event["args"]["Device Type"] != 0:  # the CPU's number in torch
            continue
        level += event["args"]["Bytes"]
        if event["ts"] < begin:
            at_begin = level
        elif event["ts"] <= end:
            peak = max(peak, level)
    return max(peak, at_begin)
