"""Verification notices what no single comparison can: a page wrong in both directions, an edge that falls silent."""

from __future__ import annotations

import types

import pytest
import torch
from typer.testing import CliRunner

import manual_bp as bp
from manual_bp.cli import app
from manual_bp.inputs import Edge, Mistake
from manual_bp.oracle.case import Sized
from manual_bp.oracle.cases.generated import generated
from manual_bp.oracle.checking import compare_page
from manual_bp.rule import Rule
from manual_bp.verification import RuleVerdict, parts_of, verify_rule, verify_rules
from tests.judging import torch_loses_digits
from tests.pages import PAGES
from torch_ref import vjp

LOSING = next(rule for rule in bp.RULES.values() if torch_loses_digits(rule))
"""An element-wise rule of which a formula is known that loses digits; torch's is one."""
COUPLED = next(r for r in bp.RULES.values() if not r.elementwise and [*r.inputs] == ["x"] and r.has_backward)


@pytest.fixture
def verdict(monkeypatch):
    """On a page of one's own, for which torch has a function: by default that of tests/pages/mean_shifted.py."""

    def verdict(
        page,
        function=lambda x, *, scale=3.0: x * x / scale - x.mean((-2, -1))[..., None, None],
        mistakes=False,
    ):
        twin = vjp(function)
        monkeypatch.setattr("manual_bp.oracle.truth.by_torch.candidate", lambda name: lambda rule: twin)
        rule = Rule("mine", page)
        for found, value in ((bp.RULES._modules, page.__name__), (bp.RULES._loaded, rule)):
            monkeypatch.setitem(found, "mine", value)  # the evidence of what is registered is found once
        return verify_rule(rule, twin, torch.float64, "cpu", mistakes=mistakes)

    return verdict


def page_with(**changes):
    source = PAGES["mean_shifted"].page
    page = types.ModuleType("mine", source.__doc__)
    page.__dict__.update({name: value for name, value in vars(source).items() if not name.startswith("__")})
    page.__dict__.update(changes)
    return page


def test_progress_and_the_places_of_the_largest_differences():
    ticks = []
    (found,) = verify_rules([LOSING.name], [torch.float32], progress=lambda: ticks.append(1))
    assert found.passed, found.report
    assert len(ticks) == parts_of(LOSING, torch.float32) > len(LOSING.mistakes)
    place = found.torch_truth.where["backward"]
    assert place.their_ulps == found.torch_truth.backward > 1e3
    assert place.page_ulps < 5
    assert place.due != 0
    case = next(c for c in generated(LOSING, torch.float32, "cpu") if c.name == place.case)
    assert [float(x[place.index]) for x in case.inputs] == list(place.inputs.values())
    assert "decimal digits, the page keeps them" in str(place)


def test_where_0_is_due_torchs_noise_is_no_measure(verdict):
    """A difference is in ulp of what is due: of torch's own rounding errors around 0 it would be any number."""
    x_alone = page_with(EDGES=(Edge("x - x", {"x": [[1.5, 1.5], [1.5, 1.5]], "dy": [[0.1, 0.1], [0.1, 0.1]]}),))
    assert verdict(x_alone).against_torch.backward < 100


def test_a_rule_passes_and_is_measured(verdict):
    found = verdict(page_with())
    assert found.passed, found.report
    assert 0 < found.truth.backward < 20


def test_forward_and_backward_that_are_wrong_in_the_same_way(verdict):
    """Certified truth comes from the page's own forward; torch does not."""
    source = PAGES["mean_shifted"].page

    def forward(x, *, scale=3.0):
        return source.forward(x, scale=2 * scale)

    forward.__annotations__ = source.forward.__annotations__
    found = verdict(page_with(forward=forward))
    assert not found.passed
    assert "the page's forward is not torch's function: y[" in found.report


