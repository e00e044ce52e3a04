"""How the time of a step grows with depth, width and batch: a row a size, of which report.py draws a picture."""

from __future__ import annotations

import pytest
import torch

from benchmarks.contestants import jax_steps, manual, torch_steps
from benchmarks.contestants.products import limits_of
from benchmarks.paired import measure
from benchmarks.rows import timed_row
from benchmarks.steps import StepJudge, StepProblem, mlp_problem, start_of, timed
from benchmarks.test_steps import families, those_right

DEPTH, WIDTH, BATCH = 4, 128, 128
"""What stays when another one grows."""
SIZES = {"depth": (2, 4, 8, 16, 32), "width": (32, 128, 512, 1024), "batch": (8, 64, 512, 4096)}


def problem_of(axis: str, size: int) -> StepProblem:
    given = {"depth": DEPTH, "width": WIDTH, "batch": BATCH, axis: size}
    return mlp_problem([given["width"]] * (given["depth"] + 1), given["batch"])


POINTS = [(axis, size) for axis, sizes in SIZES.items() for size in sizes]


@pytest.mark.parametrize(("axis", "size"), POINTS)
def test_scaling(axis: str, size: int, device: str, quick: bool, timing, report) -> None:
    if quick:
        pytest.skip("--quick: no scaling")
    problem = problem_of(axis, size)
    ours = manual.compiled(problem)
    found = [ours, torch_steps.eager(problem)]
    missing = {}
    if why_not := torch_steps.not_compiled():
        missing["torch.compile"] = why_not
    else:
        found.append(torch_steps.compiled(problem))
    why_not = jax_steps.unavailable(device)
    if why_not:
        missing["jax.jit"] = why_not
    else:
        found.append(jax_steps.JaxStep(problem))
    judge = StepJudge(problem, torch.float32, device)
    start = start_of(problem, torch.float32, device)
    found = those_right(found, judge, missing)
    for contestant in found:
        contestant.load(start)
    limits = limits_of(problem, torch.float32, device)
    scaling_timing = {**timing, "seconds": timing["seconds"] / 2}
    timings = measure([timed(c) for c in (*found, *limits)], **scaling_timing)
    row = timed_row(
        "scaling",
        f"{axis} {size}",
        timings,
        ours.name,
        families(found, limits),
        {},
        missing,
        device=device,
        precision="float32",
        axis=axis,
        size=size,
    )
    report(row, ours)
