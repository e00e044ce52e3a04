"""Every activation, normalisation and regulariser, forward and backward, beside a copy of the same bytes.

Found in the registry.  What multiplies matrices is left to the steps and layers.
"""

from __future__ import annotations

import pytest
import torch

import manual_bp as bp
from benchmarks.contestants.torch_steps import not_compiled
from benchmarks.paired import Contestant, measure
from benchmarks.rows import timed_row
from benchmarks.rules import LARGE, SIZES, RuleProblem, copy_of, layouts, manual_compiled, manual_eager, rule_problem
from benchmarks.rules import torch_compiled as compiled_by_torch
from benchmarks.rules import torch_eager as eager_by_torch
from manual_bp.oracle import GradientMismatch

CHAPTERS = ("activation", "normalization", "regularization")
OTHERS = ("rotary_embedding", "softmax_cross_entropy")
"""Which a transformer spends its time on besides."""
OURS = "manual, compiled"
# Of the fastest torch, with 5 % for the timing's own noise; element-wise rules of LARGE tensors also 85 % of the
# bandwidth of a copy.
TARGET = 1.05
TARGET_OF_COPY = 1 / 0.85

NAMES = {
    "test_rule": [
        name for name, rule in bp.RULES.items() if (rule.chapter in CHAPTERS or name in OTHERS) and rule.has_backward
    ],
    "test_rule_on_images": [name for name, rule in bp.RULES.items() if rule.has_backward and len(layouts(rule)) > 1],
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    names, quick = NAMES[metafunc.definition.name], metafunc.config.getoption("--quick")
    asked = [(name, elements) for elements in (SIZES[:1] if quick else SIZES) for name in names]
    if metafunc.config.getoption("--device") == "cuda" and not quick:
        asked += [(name, LARGE) for name in names if bp.RULES[name].elementwise]
    metafunc.parametrize(("name", "elements"), asked)


def test_rule(name: str, elements: int, device, timing, report) -> None:
    first, *_ = layouts(bp.RULES[name])
    problem = rule_problem(bp.RULES[name], first, elements, device)
    time_rule(problem, device, timing, report)


def test_rule_on_images(name: str, elements: int, device, timing, report) -> None:
    *_, last = layouts(bp.RULES[name])
    problem = rule_problem(bp.RULES[name], last, elements, device)
    time_rule(problem, device, timing, report)


def time_rule(problem: RuleProblem, device: str, timing, report) -> None:
    runs = {
        "manual, eager": manual_eager(problem),
        OURS: manual_compiled(problem),
        "torch, eager": eager_by_torch(problem),
    }
    missing = {}
    if why_not := not_compiled():
        missing["torch.compile"] = why_not
    else:
        runs["torch.compile"] = compiled_by_torch(problem)
    inexact = {}
    for name, run in runs.items():
        try:
            problem.check(name, run)
        except GradientMismatch as error:
            if name.startswith("manual"):
                raise
            # It is timed all the same, as its users would have it; the row says what it costs in digits.
            inexact[name] = str(error.report.mismatches[0])
    everyone = {**runs, "copy": copy_of(problem)}
    rule_timing = {**timing, "seconds": timing["seconds"] / 4}
    timings = measure([Contestant(name, call) for name, call in everyone.items()], **rule_timing)
    targets = {"torch": TARGET}
    if problem.elements >= LARGE:
        targets["limit"] = TARGET_OF_COPY
    report(
        timed_row(
            "rules",
            problem.row,
            timings,
            OURS,
            {"torch": ["torch, eager", "torch.compile"], "limit": ["copy"]},
            targets,
            missing,
            device=device,
            precision="float32",
            rule=problem.rule.name,
            inexact=inexact,
            elements=problem.elements,
            bytes=problem.bytes,
        ),
        runs[OURS],
    )
    torch.compiler.reset()
