"""The largest amount of memory that a step holds at one time, its parameters and gradients included."""

from __future__ import annotations

import gc
import json
import os
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.steps import Start, StepContestant

STEPS = 3
"""In the first ones a program may still allocate what it keeps."""
MEASURED = 5
"""The median of so many counts on the CPU: one profile of many had not the allocations of a whole forward pass."""


def peak_bytes(build: Callable[[], StepContestant], start: Start) -> int:
    """The peak during a step from `start`, after a few others.

    build: makes the contestant.  It is called here so that what a program allocates beforehand, such as buffers that it
        uses again in every step, counts too.
    """
    if start.x.is_cuda:
        return _peak_on_cuda(build, start)

    def loaded() -> StepContestant:
        contestant = build()
        contestant.load(start)
        return contestant

    return peak_on_cpu(loaded)


def _peak_on_cuda(build: Callable[[], StepContestant], start: Start) -> int:
    """max_memory_allocated, without the workspace of cuBLAS: 32 MiB on an H200, for whoever multiplies matrices.

    A CUDA graph allocates when it is captured and never when it is replayed.  So the step that is measured is the first
    from another state in other memory, for which a graph is captured again.
    """
    with _no_workspace():
        gc.collect()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        contestant = build()
        contestant.load(start)
        for _ in range(STEPS):
            contestant()
        contestant.load(start)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        contestant()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before


@contextmanager
def _no_workspace() -> Iterator[None]:
    """torch allocates a workspace for each stream that multiplies matrices, and asks this variable of cuBLAS how large
    it is, at every product.  So none of another size may be left when the variable changes."""
    with patch.dict(os.environ, CUBLAS_WORKSPACE_CONFIG=":0:0"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Requested unified CUBLASLT workspace")
        torch._C._cuda_clearCublasWorkspaces()
        try:
            yield
        finally:
            torch._C._cuda_clearCublasWorkspaces()


def peak_on_cpu(prepared: Callable[[], Callable[[], object]]) -> int:
    """The peak during a call, after a few others.  prepared: makes what is called.

    From the profile of torch's CPU allocator, which reports every allocation and every release with its size.
    What other libraries allocate for themselves (scratch space of a matrix product) is not in it, for any program.
    """
    prepared()()  # what it compiles comes from the disk from now on: a profile of a compilation lost what came after
    gc.collect()  # of what an earlier profile saw allocated: its release would be counted in this one
    labels = [f"step {i} that is measured" for i in range(MEASURED)]
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        call = prepared()
        for _ in range(STEPS):
            call()
        for label in labels:
            with record_function(label):
                call()
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