def test_a_forward_that_is_a_little_off(verdict):
    source = PAGES["mean_shifted"].page

    def forward(x, *, scale=3.0):
        y, residuals = source.forward(x, scale=scale)
        return y + 1e-3, residuals

    forward.__annotations__ = source.forward.__annotations__
    found = verdict(page_with(forward=forward))
    assert not found.passed
    assert "the page's forward is not torch's function: y" in found.report


def test_an_edge_that_must_raise_and_does_not(verdict):
    found = verdict(page_with(EDGES=(Edge("negative scale", {"scale": -1.0}, raises=ValueError),)))
    assert not found.passed
    assert "these edges must raise and did not: ['negative scale']" in found.report


def test_a_mistake_that_raises_is_not_rejected(verdict):
    """It is a slip of whoever wrote it down, and tells nothing of what the comparison notices."""

    def raises(x, dy, scale):
        raise IndexError("no such axis")

    mistakes = (Mistake("raises", raises, forgets="how many axes there are", shows="everywhere"),)
    found = verdict(page_with(MISTAKES=mistakes), mistakes=True)
    assert not found.passed
    assert found.survivors == ["raises"]


def test_a_page_that_crashes_is_named(monkeypatch):
    def crashes(residuals, dy):
        raise RuntimeError("no such kernel")

    broken, right = (name for name, rule in list(bp.RULES.items())[:2])
    monkeypatch.setattr(bp.RULES[broken].page, "backward", crashes)
    found = list(verify_rules([broken, right], [torch.float64], mistakes=False))
    assert [v.passed for v in found] == [False, True]
    assert "RuntimeError: no such kernel" in found[0].report


def test_sizes_are_left_to_float32_where_that_is_verified(monkeypatch):
    """Whatever the dtype, a page takes the same steps on the same shapes; alone, they are judged at all of them."""
    asked = {}

    def verdict(rule, twin, dtype, device, mistakes, progress, sizes):
        asked[dtype] = sizes
        return RuleVerdict(rule.name, str(dtype).removeprefix("torch."), passed=True)

    monkeypatch.setattr("manual_bp.verification.verify_rule", verdict)
    assert CliRunner().invoke(app, ["verify", COUPLED.name]).exit_code == 0
    assert asked == {torch.float64: False, torch.float32: True, torch.bfloat16: False, torch.float16: False}
    assert CliRunner().invoke(app, ["verify", COUPLED.name, "--dtype", "bfloat16"]).exit_code == 0
    assert asked[torch.bfloat16]


@pytest.mark.parametrize(("dtype", "sizes"), [(torch.float32, True), (torch.bfloat16, True), (torch.bfloat16, False)])
def test_what_is_wrong_on_long_axes_alone(dtype, sizes, monkeypatch):
    right = COUPLED.page.backward

    def backward(residuals, dy):
        (dx,) = right(residuals, dy)
        return (torch.where(torch.arange(dx.shape[-1]) < 1100, dx, 0) if dx.ndim else dx,)

    monkeypatch.setattr(COUPLED.page, "backward", backward)
    chosen = (lambda case: True) if sizes else (lambda case: not isinstance(case, Sized))
    report = compare_page(COUPLED, dtype, "cpu", chosen, diagnose=0)
    assert report.passed is not sizes
    assert report.failed == sizes  # the first of them is enough


def test_no_twin():
    found = verify_rule(PAGES["mean_shifted"], None, torch.float64, "cpu", mistakes=False)
    assert found.report == "mean_shifted: no twin; write _twins/mean_shifted.py in the package of your pages"
    own = next(iter(bp.RULES.values()))
    found = verify_rule(own, None, torch.float64, "cpu", mistakes=False)
    assert found.report == f"{own.name}: no twin; write torch_ref/twins/{own.name}.py"


@pytest.mark.parametrize("arguments", [lambda x: x, lambda x, *, power: x], ids=["too few", "another name"])
def test_a_torch_function_of_that_name_with_other_arguments(arguments, verdict):
    found = verdict(page_with(), arguments)
    assert not found.passed
    assert found.report.count("Write torch_ref/twins/mine.py") == 1, found.report
