"""Whole training steps: ours against torch's, jax's, and the bare matrix products.

The hand-derived step is compiled, as a user who wants speed would have it.  Every contestant does the step once from a
start at which it is judged, and only then is timed.  On a GPU also with TF32 products and in bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from benchmarks.contestants import jax_steps, manual, torch_steps
from benchmarks.contestants.products import Products, limits_of
from benchmarks.paired import measure
from benchmarks.rows import timed_row
from benchmarks.steps import StepContestant, StepJudge, StepProblem, mlp_problem, start_of, step_problems, timed

PRECISIONS = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}
WIDTHS = {"float32": torch.float32, "tf32": torch.float16, "bfloat16": torch.bfloat16}
"""Whose rounding is allowed: TF32 keeps eleven bits of a factor, as many as float16."""

OURS = "manual, compiled"


@contextmanager
def precision_of_products(precision: str) -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def contestants(problem: StepProblem, device: str) -> tuple[list[StepContestant], dict[str, str]]:
    """Who takes part, and who cannot and why."""
    found: list[StepContestant] = [manual.eager(problem), manual.compiled(problem), torch_steps.eager(problem)]
    missing: dict[str, str] = {}
    one_thread = device == "cpu" and torch.get_num_threads() > 1
    if one_thread:
        found.append(torch_steps.eager(problem, threads=1))
    why_not = torch_steps.not_compiled()
    if why_not:
        missing["torch.compile"] = why_not
    else:
        found += [torch_steps.compiled(problem), torch_steps.compiled_whole(problem)]
        found += [torch_steps.compiled(problem, threads=1)] if one_thread else []
        found += [torch_steps.compiled_graphed(problem)] if device == "cuda" else []
    why_not = jax_steps.unavailable(device)
    if why_not:
        missing["jax.jit"] = why_not
    else:
        found.append(jax_steps.JaxStep(problem))
    return found, missing


def families(found: list[StepContestant], limits: list[Products]) -> dict[str, list[str]]:
    """Who is compared as one.  The step through torch.func is no torch.autograd: it has a column of its own."""
    functional = [c.name for c in found if isinstance(c, torch_steps.TorchWholeStep)]
    autograd = [c.name for c in found if isinstance(c, torch_steps.TorchStep) and c.name not in functional]
    limit = [c.name for c in limits]
    return {"torch": autograd, "eager": ["torch, eager"], "torch.func": functional, "jax": ["jax.jit"], "limit": limit}


def step_problem_rows(device: str) -> list[tuple[StepProblem, str]]:
    """Problem and precision of each row.  Below float32 ELU takes ReLU's place: too many z would lie near its kink."""
    rows = [(problem, "float32") for problem in step_problems()]
    if device == "cuda":
        for sizes, batch in (([64, 64, 64, 10], 32), ([784, 256, 256, 10], 128), ([2048] * 5, 512)):
            rows += [(mlp_problem(sizes, batch, "elu", torch=1.0), p) for p in ("tf32", "bfloat16")]
    return rows


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "row" in metafunc.fixturenames:
        device = metafunc.config.getoption("--device")
        rows = step_problem_rows(device)
        if metafunc.config.getoption("--quick"):
            rows = rows[: len(step_problems(quick=True))]
        metafunc.parametrize("row", rows, ids=lambda r: f"{r[0].row}, {r[1]}")


def test_step(row, device, timing, report) -> None:
    problem, precision = row
    dtype = PRECISIONS[precision]
    with precision_of_products(precision):
        found, missing = contestants(problem, device)
        judge = StepJudge(problem, dtype, device, WIDTHS[precision])
        found = those_right(found, judge, missing)
        start = start_of(problem, dtype, device)
        for contestant in found:
            contestant.load(start)
        limits = limits_of(problem, dtype, device)
        timings = measure([timed(c) for c in (*found, *limits)], **timing)
    by_name = {c.name: c for c in found}
    targets = dict(problem.targets)
    small = {each.row for each in step_problems(quick=True)}
    if device == "cuda" and precision == "float32" and problem.row in small:
        targets["eager"] = 0.25
    report(
        timed_row(
            "steps",
            f"{problem.row}" + ("" if precision == "float32" else f", {precision}"),
            timings,
            OURS,
            families(found, limits),
            targets,
            missing,
            device=device,
            precision=precision,
        ),
        by_name[OURS],
    )


def those_right(contestants: list[StepContestant], judge: StepJudge, missing: dict[str, str]) -> list[StepContestant]:
    """Those that do the step, judged with the threads that they are timed with; `missing` says what is wrong with the
    others.  Raises AssertionError if one of ours is wrong."""
    found, before = [], torch.get_num_threads()
    for contestant in contestants:
        torch.set_num_threads(contestant.threads or before)
        try:
            judge.check(contestant)
            found.append(contestant)
        except AssertionError as error:
            if contestant.name.startswith("manual"):
                raise
            missing[contestant.name] = str(error)
        finally:
            torch.set_num_threads(before)
    return found
