"""The problems of rules that are timed: of any page, as large as was asked and no larger, and judged before."""

from __future__ import annotations

import importlib

import pytest
import torch

import benchmarks.rules
import benchmarks.test_rules
from benchmarks.rules import SIZES, WIDTH, layouts, manual_eager, rule_problem, rule_problems
from manual_bp.oracle import GradientMismatch
from manual_bp.outputs import parts
from manual_bp.registry import RULES
from tests.pages import PAGES

EVERY = {**PAGES, **RULES}
DIFFERENTIABLE = [name for name, rule in EVERY.items() if rule.has_backward]


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_no_tensor_is_larger_than_was_asked(name):
    for problem in rule_problems(EVERY[name], SIZES[0]):
        sizes = [x.numel() for x in (*problem.inputs, *parts(problem.dy)) if x is not None]
        assert max(sizes) <= max(SIZES[0], WIDTH**2)
        assert max(sizes) >= SIZES[0] / 2 or hasattr(EVERY[name].page, "LONGEST")
        assert problem.bytes >= 4 * sum(sizes)


def test_of_many_axes_none_is_as_wide(monkeypatch):
    """Seven axes of 256 would be 2^56 numbers."""
    monkeypatch.delattr(PAGES["seven_axes"].page, "SIZES")
    problem = rule_problem(PAGES["seven_axes"], "", SIZES[1])
    assert SIZES[1] / 8 <= problem.elements <= SIZES[1]


def test_nothing_is_drawn_when_benchmarks_are_collected(monkeypatch):
    def draws(*_):
        raise AssertionError("drawn")

    with monkeypatch.context() as patched:
        patched.setattr(benchmarks.rules, "draw", draws)
        importlib.reload(benchmarks.test_rules)
    with_images = benchmarks.test_rules.NAMES["test_rule_on_images"]
    assert with_images == [name for name, rule in RULES.items() if rule.has_backward and len(layouts(rule)) > 1]


def test_rows_are_wide_however_short_those_of_a_page_s_tests_are():
    rows = [sizes for rule in RULES.values() if rule.has_backward and len(sizes := layouts(rule)[""]) == 1]
    assert rows
    assert all(length == (WIDTH,) for sizes in rows for length in sizes.values())


@pytest.mark.parametrize("name", [name for name, page in PAGES.items() if page.has_backward])
def test_what_is_timed_is_judged(name):
    problem = next(rule_problems(PAGES[name], 2**8))
    right = manual_eager(problem)
    problem.check("right", right)

    def doubled():
        y, grads = right()
        return y, tuple(None if g is None else 1.01 * g for g in grads)

    with pytest.raises(GradientMismatch):
        problem.check("wrong", doubled)
    with pytest.raises(AssertionError, match="a cotangent is missing"):
        problem.check("missing", lambda: (right()[0], (None,) * len(problem.inputs)))


def test_several_outputs_count_as_bytes():
    problem = rule_problem(PAGES["three_outputs"], "", 2**8)
    outputs = sum(d.numel() for d in problem.dy)
    assert problem.bytes == 4 * (2 * problem.inputs[0].numel() + 2 * outputs)
    assert all(d.dtype == torch.float32 for d in problem.dy)
