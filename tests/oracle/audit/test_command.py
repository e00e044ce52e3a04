"""manual-bp audit: exit status, words, JSON, a picture."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from manual_bp.cli import app
from tests.documents import valid
from tests.oracle.audit.test_audit import RULE


def run(*arguments):
    return CliRunner().invoke(app, ["audit", *map(str, arguments)])


def test_a_checker_of_ones_own_beside_a_ready_made_one(tmp_path):
    target = f"{__name__}:accepts_everything"
    written, picture = tmp_path / "audit.json", tmp_path / "audit.svg"
    found = run(
        target, "--against", RULE.name, "--beside", "assert_close", "--json", written, "--picture", picture, "--verbose"
    )
    assert found.exit_code == 1
    assert "it cannot fail: it never calls the program" in found.output
    assert "rejected, %" in found.output
    document = valid(written.read_text(), "audit")
    assert document["passed"] is False
    assert document["report"]["findings"] == ["it cannot fail: it never calls the program"]
    assert [report["checker"] for report in document["beside"]] == ["assert_close"]
    assert picture.read_text().startswith("<?xml")


def accepts_everything(program: object) -> None:
    del program


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("no such", "--against", RULE.name), "a ready-made checker must be one of"),
        ((f"{__name__}:nothing", "--against", RULE.name), "must hold 'nothing'"),
        (("assert_close", "--against", "no_such_rule"), "no_such_rule"),
        (("assert_close", "--against", RULE.name, "--picture", "audit.txt"), "must end in one of"),
        (("assert_close", "--against", RULE.name, "--allow", "rounding"), "allow must name kinds"),
    ],
)
def test_bad_usage_is_status_2(arguments, words):
    found = run(*arguments)
    assert found.exit_code == 2
    assert words in " ".join(found.output.split())
