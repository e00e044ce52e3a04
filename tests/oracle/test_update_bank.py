"""The bank of updates: what is due of each program is what compare and compare_optimizer say of it."""

from __future__ import annotations

import pytest

from manual_bp.oracle import compare, compare_optimizer
from tests.oracle.update_bank import PROGRAMS
from tests.oracle.update_bank.entry import COMPARE

JUDGED = {"compare": compare, "compare_optimizer": compare_optimizer}
NOT_YET = {program.name for program in PROGRAMS if program.how != COMPARE}


def judged(program, **declared):
    return JUDGED[program.how](program.make(), program.against, **program.options, **declared)


@pytest.mark.thinned(12)
@pytest.mark.parametrize("program", [p for p in PROGRAMS if p.name not in NOT_YET], ids=lambda p: p.name)
def test_what_is_due_is_said(program):
    report = judged(program)
    if program.due == "right":
        assert report.passed, str(report)
        return
    assert not report.passed
    assert program.words in report.diagnoses[0], str(report)
    if program.due == "convention":
        declared = judged(program, conventions=dict(program.declared))
        assert declared.passed, str(declared)
        assert f"declare conventions={dict(program.declared)}" in report.diagnoses[0]
