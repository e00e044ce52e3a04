"""Vectors for other languages: they are what the oracle judges by, survive a file bit for bit, and reject mistakes."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from dataclasses import asdict

import pytest
import torch
from typer.testing import CliRunner

import manual_bp as bp
from manual_bp.cli import app
from manual_bp.oracle import compare
from manual_bp.oracle.case import NOT_RECORDED
from manual_bp.oracle.reports.report import plain
from manual_bp.oracle.vectors import HOW, recorded, vectors
from manual_bp.outputs import parts
from manual_bp.rule import as_vjp
from tests.documents import valid

ELEMENTWISE = next(rule for rule in bp.RULES.values() if rule.elementwise and len(rule.inputs) == 1 and rule.mistakes)


def written(rule, dtype=torch.float32):
    """The document of a rule as a program reads it from its file."""
    return valid(json.dumps(plain(asdict(vectors(rule, dtype))), allow_nan=False), "vectors")


def numbers(array):
    return [float(x) for x in array["data"]]


def is_right(got, due, dtype):
    """As HOW says, written by somebody who has only that."""
    smallest_normal = torch.finfo(dtype).smallest_normal
    for g, d, allowance in zip(got, numbers(due), map(float, due["allowance"]), strict=True):
        if allowance == math.inf or (math.isfinite(d) and abs(g - d) <= allowance):
            continue
        if not math.isfinite(d) and (g == d or (math.isnan(g) and math.isnan(d))):
            continue
        if not (g == 0 and abs(d) < smallest_normal):
            return False
    return True


def with_results(rule, document, vjp):
    """The document with what a program gets from its numbers."""
    cases, dtype = recorded({**document, "cases": [{**case, "got": {}} for case in document["cases"]]})
    for entry, case in zip(document["cases"], cases, strict=True):
        y, grads = as_vjp(rule, vjp)(case.inputs, case.dy, **case.hyper)
        results = dict(zip(rule.arguments, (*parts(y), *grads), strict=True))
        entry["got"] = {name: None if x is None else x.double().flatten().tolist() for name, x in results.items()}
    return json.loads(json.dumps(plain(document))), dtype


@pytest.mark.thinned(6)
def test_a_rule_meets_its_own_vectors(rule):
    """By the oracle, and by a reader of HOW; and every mistake that shows in small cases is caught by one."""
    document, dtype = with_results(rule, written(rule), rule.candidate)
    for case in document["cases"]:
        for name, due in case["due"].items():
            if due is not None and case["got"][name] is not None:
                assert is_right(map(float, case["got"][name]), due, dtype), (case["name"], name)
    report = compare(None, rule, cases=recorded(document)[0], dtype=dtype, diagnose=0)
    assert report.passed, str(report)
    caught = {name for case in document["cases"] for name in case["catches"]}
    assert caught, "no mistake is caught"
    assert caught <= {mistake["name"] for mistake in document["mistakes"]}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_a_file_keeps_every_bit(dtype):
    document = json.loads(json.dumps(plain(asdict(vectors(ELEMENTWISE, dtype)))))
    again, found = recorded({**document, "cases": [{**case, "got": {}} for case in document["cases"]]})
    assert found == dtype
    for entry, case in zip(document["cases"], again, strict=True):
        (x,) = case.inputs
        assert x.dtype == dtype
        assert list(x.shape) == entry["inputs"]["x"]["shape"]
        assert plain(x.double().flatten().tolist()) == entry["inputs"]["x"]["data"]
        assert case.y is NOT_RECORDED


def test_a_mistake_is_rejected_and_named_from_its_file(tmp_path):
    mistake = next(m for m in ELEMENTWISE.mistakes if not m.loses_digits)
    document, _ = with_results(ELEMENTWISE, written(ELEMENTWISE), ELEMENTWISE.mistaken(mistake.backward))
    (tmp_path / "results.json").write_text(json.dumps(document))
    result = CliRunner().invoke(app, ["check", str(tmp_path / "results.json"), "--against", ELEMENTWISE.name])
    assert result.exit_code == 1, result.output
    assert f"known mistake '{mistake.name}'" in " ".join(result.output.split())


def test_cases_without_results_are_not_passed(tmp_path):
    document, _ = with_results(ELEMENTWISE, written(ELEMENTWISE), ELEMENTWISE.candidate)
    for case in document["cases"][3:]:
        del case["got"]
    (tmp_path / "results.json").write_text(json.dumps(document))
    result = CliRunner().invoke(app, ["check", str(tmp_path / "results.json"), "--against", ELEMENTWISE.name])
    assert result.exit_code == 1
    words = " ".join(result.output.split())
    assert "NOT TESTED: nothing is wrong in 3 cases" in words
    assert f"{len(document['cases']) - 3} cases without results" in words


def test_results_of_another_rule(tmp_path):
    document, _ = with_results(ELEMENTWISE, written(ELEMENTWISE), ELEMENTWISE.candidate)
    (tmp_path / "results.json").write_text(json.dumps(document))
    other = next(rule for rule in bp.RULES.values() if rule.arguments == ELEMENTWISE.arguments and rule != ELEMENTWISE)
    result = CliRunner().invoke(app, ["check", str(tmp_path / "results.json"), "--against", other.name])
    assert result.exit_code == 2
    words = " ".join(result.output.split())
    assert f"--against must be the rule of the results, {ELEMENTWISE.name}; came {other.name}" in words


def test_results_are_judged_in_their_own_dtype(tmp_path):
    document, dtype = with_results(ELEMENTWISE, written(ELEMENTWISE, torch.bfloat16), ELEMENTWISE.candidate)
    (tmp_path / "results.json").write_text(json.dumps(document))
    arguments = ["check", str(tmp_path / "results.json"), "--against", ELEMENTWISE.name, "--compute", "bfloat16"]
    result = CliRunner().invoke(app, [*arguments, "--json", str(tmp_path / "report.json")])
    assert result.exit_code == 0, result.output
    assert valid((tmp_path / "report.json").read_text(), "check")["report"]["dtype"] == str(dtype).removeprefix(
        "torch."
    )


def test_null_for_a_number_is_said_with_its_place(tmp_path):
    """As JSON.stringify writes NaN."""
    document, _ = with_results(ELEMENTWISE, written(ELEMENTWISE), ELEMENTWISE.candidate)
    case = next(case for case in document["cases"] if case["got"]["dx"])
    case["got"]["dx"][0] = None
    (tmp_path / "results.json").write_text(json.dumps(document))
    result = CliRunner().invoke(app, ["check", str(tmp_path / "results.json"), "--against", ELEMENTWISE.name])
    assert result.exit_code == 2
    words = " ".join(result.output.split())
    assert f"got['dx'] of case {case['name']!r} must hold numbers" in words
    assert '"nan", "inf" or "-inf"; came null' in words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no json", "results must be a JSON file of manual-bp vectors"),
        ("{}", "KeyError: 'dtype'"),
        ("[]", "with `got` in its cases; came a list"),
        ('{"dtype": "float32", "results": ["y", "dx"], "cases": [{"name": "a"}]}', "no case has it"),
        (
            '{"dtype": "float32", "results": ["y", "dx"], "count": 1, "cases": [{"name": "a", "got": {"dz": []}}]}',
            "got must hold some of ['y', 'dx']; came 'dz'",
        ),
        (
            '{"dtype": "float32", "results": ["y", "dx"], "count": 2, "cases": [{"name": "a", "got": {}}]}',
            "each of the 2 cases of the document once; came 1",
        ),
    ],
    ids=["no JSON", "another document", "a list", "nothing recorded", "another result", "a case was lost"],
)
def test_what_is_no_file_of_results(tmp_path, text, words):
    (tmp_path / "results.json").write_text(text)
    result = CliRunner().invoke(app, ["check", str(tmp_path / "results.json"), "--against", ELEMENTWISE.name])
    assert result.exit_code == 2
    assert words in " ".join(result.output.split())


def test_the_command(tmp_path):
    result = CliRunner().invoke(app, ["vectors", ELEMENTWISE.name, "--out", str(tmp_path / "v"), "--dtype", "float64"])
    assert result.exit_code == 0, result.output
    (path,) = (tmp_path / "v").iterdir()
    assert path.name == f"{ELEMENTWISE.name}.float64.json"
    document = valid(path.read_text("utf-8"), "vectors")
    assert document["how"] == HOW
    assert f"1 file in {tmp_path / 'v'}: {len(document['cases'])} cases" in " ".join(result.output.split()) or (
        f"{len(document['cases'])} cases" in result.output
    )


JAVASCRIPT = """
const fs = require("fs"), [file, wrong] = process.argv.slice(2);
const document = JSON.parse(fs.readFileSync(file));
const number = (x) => (typeof x === "string" ? { nan: NaN, inf: Infinity, "-inf": -Infinity }[x] : x);
for (const { inputs, dy, got } of document.cases.map((c) => ((c.got = {}), c))) {
  const x = inputs.x.data.map(number), d = dy.dy.data.map(number);
  const word = (v) => (Number.isFinite(v) ? v : String(v).replace("NaN", "nan").replace("Infinity", "inf"));
  got.y = x.map((v) => word(Math.max(v, 0) + (Number.isNaN(v) ? NaN : 0)));
  got.dx = x.map((v, i) => word(v > 0 ? (wrong ? 2 : 1) * d[i] : Number.isNaN(v) ? NaN : 0));
}
fs.writeFileSync(file, JSON.stringify(document));
"""


@pytest.mark.parametrize("wrong", ["", "wrong"], ids=["right", "wrong"])
def test_a_program_in_another_language(tmp_path, wrong):
    """JavaScript's numbers are float64, and max(x, 0) is a rule that needs no more."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    rule = next((r for r in bp.RULES.values() if r.elementwise and _is_max_with_0(r)), None)
    if rule is None:
        pytest.skip("no rule is max(x, 0)")
    file = tmp_path / "results.json"
    file.write_text(json.dumps(plain(asdict(vectors(rule, torch.float64)))))
    (tmp_path / "program.js").write_text(JAVASCRIPT)
    subprocess.run(["node", str(tmp_path / "program.js"), str(file), *([wrong] if wrong else [])], check=True)
    result = CliRunner().invoke(app, ["check", str(file), "--against", rule.name])
    assert result.exit_code == bool(wrong), result.output
    assert not wrong or "2 times" in result.output


def _is_max_with_0(rule):
    x = torch.tensor([-2.0, -0.5, 0.5, 3.0])
    return list(rule.inputs) == ["x"] and not rule.hyper and torch.equal(rule.forward(x)[0], x.clamp(min=0))
