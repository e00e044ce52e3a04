"""The command line: exit status, words, JSON."""

from __future__ import annotations

import errno
import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch
import typer
from rich.table import Table
from typer.testing import CliRunner

import manual_bp as bp
from manual_bp.cli import app, shared
from manual_bp.cli.lockstep import MODELS
from manual_bp.interruption import interrupt
from manual_bp.signature import DTYPES
from tests.documents import valid
from tests.judging import torch_loses_digits


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


LOSING = next(rule.name for rule in bp.RULES.values() if torch_loses_digits(rule))
OTHER = next(name for name, rule in bp.RULES.items() if name != LOSING and rule.elementwise)


def test_verify_some_rules(tmp_path):
    result = run("verify", LOSING, OTHER, "--json", tmp_path / "out.json", "--jobs", 2)
    assert result.exit_code == 0, result.output
    found = valid((tmp_path / "out.json").read_text(), "verify")
    assert found["passed"] is True
    assert found["schema"] == 1
    assert {(v["rule"], v["dtype"]) for v in found["rules"]} == {
        (rule, dtype) for rule in (LOSING, OTHER) for dtype in ("float64", "float32", "bfloat16", "float16")
    }
    assert found["mistakes_rejected"] == found["mistakes"] > 0
    assert "agrees" in result.output
    lines = [line for line in result.output.splitlines() if f"{LOSING}, float32: dx" in line]
    assert any(" torch: " in line and "the page keeps them" in line for line in lines)


def test_verify_a_page_in_a_file(tmp_path):
    page = tmp_path / "of_ones_own.py"
    page.write_text(Path(bp.RULES[OTHER].page.__file__).read_text())
    result = run("verify", page, "--dtype", "float64")
    assert "of_ones_own" in result.output
    assert "Traceback" not in result.output


def test_verify_quick_judges_float32():
    result = run("verify", OTHER, "--quick")
    assert result.exit_code == 0, result.output
    (head,) = (line for line in result.output.splitlines() if "cases" in line)
    assert "f32" in head
    assert not {"f64", "bf16", "f16"} & set(head.split())


def test_verify_runs_every_network_in_lockstep(monkeypatch):
    verify = importlib.import_module("manual_bp.cli.verify")
    runs = [(model, torch.float64) for model in MODELS]
    right = verify._in_lockstep(runs, "cpu")
    assert [report.passed for report in right] == [True] * len(MODELS)
    monkeypatch.setattr("manual_bp.lockstep.brief", lambda *_, **__: 1 / 0)
    for report in verify._in_lockstep(runs, "cpu"):
        assert not report.passed
        assert "raised ZeroDivisionError" in report.verdict


def test_verify_names_the_broken_rule(monkeypatch):
    monkeypatch.setattr(bp.RULES[LOSING].page, "backward", lambda residuals, dy: (-dy,))
    result = run("verify", LOSING, OTHER, "--dtype", "float64")
    assert result.exit_code == 1
    assert f"{LOSING} (float64, cpu): FAILS" in result.output
    assert f"{OTHER} (float64, cpu): FAILS" not in result.output
    assert "something is wrong" in result.output


def test_lockstep(tmp_path):
    result = run("lockstep", "--model", "residual_mlp", "--steps", 2, "--json", tmp_path / "out.json")
    assert result.exit_code == 0, result.output
    (report,) = valid((tmp_path / "out.json").read_text(), "lockstep")["lockstep"]
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


def test_version():
    result = run("--version")
    assert result.exit_code == 0
    assert result.output.startswith(f"manual-bp {bp.__version__} (")


def test_completion_knows_what_there_is():
    assert shared.rule_names("") == list(bp.RULES)
    assert shared.rule_names(LOSING[:3]) == [name for name in bp.RULES if name.startswith(LOSING[:3])]
    assert [getattr(torch, name) for name in shared.DTYPES] == list(DTYPES)
    (option,) = (o for o in get_args(shared.ModelName) if hasattr(o, "autocompletion"))
    assert set(option.autocompletion("")) == {"all", *MODELS}
    assert option.autocompletion("m") == ["mlp"]


@pytest.mark.parametrize(("passed", "status"), [(True, 2), (False, 1)])
def test_a_file_that_cannot_be_written_is_said(passed, status, capsys):
    with pytest.raises(typer.Exit) as end:
        shared.write_json(Path("/dev/full"), "check", passed, {})
    assert end.value.exit_code == status
    assert "--json '/dev/full' cannot be written: No space left on device" in capsys.readouterr().err


