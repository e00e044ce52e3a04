"""The schemas of the JSON documents, as they are published; that documents are what they say is seen where they are
written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import ValidationError
from typer.testing import CliRunner

import benchmarks
from manual_bp.cli import app
from manual_bp.documents import DOCUMENTS, schema
from manual_bp.oracle.reports.mismatch import Mismatch
from manual_bp.oracle.reports.report import Report
from manual_bp.training.fit import EpochRecord
from tests.documents import valid

SAVED = sorted((Path(benchmarks.__file__).parent / "results").glob("speed-*.json"))


def run(*arguments):
    return CliRunner().invoke(app, ["schema", *arguments])


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_command_prints_a_schema(document):
    result = run(document)
    assert result.exit_code == 0, result.output
    assert json.loads(result.output) == schema(document)


def test_the_command_lists_the_documents():
    assert [line.split()[0] for line in run().output.splitlines()] == list(DOCUMENTS)
    assert run("no_such").exit_code == 2


def report(**changed):
    infinite = Mismatch("wrong", "dx", "edge", expected=float("inf"), got=float("nan"), ulps=float("inf"))
    found = json.loads(Report("any", "float32", "cpu", mismatches=[infinite]).to_json())
    return json.dumps({**found, **changed})


def test_numbers_that_json_lacks_are_words():
    assert valid(report(), "check", "report")["mismatches"][0]["expected"] == "inf"


@pytest.mark.parametrize(
    "changed",
    [{"schema": 1}, {"passed": "yes"}, {"more": 1}, {"cases": 1.5}, {"mismatches": [{}]}, {"diagnoses": [1]}],
    ids=str,
)
def test_what_is_no_report_is_rejected(changed):
    with pytest.raises(ValidationError):
        valid(report(**changed), "check", "report")


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
def test_saved_measurements_are_what_the_schema_says(path):
    assert valid(path.read_text("utf-8"), "bench")["benchmarks"]


def test_an_epoch_record_has_every_field():
    assert set(schema("train")["required"]) == set(EpochRecord.__dataclass_fields__)
