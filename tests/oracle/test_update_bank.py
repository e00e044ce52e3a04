"""The bank of updates: what is due of each program is what compare and compare_optimizer say of it."""

from __future__ import annotations

import pytest

from manual_bp.oracle import compare, compare_optimizer
from tests.oracle.update_bank import PROGRAMS

JUDGED = {"compare": compare, "compare_optimizer": compare_optimizer}


def judged(program, **declared):
    """Its report; a cause is sought for as long as it takes on a machine that does other things too."""
    return JUDGED[program.how](program.make(), program.against, **program.options, **declared, diagnose=120.0)


@pytest.mark.thinned(24)
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.name)
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
        assert "declare conventions=" in report.diagnoses[0]
