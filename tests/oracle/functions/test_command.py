"""A function as reference on the command line: what its inputs are is spelled, and what cannot be meant is refused."""

import json
import re
import sys
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from typer.testing import CliRunner

import torch_ref
from manual_bp.cli import app
from manual_bp.inputs import Index
from manual_bp.oracle.functions import reference
from manual_bp.oracle.functions.notation import inputs_of

MODULE = "functions_of_somebody"


def scaled(x, weight, *, eps=1e-3):
    """x, of length 1 in the mean square, times weight."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def looked_up(ids, weight, mask):
    return weight[ids] * mask


def classified(x, target):
    return F.cross_entropy(x, target)


def without_eps(inputs, dy, eps=1e-3):
    y, _ = torch_ref.vjp(scaled)(inputs, dy, eps=eps)
    return y, torch_ref.vjp(scaled)(inputs, dy, eps=0.0)[1]


@pytest.fixture(autouse=True)
def module(monkeypatch):
    held = ModuleType(MODULE)
    linear = nn.Linear(3, 2)
    for function in (scaled, looked_up, classified, without_eps):
        setattr(held, function.__name__, function)
    vars(held).update(linear=linear, right=torch_ref.vjp(scaled), looked=torch_ref.vjp(looked_up), number=3)
    vars(held).update(affine=torch_ref.vjp(linear))
    monkeypatch.setitem(sys.modules, MODULE, held)


def run(candidate, against, *options):
    target = against if against in ("softmax", "") else f"{MODULE}:{against}"
    arguments = ["check", f"{MODULE}:{candidate}", "--against", target, "--diagnose", "0", *options]
    return CliRunner().invoke(app, arguments)


def test_a_wrong_gradient_is_rejected_and_written_down(tmp_path):
    shapes = ("--inputs", "x=4x9,weight=9", "--hyper", "eps=1e-2")
    result = run(
        "without_eps", "scaled", *shapes, "--json", str(tmp_path / "r.json"), "--html", str(tmp_path / "r.html")
    )
    assert result.exit_code == 1, result.output
    report = json.loads((tmp_path / "r.json").read_text())["report"]
    assert (report["rule"], report["passed"]) == ("scaled", False)
    page = (tmp_path / "r.html").read_text()
    assert "def scaled(x, weight" in page
    assert f"from {__name__} import scaled" in page


FILE = """
import torch, torch_ref
from beside import TWICE

def forward(x, weight):
    return (x * weight).tanh() * TWICE

right = torch_ref.vjp(forward)

def wrong(inputs, dy):
    y, (dx, dweight) = right(inputs, dy)
    return y, (dx, -dweight)
"""


@pytest.mark.parametrize("name", ["mine", "torch"], ids=["of a name of its own", "of a module's name"])
def test_candidate_and_reference_in_a_file(tmp_path, name):
    path = tmp_path / f"{name}.py"
    path.write_text(FILE)
    (tmp_path / "beside.py").write_text("TWICE = 2.0")
    options = ("--against", f"{path}:forward", "--inputs", "x=4x3,weight=4x3")
    results = {f: CliRunner().invoke(app, ["check", f"{path}:{f}", *options]) for f in ("right", "wrong", "no")}
    assert {f: result.exit_code for f, result in results.items()} == {"right": 0, "wrong": 1, "no": 2}
    assert "dweight has the wrong sign" in results["wrong"].output
    assert "must hold 'no'; it holds " in results["no"].output
    assert sys.modules["torch"] is torch


@pytest.mark.parametrize(
    ("candidate", "against", "inputs"),
    [
        ("looked", "looked_up", "ids=4:int<6,weight=6x3,mask=4x3:bool"),
        ("affine", "linear", "input=4x3,weight=2x3,bias=2"),
    ],
)
def test_right_programs_pass(candidate, against, inputs):
    result = run(candidate, against, "--inputs", inputs)
    assert result.exit_code == 0, result.output


APART = """
def both_vjp(inputs, dy, shift=1.0):
    (x,) = inputs
    first, second = dy
    return (x.exp() + shift, x.sum()), (first * x.exp() + second,)
"""
REFERENCE = "def both(x, *, shift=1.0):\n    return x.exp() + shift, x.sum()\n"


def test_a_candidate_in_a_process_apart(tmp_path, monkeypatch):
    for file, text in (("apart_here.py", APART), ("reference_here.py", REFERENCE)):
        (tmp_path / file).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    against = ("--against", "reference_here:both", "--inputs", "x=4x3")
    result = CliRunner().invoke(app, ["check", "apart_here:both_vjp", *against, "--min-size", "3", "--isolate"])
    assert result.exit_code == 0, result.output
    assert "both (float32, cpu): agrees" in result.output
    assert "apart_here" not in sys.modules


def test_an_index_is_of_the_axis_that_is_as_long_as_it_must_be():
    rule = reference(looked_up, inputs_of("ids=4:int<6,weight=6x3,mask=4x3:bool"))
    assert rule.inputs["ids"] == Index("weight.shape[0]")
    rule = reference(classified, inputs_of("x=4x7,target=4:int<7"))
    assert rule.inputs["target"] == Index("x.shape[1]")


@pytest.mark.parametrize(
    ("against", "options", "words"),
    [
        ("missing", (), "must hold 'missing'"),
        ("number", (), "a differentiable function of tensors is due; came a int"),
        ("scaled", (), "which parameters are tensors is not known"),
        ("scaled", ("--inputs", "x=4x9"), "nothing is said of its parameter weight"),
        ("scaled", ("--inputs", "x=4x9,weight=9,gain=3"), "no parameter 'gain'"),
        ("scaled", ("--inputs", "x=4x9,weight=9", "--hyper", "epsilon=1"), "no parameter 'epsilon'"),
        ("scaled", ("--inputs", "x=4y9,weight=9"), "the shape of x must be lengths joined by x"),
        ("scaled", ("--inputs", "x=4x9:complex,weight=9"), "the kind of x must be bool, int<100 or 0.5..2"),
        ("scaled", ("--inputs", "x=4x9,x=9"), "came x twice"),
        ("scaled", ("--inputs", "x,weight=9"), "must be NAME=SHAPE[:KIND]"),
        ("scaled", ("--inputs", "x=4x9,weight=5"), "scaled raises RuntimeError at (4, 9), (5,)"),
        ("", (), "must be the name of a rule (manual-bp rules lists them)"),
        ("softmax", ("--inputs", "x=4"), "--inputs is for a function as reference"),
    ],
)
def test_bad_usage_is_status_2(against, options, words):
    result = run("right", against, *options)
    assert result.exit_code == 2, result.output
    assert re.search(re.escape(words), " ".join(result.output.split())), result.output


def interrupted(inputs, dy, eps=1e-3):
    raise KeyboardInterrupt


def test_the_file_says_it_where_there_is_no_verdict(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[MODULE], "right", interrupted)
    file = tmp_path / "out.json"
    assert run("right", "scaled", "--inputs", "x=4x9,weight=9", "--json", str(file)).exit_code == 130
    document = json.loads(file.read_text())
    assert not document["passed"]
    assert "before there was a verdict" in document["report"]["findings"][0]


def test_the_document_may_be_the_output_alone(capfd):
    result = run("without_eps", "scaled", "--inputs", "x=4x9,weight=9", "--hyper", "eps=1e-2", "--json", "-")
    assert not result.stdout
    assert "FAILS" in result.stderr
    assert not json.loads(capfd.readouterr().out)["passed"]
