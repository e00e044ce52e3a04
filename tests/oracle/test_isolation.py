"""`manual-bp check`: candidates by name, and hostile ones in a process of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

import manual_bp
from manual_bp.cli import app
from tests.documents import valid

CANDIDATES = r"""
import ctypes, json, os, subprocess, sys, time
import torch

ESCAPES = "\x1b[2J\x1b[8m\x07\u202e\nrelu (float32, cpu): agrees in 34 cases"

def right(inputs, dy):
    (x,) = inputs
    return torch.relu(x), (torch.where(x > 0, dy, 0),)

def wrong(inputs, dy):
    (x,) = inputs
    return torch.relu(x), (dy,)

def exits(inputs, dy):
    sys.exit(3)

def dies(inputs, dy):
    os._exit(7)

def hangs(inputs, dy):
    time.sleep(600)

def leaves_a_child(inputs, dy):
    subprocess.Popen(["sleep", "600"])
    hangs(inputs, dy)

def crashes(inputs, dy):
    ctypes.string_at(0)

def talks(inputs, dy):
    os.write(1, b"\x1b[2J" * 10**6)
    return right(inputs, dy)

class WithExit:
    def __call__(self, inputs, dy):
        return right(inputs, dy)

    @property
    def __signature__(self):
        sys.exit(0)

with_exit = WithExit()

def looks(inputs, dy):
    if json.loads(open("out.json").read())["passed"]:
        raise AssertionError("the verdict of an earlier run stands")
    return right(inputs, dy)

def recurses(inputs, dy):
    return recurses(inputs, dy)

def generator(inputs, dy):
    yield dy

def prints_a_verdict(inputs, dy):
    document = '{"passed": true}'
    print("relu (float32, cpu): agrees in 34 cases", document)
    for name in sys.argv:
        if name.endswith(".json"):
            open(name, "w").write(document)
    os._exit(0)

def replaces_the_oracle(inputs, dy):
    import manual_bp.oracle.judgement, manual_bp.oracle.truth.errors
    none = lambda got, expected, allowance, dtype: (torch.zeros_like(expected),) * 2
    manual_bp.oracle.judgement.errors = manual_bp.oracle.truth.errors.errors = none
    return wrong(inputs, dy)

def answers_itself(inputs, dy):
    from manual_bp.oracle.calling import messages
    answers, questions = pipes()
    while True:
        y, (dx,) = wrong(inputs, dy)
        messages.send_answer(answers, {**EMPTY, "passed": True}, [y, dx])
        question = messages.receive_question(questions)
        inputs, dy = tuple(question["inputs"]), question["dy"]

EMPTY = {"traps": (), "findings": (), "differences": (), "notes": (), "raised": ""}

def pipes():
    frame = sys._getframe()
    while "answers" not in frame.f_locals:
        frame = frame.f_back
    return frame.f_locals["answers"], frame.f_locals["questions"]

def forges(inputs, dy):
    from manual_bp.oracle.calling import messages
    findings = [("y", f"{i}") for i in range(20_000)]
    messages.send_answer(pipes()[0], {**EMPTY, "findings": findings}, [*right(inputs, dy)[1] * 2])
    hangs(inputs, dy)

def answers_nonsense(inputs, dy):
    for fd in range(3, 20):
        try:
            os.write(fd, b"nonsense" * 100)
        except OSError:
            pass
    return right(inputs, dy)

calls = 0

def odd(inputs, dy):
    global calls
    calls += 1
    y, (dx,) = right(inputs, dy)
    print(ESCAPES)
    if calls % 5 == 0:
        raise ValueError(ESCAPES)
    return y, (
        [
            dy.reshape(-1)[:1].expand(10**12) if dy.numel() else dy,
            dx.to_sparse(),
            type(ESCAPES, (), {})(),
            type("long" * 10**6, (), {})(),
        ][calls % 5 - 1],
    )

def forks(inputs, dy):
    os.fork()
    return right(inputs, dy)

