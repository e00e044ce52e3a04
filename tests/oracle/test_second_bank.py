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
from manual_bp.oracle.truth.conventions import Conventions
from manual_bp.oracle.truth.kept import generated_evidence
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


def misjudged(judged):
    """The programs, each with a dtype, of which the comparison says what is not due."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's, of infinities
        return [f"{p.name} in {dtype}, {p.due}: {p.why}" for p, dtype in judged if is_refused(p, dtype) != is_wrong(p)]


def is_wrong(program):
    return program.due == "wrong"


def of_rule(rule):
    return [program for program in PROGRAMS if program.rule == rule.name]


@pytest.mark.thinned(2)
def test_programs(rule):
    """Every other one, in one of its dtypes, by turns."""
    judged = []
    for number, program in enumerate(of_rule(rule)[::2]):
        dtypes = [d for d in (torch.float32, torch.bfloat16) if d in program.dtypes] or program.dtypes
        judged.append((program, dtypes[number % len(dtypes)]))
    assert not misjudged(judged)


@pytest.mark.exhaustive
def test_programs_in_every_dtype(rule, dtype):
    assert not misjudged((program, dtype) for program in of_rule(rule) if dtype in program.dtypes)


def test_recorded_results(rule):
    misjudged = []
    for entry in (e for e in RECORDED if e.rule == rule.name):
        report = compare(None, entry.rule, cases=[entry.case, *entry.beside], dtype=entry.dtype, diagnose=0)
        if report.passed != (entry.due == "right"):
            misjudged.append(f"{entry.name}, {entry.due}: {entry.why}")
    assert not misjudged
