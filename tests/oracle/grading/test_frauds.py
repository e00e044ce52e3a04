"""Frauds that public graders have let pass, each against the rule that it pretends to be."""

from __future__ import annotations

import sys
from copy import copy
from functools import lru_cache
from pathlib import Path

import pytest
import torch

import manual_bp as bp
from manual_bp.keeper import Limits, kept
from manual_bp.oracle.cases.declared import Declared
from manual_bp.oracle.functions import rule_of
from manual_bp.oracle.grading.run import Run
from manual_bp.oracle.grading.untrusted import Process
from manual_bp.oracle.truth.conventions import Conventions
from manual_bp.rule import Rule
from tests.oracle.grading import capped

PROGRAMS = Path(__file__).parent / "programs.py"
SEED = 20_231_107
# A machine that is busy with other tests is slow; none of these tests is about time.
PATIENT = Limits(timeout=600.0)


@pytest.fixture(scope="module")
def process():
    """One process for all that is not about processes."""
    with kept(PATIENT) as started:
        yield Process(started)


@lru_cache(maxsize=4)
def fresh(rule, seed):
    """A run before anything was asked; copies of it share what is due."""
    return Run(rule, torch.float32, "cpu", seed, Conventions(), Declared(), strict=False)


def graded(process, name, rule="linear", seed=SEED, file=PROGRAMS):
    run = copy(fresh(bp.RULES[rule] if isinstance(rule, str) else rule, seed))
    run.grade(process, f"{file}:{name}", diagnose=0)
    return run.verdict(name)


@pytest.mark.thinned(2)
@pytest.mark.parametrize("rule", ["linear"])
@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("right", ""),
        ("autograd", "its gradients come from torch.autograd"),
        ("ModelNew", "its gradients come from torch.autograd"),
        ("pages", "it has imported pages of manual_bp, and may return what these compute"),
    ],
)
def test_what_is_right_passes(process, rule, name, note):
    verdict = graded(process, name, rule)
    assert verdict.passed, verdict.to_json()
    assert not note or note in verdict.notes
    assert verdict.first_failing is None
    assert verdict.diagnosis == ""


@pytest.mark.thinned(2)
@pytest.mark.parametrize(
    ("name", "rule", "family", "argument"),
    [
        ("by_shape", "linear", "the same shape again with other numbers", "y"),
        ("by_address", "linear", "the same tensors again with other numbers", "y"),
        ("by_inputs_alone", "linear", "the same tensors again with another dy", "dx"),
        ("by_first_element", "linear", "the same tensors again with another dy", "dx"),
        ("of_seed_0", "linear", "ordinary inputs", "y"),
        ("zeros", "linear", "ordinary inputs", "y"),
        ("in_half", "linear", "ordinary inputs", "y"),
        ("whole_blocks", "linear", "out of length 33", "dweight"),
        ("as_if_contiguous", "linear", "strided dy", "dx"),
        ("uniform_ids", "embedding", "index skewed as in text", "dweight"),
        ("lazy", "linear", "ordinary inputs", "y"),
        ("later", "linear", "ordinary inputs", "y"),
    ],
)
def test_wrong_numbers(process, name, rule, family, argument):
    verdict = graded(process, name, rule)
    assert not verdict.passed
    assert verdict.first_failing is not None
    assert (verdict.first_failing.family, verdict.first_failing.argument) == (family, argument), verdict.to_json()
    assert verdict.mismatches[0].kind == "wrong"
    assert verdict.diagnosis


@pytest.mark.thinned(2)
@pytest.mark.parametrize("rule", ["linear"])
@pytest.mark.parametrize(
    ("name", "family", "words"),
    [
        ("overwrites", "ordinary inputs", "the candidate overwrote its argument"),
        ("writes_beside", "strided dy", "wrote beside its argument"),
        ("leftovers", "ordinary inputs", "never written: every element"),
        ("exits", "ordinary inputs", "raised SystemExit: 0"),
        ("raises_sometimes", "strided dy", "raised NotImplementedError: contiguous tensors only"),
        ("generator", "ordinary inputs", "a generator came"),
        ("wrapper", "ordinary inputs", "results that cannot be read"),
    ],
)
def test_what_it_does_else(process, rule, name, family, words):
    verdict = graded(process, name, rule)
    assert not verdict.passed
    assert verdict.first_failing.family == family, verdict.to_json()
    assert words in verdict.mismatches[0].detail


def test_a_cap_is_the_identity_near_0(process):
    """Where a grader draws logits near 0, a program without the cap is right."""
    verdict = graded(process, "uncapped", Rule("capped", capped))
    assert verdict.first_failing.family == "inputs times 1000", verdict.to_json()
    assert verdict.mismatches[0].argument == "y"


def residual_norm(x, residual, weight, *, eps=1e-6):
    h = x + residual
    return h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + eps) * weight, h


@pytest.mark.parametrize("name", ["residual_norm", "residual_norm_alone"])
def test_any_function_is_a_reference(process, name):
    rule = rule_of(residual_norm, {"x": (4, 5), "residual": (4, 5), "weight": (5,)})
    verdict = graded(process, name, rule)
    if name == "residual_norm":
        assert verdict.passed, verdict.to_json()
    else:
        assert verdict.first_failing.family == "ordinary inputs", verdict.to_json()
        assert verdict.first_failing.argument == "dx"


@pytest.mark.parametrize("rule", ["linear"])
def test_answers_to_a_known_seed(process, rule):
    """They are right at all that is drawn from it alone; what else is drawn shows them."""
    verdict = graded(process, "of_seed_0", rule, seed=0)
    assert verdict.first_failing.family == "the same shape again with other numbers"


@pytest.mark.parametrize("rule", ["linear"])
def test_all_that_is_drawn_is_of_the_seed(rule):
    """The same of the same one; and of another one none, but for what a page gives and what draws nothing."""

    def drawn(seed):
        run = Run(bp.RULES[rule], torch.float32, "cpu", seed, Conventions(), Declared(), strict=False)
        return {case.name: case.tensors for case, *_ in run.asked() if min(x.numel() for x in case.tensors) > 1}

    first, same, other = drawn(1), drawn(1), drawn(2)
    assert first.keys() == same.keys() == other.keys()
    for name, tensors in first.items():
        for x, y in zip(tensors, same[name], strict=True):
            assert torch.equal(x.nan_to_num(), y.nan_to_num()), name
    known = [
        name
        for name, tensors in first.items()
        if all(torch.equal(x.nan_to_num(), y.nan_to_num()) for x, y in zip(tensors, other[name], strict=True))
    ]
    assert len(known) < len(first) / 10, known


@pytest.mark.parametrize("rule", ["linear"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def vjp(", "SyntaxError: '(' was never closed"),
        ("import sys\nsys.exit(0)", "cannot be imported: SystemExit: 0"),
        ("import nowhere", "cannot be imported: ModuleNotFoundError"),
        ("number = 3", "must hold 'vjp'; it holds number"),
    ],
)
def test_what_cannot_be_imported_fails(process, rule, tmp_path, text, words):
    (tmp_path / "submission.py").write_text(text)
    verdict = graded(process, "vjp", rule, file=tmp_path / "submission.py")
    assert not verdict.passed
    assert words in verdict.diagnosis
    assert verdict.cases == 0
    assert "submission" not in sys.modules