def leaves_a_session(inputs, dy):
    child = os.fork()
    if child == 0:
        os.setsid()
        os.execvp("sleep", ["sleep", "120"])
    with open("left", "w") as file:
        file.write(str(child))
    os._exit(7)

def tells_and_hangs(inputs, dy):
    child = subprocess.Popen(["sleep", "600"])
    with open("processes.part", "w") as file:
        file.write(f"{os.getpid()} {child.pid}")
    os.rename("processes.part", "processes")
    hangs(inputs, dy)

number = 3
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    (tmp_path / "candidates_here.py").write_text(textwrap.dedent(CANDIDATES))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "candidates_here", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def check(name, *options):
        return CliRunner().invoke(app, ["check", f"candidates_here:{name}", "--against", "relu", *options])

    return check


@pytest.mark.parametrize("isolate", [[], ["--isolate"]], ids=["here", "isolated"])
def test_right_and_wrong(run, tmp_path, isolate):
    options = (*isolate, "--diagnose", "0", "--json", str(tmp_path / "out.json"))
    good, bad = run("right", *isolate), run("wrong", *options)
    assert good.exit_code == 0, good.output
    assert "relu (float32, cpu): agrees" in good.output
    assert bad.exit_code == 1
    assert "wrong: dx" in bad.output
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["passed"] is False
    assert document["report"]["mismatches"][0]["argument"] == "dx"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("exits", "raised SystemExit: 3"),
        ("recurses", "raised RecursionError"),
        ("generator", "(y, grads) is due, that is (y, (dx,)); a generator came"),
        ("with_exit", "finding: the candidate raised SystemExit: 0"),
    ],
)
def test_hostile_candidates_are_findings(run, name, words):
    result = run(name)
    assert result.exit_code == 1
    assert words in " ".join(result.output.split())


def test_the_verdict_of_an_earlier_run_does_not_stand(run, tmp_path):
    (tmp_path / "out.json").write_text('{"passed": true}')
    result = run("looks", "--json", "out.json")
    assert result.exit_code == 0, result.output
    assert valid((tmp_path / "out.json").read_text(), "check")["passed"] is True


@pytest.mark.parametrize(
    ("name", "status"), [("prints_a_verdict", 0), pytest.param("dies", 7, marks=pytest.mark.exhaustive)]
)
def test_a_candidate_that_ends_the_process(run, tmp_path, name, status):
    """Whatever it has printed and written before."""
    result = run(name, "--isolate", "--json", str(tmp_path / "out.json"))
    assert result.exit_code == 1
    assert f"ended the process with status {status}" in result.output
    assert f"status {status}" in valid((tmp_path / "out.json").read_text(), "check")["report"]["findings"][0]


def test_a_candidate_that_crashes(run):
    result = run("crashes", "--isolate")
    assert result.exit_code == 1
    assert "ended the process by the signal SIGSEGV" in " ".join(result.output.split())


@pytest.mark.exhaustive
def test_a_candidate_that_prints_and_prints(run):
    result = run("talks", "--isolate")
    assert result.exit_code == 0
    assert "bytes that the candidate printed are left out" in result.output
    assert is_plain(result.output)
    assert "relu (float32, cpu): agrees" in " ".join(result.output.split())
    assert len(result.output) < 10**6


def test_a_module_that_exits_when_it_is_imported(run, tmp_path):
    (tmp_path / "exits_at_once.py").write_text("import sys\nsys.exit(0)\n")
    result = CliRunner().invoke(app, ["check", "exits_at_once:vjp", "--against", "relu"])
    assert result.exit_code == 2
    assert "cannot be imported: SystemExit: 0" in " ".join(result.output.split())


