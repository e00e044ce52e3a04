"""The program that measures how often a diagnosis names the cause."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from benchmarks.diagnoses import app


def test_every_wrong_program_of_a_rule_is_judged_and_written(tmp_path):
    written = tmp_path / "out.json"
    options = ["--seeds", "1", "--rules", "max_norm", "--dtypes", "float64,float32", "--json", str(written)]
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


def test_an_unknown_rule_is_refused():
    result = CliRunner().invoke(app, ["--rules", "no_such_rule"])
    assert result.exit_code != 0
    assert "no_such_rule" in result.output
