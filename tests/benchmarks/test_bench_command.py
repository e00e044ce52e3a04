"""`manual-bp bench`: bad usage, a place without benchmarks, and one small run."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.report import rows_of
from manual_bp.cli import app

bench = importlib.import_module("manual_bp.cli.bench")  # the package gives the name to the command


def run(*arguments):
    return CliRunner().invoke(app, ["bench", *map(str, arguments)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--only", "speed"), "--only must be one of"),
        (("--device", "tpu"), "--device must be cpu"),
        (("--json", "/nowhere/out.json"), "--json must name a file"),
    ],
)
def test_bad_usage(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu():
    result = run("--device", "cuda")
    assert result.exit_code == 2
    assert "needs a GPU" in result.output


def test_outside_of_a_repository(monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "__file__", str(tmp_path / "site-packages" / "manual_bp" / "cli" / "bench.py"))
    result = run("--quick")
    assert result.exit_code == 2
    assert "Clone the repository" in " ".join(result.output.split())


def test_what_is_run(monkeypatch, tmp_path):
    seen = []

    def measures(command, root):
        seen.append((command, root))
        Path(command[-1]).write_text("{}")
        return 1

    monkeypatch.setattr(bench, "_run", measures)
    result = run("--quick", "--only", "steps", "--threads", 1, "--json", tmp_path / "out.json")
    assert result.exit_code == 1  # as pytest's
    ((command, root),) = seen
    assert [a for a in command if a.endswith(".py")] == ["benchmarks/test_steps.py"]
    assert command[-5:-1] == ["--quick", "--threads", "1", "--benchmark-json"]
    assert (root / "pyproject.toml").exists()
    assert (tmp_path / "out.json").read_text() == "{}"


def test_measured_and_not_written(monkeypatch):
    monkeypatch.setattr(bench, "_run", lambda command, root: Path(command[-1]).write_text("{}") and 0)
    result = run("--json", "/dev/full")
    assert result.exit_code == 2
    assert "--json '/dev/full' cannot be written" in result.output


def test_nothing_measured_leaves_an_older_file(monkeypatch, tmp_path):
    (tmp_path / "out.json").write_text("older")
    monkeypatch.setattr(bench, "_run", lambda command, root: 0)
    result = run("--json", tmp_path / "out.json")
    assert result.exit_code == 2
    assert "nothing was measured" in result.output
    assert (tmp_path / "out.json").read_text() == "older"


def test_interrupted_keeps_what_was_measured(monkeypatch, tmp_path):
    (tmp_path / "out.json").write_text("older")
    monkeypatch.setattr(bench, "_run", lambda command, root: Path(command[-1]).write_text("{}") and 2)
    assert run("--json", tmp_path / "out.json").exit_code == 130
    assert (tmp_path / "out.json").read_text() == "older"
    assert (tmp_path / "out.json.partial").read_text() == "{}"


def test_ctrl_c_lets_a_run_say_what_it_has(monkeypatch, tmp_path):
    """KeyboardInterrupt while it is waited for: the run gets SIGINT, and time to end."""
    # What is started in the background of a shell ignores SIGINT, and so does what it starts.
    heeds = "import signal, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code = heeds + "try: print('on', flush=True); time.sleep(60)\nexcept KeyboardInterrupt: open('said', 'w')"
    popen, wait = subprocess.Popen, subprocess.Popen.wait
    started = []

    def waits(process, timeout=None):
        if started:
            return wait(process, timeout)
        started.append(process.stdout.readline())
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: popen(*a, **k, stdout=subprocess.PIPE))
    monkeypatch.setattr(popen, "wait", waits)
    assert bench._run([sys.executable, "-S", "-c", code], tmp_path) == 2
    assert (tmp_path / "said").exists()


@pytest.mark.exhaustive
def test_one_check_end_to_end(tmp_path):
    """The whole way, on the group that compiles nothing: pytest, the rows, the JSON, the table."""
    out = tmp_path / "out.json"
    root = bench.checkout()
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "benchmarks/test_checker.py",
        "-k",
        "one_check and (leaky_relu or prelu)",
    ]
    # This test may itself run in a worker of pytest-xdist, where pytest-benchmark measures nothing.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command += ["--benchmark-json", str(out)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    saved = json.loads(out.read_text())
    rows = rows_of(saved)
    assert {row["row"] for row in rows} == {"check of leaky_relu", "check of prelu"}
    assert all(row["values"]["manual-bp"]["median"] > 0 for row in rows)
    assert saved["schema"] == 1
    assert saved["machine_info"].keys() >= {"cpu", "cores", "threads", "versions"}
    assert "node" not in saved["machine_info"]
    assert "what one waits for" in done.stdout