def test_the_verdict_is_printed_before_its_file_is_written():
    result = run("verify", OTHER, "--dtype", "float64", "--json", "/dev/full")
    assert result.exit_code == 2
    assert result.output.index("all holds") < result.output.index("cannot be written")


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "the output cannot be written: No space left on device"),
    ],
)
def test_ends_in_words(monkeypatch, error, status, words):
    def raises(*_):
        raise error

    monkeypatch.setattr(importlib.import_module("manual_bp.cli.rules"), "_print_page", raises)
    result = run("rules", OTHER)
    assert result.exit_code == status
    assert words in result.output
    assert isinstance(result.exception, SystemExit)


def test_colons_are_what_they_are(capsys):
    """rich takes :x: for a picture: a name in a message, or what a network has written, would be another one."""
    for console in (shared.out, shared.notices):
        console.print("a:x:b", markup=False)
    captured = capsys.readouterr()
    assert "a:x:b" in captured.out
    assert "a:x:b" in captured.err


def test_interrupt_in_the_middle_of_an_import(monkeypatch, capfd):
    """Python would go on to import, and raise whatever a half module leads to."""

    def ends(status):
        raise SystemExit(status)

    monkeypatch.setattr("os._exit", ends)
    importing = compile("interrupt(2, sys._getframe())", "<frozen importlib._bootstrap>", "eval")
    with pytest.raises(SystemExit) as end:
        eval(importing, {"interrupt": interrupt, "sys": sys})
    assert end.value.code == 130
    assert capfd.readouterr().err == "interrupted\n"
    with pytest.raises(KeyboardInterrupt):
        interrupt(2, None)


def test_nobody_reads_on(monkeypatch):
    """`| head` closes the pipe; the command goes on to its files and its exit status."""
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        monkeypatch.setattr(shared.out, "quiet", False)
        shared.out.print("a line")
        shared.out.print("another")
        assert shared.out.quiet


@pytest.mark.parametrize("columns", ["20", "100", None])
def test_a_table_in_a_pipe_is_whole(monkeypatch, capsys, columns):
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    address = "https://example.org/" + "a" * 150
    table = Table("mistake", "seen", "what is said of it")
    table.add_row("forgotten", address, "several words " * 20)
    shared.print_table(table)
    printed = capsys.readouterr().out
    assert address in printed
    assert printed.split().count("several") == 20
    assert "forgotten" in printed
    assert "…" not in printed


def test_rules():
    result = run("rules")
    assert result.exit_code == 0
    assert all(name in result.output for name in bp.RULES)


def test_one_page():
    result = run("rules", OTHER)
    assert result.exit_code == 0
    assert bp.RULES[OTHER].summary in result.output
    assert "def backward" in result.output
    for heading in ("signature", "what goes wrong", "edges"):
        assert heading in result.output
    assert all(mistake.name.split()[0] in result.output for mistake in bp.RULES[OTHER].mistakes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("verify", LOSING[:-1]), f"Did you mean {LOSING}"),
        (("verify", "--dtype", "float8"), "--dtype must be one of"),
        (("verify", "--device", "tpu"), "--device must be cpu"),
        (("verify", OTHER, "--json", "/nowhere/out.json"), "--json must name a file"),
        (("lockstep", "--model", "transformer"), "--model must be one of"),
        (("lockstep", "--data", "/nowhere"), "folder with IDX files"),
        (("lockstep", "--steps", "0"), "steps"),
        (("lockstep", "--model", "mlp", "--frozen", "W9"), "frozen must be names of"),
        (("lockstep", "--model", "mlp", "--decayed", "weights"), "--optimizer adamw on the command line"),
        (("lockstep", "--model", "mlp", "--decayed", "W9"), "decayed must be 'weights' or names of"),
        (("bench", "--threads", "99999"), "--threads must be at most"),
        (("lockstep", "--model", "mlp", "--steps", "2", "--warmup", "3", "--cosine"), "there must be more steps"),
        (("lockstep", "--model", "mlp", "--optimizer", "lion"), "--optimizer must be one of"),
        (("lockstep", "--dtype", "bfloat16"), "float64 or float32"),
        (("rules", LOSING[:-1]), f"Did you mean {LOSING}"),
        (("nonsense",), "nonsense"),
    ],
)
def test_bad_usage_is_status_2(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.output.split())


def test_module_runs_and_is_silent_without_a_terminal():
    done = subprocess.run(
        [sys.executable, "-m", "manual_bp", "verify", OTHER, "--dtype", "float32"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
