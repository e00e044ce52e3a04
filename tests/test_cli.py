"""The command line: exit status, words, JSON."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import manual_bp as bp
from manual_bp.cli import app


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_verify_some_rules(tmp_path):
    result = run("verify", "elu", "linear", "--json", tmp_path / "out.json")
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["passed"] is True
    assert found["schema"] == 1
    assert {(v["rule"], v["dtype"]) for v in found["rules"]} == {
        (rule, dtype) for rule in ("elu", "linear") for dtype in ("float64", "float32", "bfloat16", "float16")
    }
    assert found["mistakes_rejected"] == found["mistakes"] > 0
    assert "agrees" in result.output


def test_verify_names_the_broken_rule(monkeypatch):
    page = bp.tanh.page
    monkeypatch.setattr(page, "backward", lambda residuals, dy: (-dy,))
    result = run("verify", "tanh", "relu", "--dtype", "float64")
    assert result.exit_code == 1
    assert "tanh (float64, cpu): FAILS" in result.output
    assert "relu (float64, cpu): FAILS" not in result.output
    assert "something is wrong" in result.output


def test_lockstep(tmp_path):
    result = run("lockstep", "--model", "residual_mlp", "--steps", 2, "--json", tmp_path / "out.json")
    assert result.exit_code == 0, result.output
    (report,) = json.loads((tmp_path / "out.json").read_text())["lockstep"]
    assert report["passed"]
    assert report["steps"] == 2
    assert "every layer agrees in 2 steps" in result.output


def test_lockstep_names_the_layer(monkeypatch):
    page = bp.linear.page
    right = page.backward
    monkeypatch.setattr(page, "backward", lambda r, dy: (right(r, dy)[0], -right(r, dy)[1], right(r, dy)[2]))
    result = run("lockstep", "--model", "notes", "--steps", 1)
    assert result.exit_code == 1
    assert (
        "first disagreement in step 1 at linear3: the backward of linear is wrong by itself: wrong: dweight"
        in " ".join(result.output.split())
    )


def test_rules():
    result = run("rules")
    assert result.exit_code == 0
    assert all(name in result.output for name in bp.RULES)


def test_one_page():
    result = run("rules", "elu")
    assert result.exit_code == 0
    assert "Derivation." in result.output
    assert "def backward" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("verify", "elo"), "Did you mean elu"),
        (("verify", "--dtype", "float8"), "--dtype must be one of"),
        (("verify", "--device", "tpu"), "--device must be cpu"),
        (("verify", "relu", "--json", "/nowhere/out.json"), "--json must name a file"),
        (("lockstep", "--model", "transformer"), "--model must be one of"),
        (("lockstep", "--data", "/nowhere"), "folder with IDX files"),
        (("lockstep", "--steps", "0"), "steps"),
        (("lockstep", "--dtype", "bfloat16"), "float64 or float32"),
        (("rules", "elo"), "Did you mean elu"),
        (("nonsense",), "nonsense"),
    ],
)
def test_bad_usage_is_status_2(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.output.split())


def test_script_is_installed_and_silent_without_a_terminal():
    done = subprocess.run(
        [sys.executable, "-m", "manual_bp.cli", "verify", "relu", "--dtype", "float32"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
