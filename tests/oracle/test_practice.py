"""Early stopping, over-fitting and augmentation of one's own: what is wrong is named first, right ones pass."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from manual_bp.cli import app
from manual_bp.oracle import compare
from tests.own_bank import practice

SHIFT = {"shift": 1}
PIXELS = {"shift": 1, "labels": "pixels"}
FLIP = {"flip": True, "swap": (1, 0, 2)}
WRONG = {
    **{f"stopping: {n}": ("early_stopping", f, w, {}) for n, (f, w) in practice.STOPPING_WRONG.items()},
    **{f"fitting: {n}": ("overfitting", f, w, {}) for n, (f, w) in practice.FITTING_WRONG.items()},
    **{f"augmenting: {n}": ("augmentation", f, w, SHIFT) for n, (f, w) in practice.AUGMENTING_WRONG.items()},
    "labels of pixels stay": ("augmentation", practice.mask_stays, "labels of the pixels are not moved", PIXELS),
    "a mirror keeps labels": ("augmentation", practice.flip_keeps_labels, "keeps its label", FLIP),
    "upside down": ("augmentation", practice.flip_upside_down, "upside down", FLIP),
    "always mirrored": ("augmentation", practice.flip_always, "each of 512 images is mirrored", FLIP),
}
RIGHT = {
    **{f"stopping: {n}": ("early_stopping", f, {}) for n, f in practice.STOPPING_RIGHT.items()},
    **{f"fitting: {n}": ("overfitting", f, {}) for n, f in practice.FITTING_RIGHT.items()},
    **{f"augmenting: {n}": ("augmentation", f, SHIFT) for n, f in practice.AUGMENTING_RIGHT.items()},
    "labels of pixels": ("augmentation", practice.mask_moves, PIXELS),
    "a mirror": ("augmentation", practice.flip, FLIP),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(name):
    kind, candidate, words, hyper = WRONG[name]
    report = compare(candidate, kind, hyper=hyper)
    assert not report.passed
    assert any(word in report.diagnoses[0] for word in words.split("|")), str(report)


@pytest.mark.parametrize("name", RIGHT)
def test_right_ones_pass(name):
    kind, candidate, hyper = RIGHT[name]
    report = compare(candidate, kind, hyper=hyper)
    assert report.passed, str(report)


def test_what_is_declared_is_right():
    as_good, _ = practice.STOPPING_WRONG["as good is better"]
    assert compare(as_good, "early_stopping", conventions={"tie": "last"}).passed
    assert not compare(practice.STOPPING_RIGHT["plain"], "early_stopping", conventions={"tie": "last"}).passed

    def without(losses, patience):
        return practice.STOPPING_RIGHT["plain"](losses, patience)

    assert compare(without, "early_stopping", hyper={"min_delta": 0.0}).passed
    assert compare(without, "early_stopping").untested_hyper == ["min_delta"]


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("augmentation", {}, "say what may be done to the images"),
        ("augmentation", {"hyper": {"turn": 1}}, r"declared by .*'shift'.*; came \['turn'\]"),
        ("augmentation", {"hyper": {"flip": True, "swap": (1, 1, 2)}}, "swap is the class that each of 3 becomes"),
        ("overfitting", {"hyper": {"patience": 1}}, "it takes no such hyper"),
        ("early_stopping", {"conventions": {"tie": "split"}}, "conventions are"),
    ],
)
def test_what_cannot_be_declared_is_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        compare(practice.shift, kind, **options)


def test_the_command_judges_a_practice(tmp_path):
    source, page, document = (tmp_path / name for name in ("mine.py", "report.html", "report.json"))
    source.write_text("def stop(losses, patience, min_delta=0.0):\n    return len(losses), len(losses)\n")
    arguments = ["check", f"{source}:stop", "--against", "early_stopping", "--html", str(page), "--json", str(document)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1, result.output
    assert "FAILS in" in result.output
    assert "early_stopping" in page.read_text()
    assert json.loads(document.read_text())["report"]["failed"] > 0


def test_no_cause_is_said_that_right_answers_contradict():
    """It says yes in 4 of 12 runs, so that it does not find some in every one."""

    def tenth(training, validation):
        best = min(range(len(validation)), key=validation.__getitem__)
        risen = len(validation) - best > 3 and validation[-1] > 1.1 * validation[best]
        return risen and training[-1] < training[best], best + 1

    report = compare(tenth, "overfitting")
    assert report.failed == 2
    assert not any("every run" in words for words in report.diagnoses), str(report)