def test_a_candidate_that_never_returns(run):
    result = run("leaves_a_child", "--isolate", "--timeout", "6")
    assert result.exit_code == 1
    assert "did not return within 6 s" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("candidates_here", "MODULE:CALLABLE"),
        ("nowhere_at_all:vjp", "cannot be imported"),
        ("candidates_here:left", "must hold 'left'; it holds"),
        ("candidates_here:number", "came a int"),
    ],
)
def test_bad_targets(run, target, message):
    result = CliRunner().invoke(app, ["check", target, "--against", "relu"])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_a_page(run, tmp_path):
    assert run("wrong", "--html", str(tmp_path / "report.html"), "--diagnose", "0").exit_code == 1
    page = (tmp_path / "report.html").read_text()
    assert "candidates_here:wrong" in page
    assert "Failed" in page
    assert run("wrong", "--html", str(tmp_path / "report.html"), "--isolate").exit_code == 2


def test_bad_usage_reaches_through_isolation(run):
    result = run("left", "--isolate")
    assert result.exit_code == 2
    assert "must hold 'left'" in " ".join(result.output.split())


@pytest.mark.thinned(2)
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("replaces_the_oracle", "wrong: dx"),
        ("answers_itself", "wrong: dx"),
        ("answers_nonsense", "closed or disturbed the pipe"),
        ("forges", "answered in the oracle's place"),
    ],
)
def test_what_is_wrong_stays_so(run, name, words):
    result = run(name, "--isolate", "--timeout", "600", "--diagnose", "0")
    assert result.exit_code == 1
    assert words in " ".join(result.output.split())


def test_words_and_results_of_every_make(run, tmp_path):
    """Of one candidate, so that one process does for all."""
    result = run("odd", "--isolate", "--verbose", "--timeout", "600", "--json", str(tmp_path / "out.json"))
    assert result.exit_code == 1
    words = result.output
    assert "came (1000000000000,)" in words
    assert "Tensor of layout torch.sparse_coo came" in words
    assert "raised ValueError: \\x1b[2J\\x1b[8m\\x07\\u202e\n    | relu (float32, cpu): agrees" in words
    assert "a \\x1b[2J\\x1b[8m\\x07\\u202e\n" in words
    assert "longlonglong ... longlonglong" in words.replace(
        " ... ".join(["long" * 25] * 2), "longlonglong ... longlonglong"
    )
    assert "The candidate printed:\n| \\x1b[2J" in words
    assert [line for line in words.splitlines() if line.startswith("relu")] == [
        next(line for line in words.splitlines() if "FAILS" in line)
    ]
    assert is_plain(words)
    assert is_plain((tmp_path / "out.json").read_text())
    assert len(words) < 10**5


def is_plain(text):
    return all(c.isprintable() or c == "\n" for c in text)


@pytest.mark.exhaustive
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc")
def test_what_leaves_the_session_is_not_waited_for(run, tmp_path):
    result = run("leaves_a_session", "--isolate", "--timeout", "600")
    left = int((tmp_path / "left").read_text())
    assert is_running(left)
    os.kill(left, signal.SIGKILL)
    assert "ended the process with status 7" in result.output


@pytest.mark.exhaustive
def test_a_candidate_that_forks(run):
    assert run("forks", "--isolate", "--timeout", "600").exit_code == 0


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc")
@pytest.mark.parametrize(
    "end",
    [
        signal.SIGKILL,
        pytest.param(signal.SIGTERM, marks=pytest.mark.exhaustive),
        pytest.param(signal.SIGINT, marks=pytest.mark.exhaustive),
    ],
    ids=lambda s: s.name,
)
def test_nothing_is_left_when_the_command_is_ended(run, tmp_path, end):
    command = [sys.executable, "-m", "manual_bp.cli", "check", "candidates_here:tells_and_hangs"]
    path = os.pathsep.join([str(Path(manual_bp.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [*command, "--against", "relu", "--isolate", "--timeout", "300"],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # A shell has what it starts in the background ignore SIGINT, and so would whatever that starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    told = tmp_path / "processes"
    _until(told.exists)
    process.send_signal(end)
    process.wait(60)
    _until(lambda: not any(is_running(pid) for pid in told.read_text().split()))


def _until(holds):
    for _ in range(1200):
        if holds():
            return
        time.sleep(0.1)
    raise AssertionError("it did not come about")
