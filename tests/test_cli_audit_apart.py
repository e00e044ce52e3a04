"""An audit in a process of its own: whatever a checker does to its process ends in a finding."""

import json

import pytest
from typer.testing import CliRunner

from manual_bp.cli import app

CHECKERS = """
import os, signal, time
import torch

def fine(softmax):
    x, dy = torch.randn(3, 4), torch.randn(3, 4)
    p = x.softmax(-1)
    return torch.allclose(softmax((x,), dy)[1][0], p * (dy - (p * dy).sum(-1, keepdim=True)), atol=1e-5)

def dies(softmax):
    if not fine(softmax):
        os.kill(os.getpid(), signal.SIGSEGV)

def exits(softmax):
    os._exit(0)

def hangs(softmax):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    time.sleep(1000)

def eats(softmax):
    bytearray(2**31)
"""


@pytest.mark.parametrize(
    ("checker", "words"),
    [
        ("dies", "it ended its process by the signal SIGSEGV when it was given '"),
        pytest.param(
            "exits",
            "it ended its process with status 0 when it was given 'the rule itself'",
            marks=pytest.mark.exhaustive,
        ),
        ("hangs", "it hangs and could not be interrupted: 'the rule itself' had no verdict within 1 s"),
        pytest.param(
            "eats",
            "it raises whatever it is given, as for the rule itself: MemoryError",
            marks=pytest.mark.exhaustive,
        ),
    ],
)
def test_what_a_checker_does_to_its_process_is_a_finding(tmp_path, checker, words):
    path = tmp_path / "checkers_apart.py"
    path.write_text(CHECKERS)
    limits = ("--timeout", "1", "--seconds", "5", "--memory", "1024", "--json", str(tmp_path / "audit.json"))
    result = CliRunner().invoke(app, ["audit", f"{path}:{checker}", "--against", "softmax", "--isolate", *limits])
    assert result.exit_code == 1, result.output
    report = json.loads((tmp_path / "audit.json").read_text())["report"]
    assert any(finding.startswith(words) for finding in report["findings"]), report["findings"]
    assert any(o["how"] == "accepted" for o in report["outcomes"]) == (checker == "dies")


@pytest.mark.exhaustive
def test_the_report_is_that_of_the_other_process(tmp_path):
    path = tmp_path / "checkers_apart.py"
    path.write_text(CHECKERS)
    options = ("--seconds", "20", "--json", str(tmp_path / "audit.json"))
    result = CliRunner().invoke(app, ["audit", f"{path}:fine", "--against", "softmax", "--isolate", *options])
    report = json.loads((tmp_path / "audit.json").read_text())["report"]
    assert not report["findings"], report["findings"]
    assert {o["how"] for o in report["outcomes"] if o["is_right"]} == {"accepted"}
    assert any(o["how"] == "rejected" for o in report["outcomes"])
    assert report["reasons"]
    result = CliRunner().invoke(app, ["audit", f"{path}:missing", "--against", "softmax", "--isolate"])
    assert result.exit_code == 2, result.output
