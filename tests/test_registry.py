"""Pages that another distribution registers."""

from __future__ import annotations

import textwrap

import pytest
import torch

import manual_bp as bp
from manual_bp.oracle import compare
from manual_bp.registry import Rules

PAGE = '''
"""Twice x.

y = 2 x
"""
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from manual_bp.inputs import Input


class Residuals(NamedTuple):
    pass


def forward(x: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Residuals]:
    return 2 * x, Residuals()


def backward(residuals: Residuals, dy: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"]]:
    return (2 * dy,)


INPUTS = {"x": Input()}
EDGES = ()
MISTAKES = ()
'''


@pytest.fixture
def distribution(tmp_path, monkeypatch):
    """Makes a distribution of pages, as pip would leave it; returns the rules that are seen then."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(package, **files):
        folder = tmp_path / package
        for name, text in {"__init__": "", **files}.items():
            path = folder / f"{name.replace('__in__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        info = tmp_path / f"{package}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[manual_bp.rules]\nmine = {package}\n")
        return Rules("manual_bp.rules", bp.RULES._folder)

    return make


def test_pages_of_another_distribution_are_rules(distribution):
    rules = distribution("pages_a", chapter__in__twice_of_a=PAGE, again_of_a=PAGE, _helper="1 / 0")
    assert set(rules) - set(bp.RULES) == {"twice_of_a", "again_of_a"}
    rule = rules["twice_of_a"]
    assert rule.chapter == "chapter"
    assert compare(rule.candidate, rule, dtype=torch.float64).passed


def test_a_twin_lies_beside_the_pages(distribution):
    from torch_ref.functions import function

    distribution("pages_b", twice_of_b=PAGE, _twins__in____init__="", _twins__in__twice_of_b="twice_of_b = abs")
    assert function("twice_of_b") is abs
    assert function("no_such_rule") is None


def test_a_name_that_is_taken_is_said_and_left_out(distribution):
    name = next(iter(bp.RULES))
    rules = distribution("pages_c", **{name: PAGE})
    with pytest.warns(UserWarning, match=f"a rule's name must be unique; {name} is"):
        assert set(rules) == set(bp.RULES)


def test_what_is_no_package_is_said_and_left_out(distribution, tmp_path):
    rules = distribution("pages_d")
    (tmp_path / "pages_d-1.dist-info" / "entry_points.txt").write_text("[manual_bp.rules]\nmine = pages_of_nobody\n")
    with pytest.warns(UserWarning, match=r"the pages of mine \(pages_of_nobody\) were left out: .* must be a package"):
        assert set(rules) == set(bp.RULES)


def test_a_page_in_a_file_is_named_by_its_path(tmp_path):
    path = tmp_path / "twice_in_a_file.py"
    path.write_text(PAGE)
    rule = bp.RULES[str(path)]
    assert rule.name == path.stem
    assert bp.RULES[str(path)] is rule
    assert str(path) not in set(bp.RULES)
    assert compare(rule.candidate, str(path), dtype=torch.float64).passed
    with pytest.raises(KeyError, match=r"there is no page in '.*none\.py': .* must be a file"):
        bp.RULES[str(tmp_path / "none.py")]


@pytest.mark.parametrize("name", [str.upper, lambda name: name[:-1]], ids=["in capitals", "cut short"])
def test_a_name_that_is_nearly_one_is_told(name):
    known = max(bp.RULES, key=len)
    with pytest.raises(KeyError, match=f"Did you mean .*{known}"):
        bp.RULES[name(known)]
