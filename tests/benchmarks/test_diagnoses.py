"""The program that measures how often a diagnosis names the cause."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.diagnoses import Found, app, judge, right_programs, sampled, wrong_programs
from manual_bp.registry import RULES

# A rule whose cost is a number has few cases, and they are small.
CHEAP = next(r for r in RULES.values() if r.has_backward and len(r.inputs) == 1 and not str(r.y_annotation.dim_str))


def test_wrong_programs_are_counted_by_whether_their_cause_is_named():
    found, programs = Found("float64"), sampled(wrong_programs([CHEAP], torch.float64), 3)
    assert {wrong.source for wrong in programs} == {"mutation"}  # the bank's programs are judged in float32
    for wrong in programs:
        judge(found, wrong, torch.float64)
    assert sum(found.judged.values()) == len(programs)
    assert sum(found.named.values()) + len(found.missed) == len(programs)
    assert sum(found.named.values()) >= 2


def test_a_cause_that_is_not_named_is_missed():
    wrong = next(w for w in wrong_programs([CHEAP], torch.float64) if w.kind == "cotangent negated")
    report = Found("float64")
    judge(report, wrong._replace(source="bank", cause="no such words"), torch.float64)
    assert report.named == {"bank, cotangent negated": 0}
    assert len(report.missed) == 1


def test_right_programs_raise_no_alarm():
    found = Found("float64")
    right_programs(found, [CHEAP], torch.float64, seeds=2)
    assert (found.right, found.alarms) == (2, [])


@pytest.mark.exhaustive
def test_every_wrong_program_of_a_rule_is_judged_and_written(tmp_path):
    written = tmp_path / "out.json"
    options = ["--seeds", "1", "--rules", CHEAP.name, "--dtypes", "float64,float32", "--json", str(written)]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 0, result.output
    wide, narrow = json.loads(written.read_text())["results"]
    for found in (wide, narrow):
        assert found["judged"]["mutation, cotangent negated"] > 0
        assert sum(found["named"].values()) + len(found["missed"]) == sum(found["judged"].values())
        assert found["alarms"] == []
    assert wide["right"] == 1
    assert narrow["judged"].keys() > wide["judged"].keys()  # the bank's programs are judged in one dtype
    assert "mutation, cotangent negated" in result.output


def test_the_command_writes_what_it_found(tmp_path):
    written = tmp_path / "out.json"
    options = ["--seeds", "1", "--sample", "1", "--rules", CHEAP.name, "--dtypes", "float64", "--json", str(written)]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 0, result.output
    document = json.loads(written.read_text())
    (found,) = document["results"]
    assert sum(found["judged"].values()) == 1
    assert document["command"].endswith("--sample 1")


def test_an_unknown_rule_is_refused():
    result = CliRunner().invoke(app, ["--rules", "no_such_rule"])
    assert result.exit_code != 0
    assert "no_such_rule" in result.output
