"""What a notebook shows of a report: all that is wrong, and nothing of a candidate's that a browser would obey."""

from __future__ import annotations

import re
import sys

import pytest

from manual_bp.lockstep import Disagreement, LockstepReport, Row
from manual_bp.oracle.reports.mismatch import Mismatch, Worst
from manual_bp.oracle.reports.notebook import template
from manual_bp.oracle.reports.report import Report
from manual_bp.training.judging.disagreement import WRONG

EVIL = "<script>alert(1)</script>"


def failed(**given):
    wrong = Mismatch("wrong", "dx", "ordinary", index=(0, 1), expected=1.0, got=2.0, ulps=8e6, error_over_allowance=1e5)
    worst = {"y": Worst(1.0, 0.5, [0.5]), "dx": Worst(8e6, 1e5, [1e5])}
    return Report("any", "float32", "cpu", cases=1, failed=1, mismatches=[wrong], worst=worst, **given)


def cells(page):
    return [[re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<td.*?</td>", row)] for row in page.split("</tr>")]


def test_a_comparison():
    page = failed(diagnoses=["dx is twice as large", "or it is not"], notes=["a note"])._repr_html_()
    assert "✘ any, float32 on cpu." in page
    head = page[: page.index("<details")]
    assert "dx is twice as large" in head
    assert "or it is not" in page.removeprefix(head)
    assert ["dx", "✘ wrong", "1", "8e+06", "1e+05"] in cells(page)
    assert ["wrong", "dx", "ordinary", "[0, 1]", "1", "2", "8e+06", "1e+05", "", ""] in cells(page)
    assert "Notes (1)" in page
    assert "Findings" not in page


def test_a_lockstep():
    rows = [Row("linear1", "z", "linear", 0.25, 1.0, 1), Row("linear1", "delta", "linear", 3.0, 9.0, 2)]
    wrong = Disagreement(2, "linear1", "delta", "the backward is wrong by itself")
    report = LockstepReport("mlp", {}, "digits", "float32", "cpu", "torch", 2, rows, [wrong], losses=[(1.0, 1.5)])
    page = report._repr_html_()
    assert f"✘ mlp on digits, float32: {report.verdict}" in page
    assert ["linear1", "0.25", "3"] in cells(page)
    coloured = re.findall(r'style="background: ([^;]*);[^>]*>([^<]*)<', page)
    assert coloured == [(WRONG, "3")]
    assert ["1", "1", "1.5"] in cells(page)


@pytest.mark.parametrize("field", ["diagnoses", "findings", "not_tested", "notes", "patterns"])
def test_words_of_a_candidate_are_words(field):
    page = failed(**{field: [f"{EVIL} \x1b[2J"]})._repr_html_()
    assert "alert(1)" in page
    assert EVIL not in page
    assert "\x1b" not in page


def test_without_jinja2_it_is_the_text(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    template.cache_clear()
    page = failed(notes=[EVIL])._repr_html_()
    template.cache_clear()
    assert page.startswith("<pre>any (float32, cpu): FAILS in 1 of 1 case")
    assert EVIL not in page
