"""The second bank: what its authors, who had not read the oracle, say of a program is what the comparison says.

Wrong programs are judged up to their first mismatch, right ones at the first cases, which are the edges; where they
lose digits beside these the recorded results say so.
"""

from __future__ import annotations

import warnings

import pytest
import torch

import manual_bp as bp
from manual_bp.arithmetic.bounded import contract_of
from manual_bp.oracle import compare
from manual_bp.oracle.comparison import Comparison
from manual_bp.oracle.conventions import Conventions
from manual_bp.oracle.kept_evidence import generated_evidence
from tests.conftest import short
from tests.judging import by_default
from tests.oracle.second_bank import PROGRAMS, RECORDED

# The pages have 6 to 14 edges; all cases of all programs take three minutes.
EDGES = 10


def is_refused(program, dtype):
    """Whether a mismatch is found, and no excuse for it."""
    rule, contract = bp.RULES[program.rule], contract_of(dtype)
    found = generated_evidence(rule, dtype, "cpu", contract)
    comparison = Comparison(program.vjp, rule, dtype, "cpu", contract, Conventions(), strict=False)
    for position in range(len(found.cases)):
        if program.due == "right" and position == EDGES:
            break
        comparison.judge_case(found.at(position))
        if comparison.report.mismatches:
            return True
    return False


@pytest.mark.parametrize("dtype", by_default(torch.float32, torch.bfloat16), ids=short)
def test_programs(rule, dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's, of infinities
        chosen = [p for p in PROGRAMS if p.rule == rule.name and dtype in p.dtypes]
        misjudged = [f"{p.name}, {p.due}: {p.why}" for p in chosen if is_refused(p, dtype) != (p.due == "wrong")]
    assert not misjudged


def test_recorded_results(rule):
    misjudged = []
    for entry in (e for e in RECORDED if e.rule == rule.name):
        report = compare(None, entry.rule, cases=[entry.case, *entry.beside], dtype=entry.dtype, diagnose=0)
        if report.passed != (entry.due == "right"):
            misjudged.append(f"{entry.name}, {entry.due}: {entry.why}")
    assert not misjudged
