"""Peak memory of a step: ours against torch's."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from benchmarks.contestants import manual, torch_steps
from benchmarks.memory import peak_bytes
from benchmarks.rows import counted_row
from benchmarks.steps import StepBuilder, mlp_problem, residual_problem, start_of
from benchmarks.test_steps import OURS

# Of the smaller of eager and compiled torch.
TARGET = 0.8

PROBLEMS = [
    mlp_problem([128] * 21, 128),
    residual_problem(256, 20, 128),
    mlp_problem([784, 256, 256, 10], 128),
]
DEEP = PROBLEMS[:2]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.row)
def test_peak_memory(problem, device: str, quick: bool, report) -> None:
    if quick and problem in DEEP:
        pytest.skip("--quick: the small problem only")
    builders: dict[str, StepBuilder] = {
        "manual, eager": manual.eager,
        OURS: manual.compiled,
        "torch, eager": torch_steps.eager,
    }
    missing = {}
    if why_not := torch_steps.not_compiled():
        missing["torch.compile"] = why_not
    else:
        builders |= {"torch.compile": torch_steps.compiled, "torch.compile, whole step": torch_steps.compiled_whole}
    start = start_of(problem, torch.float32, device)
    values = {}
    for name, builder in builders.items():
        values[name] = float(peak_bytes(partial(builder, problem), start))
        torch.compiler.reset()
    report(
        counted_row(
            "memory",
            problem.row,
            values,
            "bytes",
            OURS,
            {"torch": [name for name in values if name.startswith("torch")]},
            {"torch": TARGET} if problem in DEEP else {},
            missing,
            device=device,
            precision="float32",
        ),
        None,
    )
