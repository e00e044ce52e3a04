"""Programs that go for the process that grades them, and what is left of theirs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import manual_bp as bp
from manual_bp import keeper
from manual_bp.cli import app
from manual_bp.keeper import Limits, kept
from manual_bp.oracle import grade
from manual_bp.oracle.cases.declared import Declared
from manual_bp.oracle.grading.loading import of_callable
from manual_bp.oracle.grading.run import Run
from manual_bp.oracle.grading.untrusted import Process
from manual_bp.oracle.truth.conventions import Conventions
from tests.documents import valid
from tests.oracle.grading import hostile

HERE = Path(__file__).parent
HOSTILE = HERE / "hostile.py"
PATIENT = 600.0
linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def graded(name, **limits):
    return grade(f"{HOSTILE}:{name}", "relu", timeout=PATIENT, diagnose=0, **limits)


def are_gone(file="left"):
    """Whether the processes that are named in a file end, and that there are any."""
    for _ in range(100):
        left = [process for process in Path(file).read_text().split() if is_running(process)]
        if not left:
            return True
        time.sleep(0.1)
    return False


def is_running(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_one_document_and_nothing_else_is_printed():
    """Of a task in the form of KernelBench's, whose ModelNew talks."""
    program, task = f"{HERE / 'programs.py'}:Talking", f"{HERE / 'task.py'}:Model"
    of_model = ["--against", task, "--inputs", "x=4x3,weight=2x3,bias=2"]
    options = ["--timeout", str(PATIENT), "--seed", "7", "--json", "out.json"]
    result = CliRunner().invoke(app, ["grade", program, *of_model, *options])
    document = valid(result.stdout, "grade")
    assert result.exit_code == 0, result.output
    assert document == json.loads(Path("out.json").read_text())
    assert document["passed"] is True
    assert document["schema"] == 1
    assert (document["candidate"], document["against"], document["seed"]) == (program, "Model", 7)
    assert document["limits"] == {"timeout_s": PATIENT, "memory_mib": 4096, "processes": 128}
    assert 0 < document["seconds"]["candidate"] < document["seconds"]["total"]
    assert "\\x1b[2J" in document["printed"]
    assert all(c.isprintable() or c == "\n" for c in result.stdout)


def test_a_verdict_of_its_own_is_none():
    verdict = graded("claims")
    assert not verdict.passed
    assert verdict.first_failing.family == "ordinary inputs"
    assert "the candidate closed or disturbed the pipe" in verdict.diagnosis or "status 0" in verdict.diagnosis


def test_what_it_replaces_judges_nothing():
    verdict = graded("edits")
    assert not verdict.passed
    assert verdict.first_failing.family == "ordinary inputs"
    assert verdict.mismatches[0].kind == "wrong"


@linux
def test_more_processes_than_may_be():
    verdict = graded("multiplies", processes=20)
    assert verdict.diagnosis == "the candidate ran more than 20 processes at once and was stopped"
    assert are_gone()


@linux
def test_more_memory_than_may_be():
    verdict = graded("grows", memory=512)
    assert verdict.diagnosis == "the candidate held more than 512 MiB of memory and was stopped"
    assert "refused" in verdict.printed
    assert verdict.first_failing.family == "ordinary inputs"


@linux
def test_more_time_than_may_be(monkeypatch):
    with kept(Limits(timeout=PATIENT)) as started:
        process = Process(started)
        process.load(f"{HOSTILE}:right")
        monkeypatch.setattr(process._talk, "_timeout", process.seconds + 1)  # whatever its start took
        run = Run(bp.RULES["relu"], torch.float32, "cpu", 0, Conventions(), Declared(), strict=False)
        run.grade(process, f"{HOSTILE}:hangs", diagnose=0)
    verdict = run.verdict("hangs")
    assert "and was stopped" in verdict.diagnosis
    assert verdict.first_failing.family == "ordinary inputs"
    assert are_gone()


@linux
@pytest.mark.exhaustive
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name)
def test_without_its_judge(end):
    command = [sys.executable, "-m", "manual_bp", "grade", f"{HOSTILE}:hangs", "--against", "relu"]
    path = os.pathsep.join([str(Path(bp.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    judge = subprocess.Popen(
        [*command, "--timeout", str(PATIENT)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # A shell has what it starts in the background ignore SIGINT, and so would whatever that starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not (Path("left").exists() and Path("left").read_text().endswith("\n")):
        assert judge.poll() is None
        time.sleep(0.1)
    judge.send_signal(end)
    assert judge.wait(60) != 0
    assert are_gone()


@linux
@pytest.mark.exhaustive
def test_without_its_keeper():
    verdict = graded("ends_its_keeper")
    assert verdict.diagnosis.startswith("the candidate ended the process by the signal SIGKILL")
    assert are_gone()


@linux
def test_the_judge_s_memory_is_closed_to_other_processes():
    """While there is a candidate; which root can reach it all the same."""
    before = keeper._prctl(keeper.PR_GET_DUMPABLE)
    with kept(Limits()):
        assert keeper._prctl(keeper.PR_GET_DUMPABLE) == 0
    assert keeper._prctl(keeper.PR_GET_DUMPABLE) == before


@pytest.mark.parametrize(
    ("program", "options", "words"),
    [
        ("nowhere.py", {}, "there is no file 'nowhere.py'"),
        ("nowhere", {}, "a program is PATH.py[:CALLABLE] or MODULE:CALLABLE"),
        (lambda inputs, dy: None, {}, "is no function or class at the top of a file"),
        (HOSTILE, {"against": 3}, "must be a rule, its name, or a function"),
        (HOSTILE, {"seeds": "many"}, 'seeds must be "fresh" or an integer'),
        (HOSTILE, {"timeout": 0}, "timeout must be seconds"),
        (HOSTILE, {"timeout": "60"}, "timeout must be a number; came '60'"),
        (HOSTILE, {"memory": "4GB"}, "memory must be a number; came '4GB'"),
        (HOSTILE, {"memory": 100}, "memory must be MiB, 512 or more"),
        (HOSTILE, {"processes": 0}, "processes must be 1 or more"),
        (HOSTILE, {"dtype": torch.int64}, "dtype must be one of"),
    ],
)
def test_bad_usage(program, options, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        grade(program, **{"against": "relu", **options})


def test_bad_usage_on_the_command_line():
    result = CliRunner().invoke(app, ["grade", "nowhere.py", "--against", "relu"])
    assert (result.exit_code, result.stdout) == (2, "")


def test_a_function_is_found_by_its_file():
    assert of_callable(hostile.wrong) == f"{HOSTILE}:wrong"
