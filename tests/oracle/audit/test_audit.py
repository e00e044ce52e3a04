"""The auditor: of checkers with one fault each it says which, and it is not deceived by sound ones."""

from __future__ import annotations

import re
from functools import lru_cache
from types import SimpleNamespace

import pytest
import torch

import manual_bp as bp
from manual_bp.oracle import audit
from manual_bp.oracle.audit.auditing import KINDS_OF_WRONG
from manual_bp.oracle.audit.conditions import LAYOUT, OPTION, SIZE
from manual_bp.oracle.audit.degenerate import NOT_A_NUMBER, NOTHING, RAISES
from manual_bp.oracle.audit.formulas import MISTAKE
from manual_bp.oracle.audit.sizes import FACTORS, ROW, SIDES, written
from manual_bp.rule import Rule
from tests.documents import valid
from tests.oracle.audit.checkers import Checkers, due
from tests.pages import PAGES
from torch_ref import twin
from torch_ref.functions import function


def sums_to_one(rule: Rule) -> bool:
    """Whether the gradient is 0 where dy is 1, though y depends on x."""
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if len(rule.inputs) != 1 or not rule.has_backward or rule.elementwise:
        return False
    try:
        y, (dx,) = rule.vjp((x,), torch.ones_like(x))
    except (TypeError, ValueError):
        return False
    assert dx is not None
    return y.shape == x.shape and float(dx.abs().max()) < 1e-12


EVERY = pytest.mark.exhaustive
RULE = next(rule for rule in bp.RULES.values() if sums_to_one(rule))
"""A rule of the registry whose gradient is 0 where dy is 1."""


@lru_cache
def of(name: str, **options):
    """The audit of one of the checkers."""
    return audit(getattr(Checkers(function(RULE.name)), name), RULE, **options)


def reason(report, words: str) -> str:
    """The one reason that says so."""
    found = [r for r in report.reasons if re.search(words, r)]
    assert len(found) == 1, "\n".join([words, *report.reasons])
    return found[0]


# ------------------------------------------------------------------------------------------ what faulty checkers do


def test_a_sign_and_a_place_that_norms_do_not_show_are_told():
    report = of("by_size")
    reason(report, "a wrong sign passes: dx × -1 is not told from dx")
    reason(report, "right numbers of dx in the wrong place pass")
    assert not [
        r for name in ("sound", "loose") for r in of(name).reasons if "wrong sign" in r or "in the wrong place" in r
    ]


def test_a_comparison_of_each_element_is_not_said_to_average():
    assert not [r for r in of("absolute_of_sixteen").reasons if "cancel" in r or "averaged" in r]


def test_what_is_tried_until_it_passes_is_told():
    report = of("tries_again")
    reason(report, "it tries again until a program passes: up to 4 times, where it calls a right one 1 time")
    assert "1 call of a right program and 4 of a wrong one" in report.facts[0]


def test_a_call_that_does_not_fit_is_not_said_to_be_none():
    assert of("another_number_of_inputs").facts == ["no call that it makes fits the rule"]


def test_a_gradient_that_is_not_looked_at_is_told_though_autograd_looks_at_its_shape():
    def multiplied(x, weight):
        return torch.tanh(x * weight)

    def first_alone(program):
        x, weight = (torch.randn(4, 5, requires_grad=True) for _ in range(2))
        dy = torch.randn(4, 5)
        expected = torch.autograd.grad(multiplied(x, weight), x, dy)[0]
        program(x, weight).backward(dy)
        torch.testing.assert_close(x.grad, expected)

    report = audit(first_alone, multiplied, inputs={"x": (4, 5), "weight": (4, 5)})
    reason(report, "dweight is not looked at: whatever comes for it passes")
    assert not [r for r in report.reasons if "dx is not looked at" in r or "NaN" in r]


def test_every_factor_passes_where_dy_is_one():
    for name in ("relative_error_without_abs", "zero_with_zero", "sum_loss"):
        report = of(name)
        reason(report, rf"factors? of dx pass(es)?: with dy = 1 the gradient of {RULE.name} is 0")
        reason(report, "dy is 1 in every element of every call")
        assert all(o.accepted for kind in FACTORS for o in report.of_kind(kind) if o.size < 100)  # of a few roundings
        assert not report.refuses
    assert not [r for r in of("sound").reasons if "dy = 1" in r or "dy is 1" in r]


def test_nan_passes_a_comparison_that_is_never_true():
    report = of("relative_error_without_abs")
    reason(report, "NaN passes: no comparison with NaN is true")
    assert all(o.accepted for o in report.of_kind(NOT_A_NUMBER))
    assert not [r for r in of("sound").reasons if "NaN" in r]


def test_errors_of_one_sign_pass_without_abs():
    report = of("without_abs")
    up, down = SIDES
    reason(report, f"errors of one sign pass: dx {down} passes, and dx {up} is seen")
    assert all(o.accepted for o in report.of_kind(down))
    assert report.smallest_seen("dx", up) == 0.01
    reason(of("lopsided"), f"errors of one sign pass: dx {down} passes, and dx {up} is seen")
    assert not [r for name in ("sound", "twice", "by_norm") for r in of(name).reasons if "one sign" in r]


def test_an_error_in_one_place_that_its_sign_hides_is_not_said_to_be_averaged_or_left_out():
    def weighted(x, weight):
        return x * weight

    def without_abs(program):
        x, weight = torch.ones(4, 5).requires_grad_(), torch.ones(5).requires_grad_()
        dy = torch.tensor([1.0, 2.0, 3.0, 4.0, -5.0]).expand(4, 5).contiguous()
        program(x, weight).backward(dy)
        assert (weight.grad - 4 * dy[0]).max() < 1e-3  # twice the last element, which is negative, lies lower

    report = audit(without_abs, weighted, inputs={"x": (4, 5), "weight": (5,)})
    up, down = SIDES
    last = [o for o in report.of_kind(ROW) if o.argument == "dweight" and o.shown > 0.01]
    assert last
    assert all(o.accepted and o.why.startswith("errors of one sign pass") for o in last)
    reason(report, f"errors of one sign pass: dweight {down} passes, and dweight {up} is seen")
    assert not [r for r in report.reasons if "averaged" in r or "not all is compared" in r]


def test_what_is_caught_or_missing_passes():
    report = of("accuracy_of_none")
    reason(report, "a program that raises passes")
    reason(report, "None passes")
    reason(report, "NaN passes")
    reason(report, "one element of dx may be off by 100 times the largest")
    assert all(o.accepted for kind in (RAISES, NOTHING) for o in report.of_kind(kind))


def test_a_comparison_that_does_nothing_cannot_fail():
    report = of("comparison_that_does_nothing")
    assert "it cannot fail whatever numbers come" in report.findings[0]
    reason(report, "its verdict does not depend on the numbers that come")
    assert not report.passed
    assert of("of_y_alone").findings == ["it cannot fail whatever gradients come: only y is compared"]
    assert "it cannot fail whatever finite numbers come: only NaN" in of("finite").findings[0]
    assert not of("sound").findings


def test_what_does_not_come_through_autograd_is_not_said_to_be_overlooked():
    report = of("of_y_through_autograd")
    assert report.findings == ["it cannot fail whatever gradients come: only y is compared"]
    reason(report, "it never asks for a gradient: y alone is looked at")
    report = of("sum_loss")
    reason(report, "through which it asks, does not show it: a gradient is summed or repeated")
    assert not any("shapes are not compared" in r for r in report.reasons)


def test_a_checker_that_never_calls_cannot_fail():
    report = of("never_calls")
    assert report.findings == ["it cannot fail: it never calls the program"]
    assert len(report.lets_pass) == len(report.wrong)


def test_a_tolerance_is_told_with_the_smallest_error_that_is_seen():
    report = of("loose")
    seen = report.smallest_seen("dx", FACTORS[0])
    assert 0.01 < seen < 0.5
    assert f"the smallest factor of dx that it sees is {written(1 + seen)};" in reason(
        report, "a tolerance: the smallest"
    )
    assert of("sound").smallest_seen("dx") < 1e-3 < report.smallest_seen("dx")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("float64_alone", "only float64 is tried"),
        ("square_alone", "only square shapes are tried"),
        ("square_alone", r"the largest tensor that it tries is x of shape \(8, 8\), 64 elements"),
        ("sound", r"the largest tensor that it tries is x of shape \(4, 5\), 20 elements"),
        ("sound", "only contiguous dy is tried"),
        ("sound", "only float32 is tried"),
        ("sound", "y is not looked at"),
        ("element_by_element", "dy holds no number but 0 and 1"),
        ("sound", "each program is called once"),
        ("of_a_fixed_seed", "it tries the same numbers every time it is run"),
        ("by_norm", "an error in one element of dx is averaged away"),
        ("by_largest", "an error in one element of dx passes that does not change one number made of all of it"),
        ("by_signed_mean", "errors of both signs cancel"),
        ("by_total", "errors of both signs cancel: dx is compared by its sum or mean, which is 0"),
        ("by_direction", "every positive factor of dx passes: its direction alone is compared"),
    ],
)
def test_what_a_checker_does_not_try_is_told(name, words):
    reason(of(name), words)


def test_a_loss_whose_cotangent_is_never_another_than_one_is_told():
    loss = next(r for r in bp.RULES.values() if len(r.inputs) == 1 and r.has_backward and not r.y_annotation.dim_str)

    def checker(program):
        (x,), one = (torch.randn(3, 4),), torch.ones(())
        torch.testing.assert_close(program((x,), one, **loss.ordinary), twin(loss.name)((x,), one, **loss.ordinary))

    report = audit(checker, loss)
    assert not report.refuses
    reason(report, "dy is 1 in every call, as if the loss were never part of another")


def test_a_comparison_with_itself_is_told():
    report = of("with_itself")
    assert report.findings == ["it compares the program with itself"]
    reason(report, "it compares the program with itself: nothing is rejected but what differs")
    assert not of("twice").findings


def test_fresh_numbers_are_not_called_fixed():
    assert not [r for r in of("sound").reasons if "the same numbers every time" in r]


# ------------------------------------------------------------------------------------- checkers that cannot be used


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("crashes", "it raises whatever it is given, as for the rule itself: AttributeError"),
        ("hangs", "it hangs: 'the rule itself' had no verdict within 0.2 s"),
        ("returns_the_error", r"it gives no verdict: it returned a float, .* return whether it is below a limit"),
    ],
)
def test_a_checker_that_says_nothing_is_told_why(name, words):
    report = of(name, timeout=0.2)
    assert len(report.findings) == 1
    assert re.search(words, report.findings[0])
    assert not report.wrong
    assert not report.passed
    assert words.split(",")[0].split(":")[0] in str(report)


def test_a_verdict_at_random_is_told():
    report = of("at_random")
    assert [f for f in report.findings if f.startswith("its verdict is random: ")]
    for name in ("sound", "without_abs", "by_norm"):
        assert not of(name).findings
    (changing,) = of("within_rounding").findings
    assert changing.startswith("its verdict on a right program changes from run to run, with the numbers that it draws")


@pytest.mark.parametrize(("passed", "how"), [(True, "accepted"), (False, "rejected")])
def test_a_report_is_a_verdict_by_whether_it_passed(passed, how):
    report = audit(lambda program: SimpleNamespace(passed=passed), RULE, seconds=0)
    assert {o.how for o in report.right} == {how}


def test_right_programs_that_are_refused_are_told():
    report = of("refuses_what_is_not_equal")
    assert "off by 0.5 of what rounding allows" in {o.name for o in report.refuses}
    assert "right programs that it does not accept" in str(report)
    assert not of("sound").refuses


def test_a_skipped_test_is_no_verdict():
    assert "it was skipped" in audit(lambda program: pytest.skip("no GPU"), RULE).findings[0]


def test_pytest_fail_is_a_rejection():
    report = audit(lambda program: pytest.fail("no"), RULE)
    assert {o.how for o in report.right} == {"rejected"}
    assert "it rejects every right program" in report.findings[0]


# ------------------------------------------------------------------------------------------------ what is programmed


OF_VALUES = next(name for name, rule in bp.RULES.items() if not rule.has_backward)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in (RULE.name, OF_VALUES) else EVERY) for n in bp.RULES]
)
def test_programs_of_every_rule_are_what_they_are_said_to_be(name):
    """Right ones are accepted by a checker that compares with what rounding allows, and no wrong one is right at every
    case of the audit's own."""
    report = audit("assert_close", name)
    refused = {o.name for o in report.refuses}
    assert not [n for n in refused if not n.startswith(("off by", "None for"))]  # a tolerance may be narrower
    assert report.wrong
    assert all(o.shows for o in report.wrong)
    assert all(o.why for o in report.lets_pass)
    assert set(report.kinds) <= set(KINDS_OF_WRONG)
    if bp.RULES[name].has_backward:
        assert {*FACTORS, MISTAKE, SIZE, LAYOUT} <= set(report.kinds)
        assert (OPTION in report.kinds) == bool(bp.RULES[name].hyper or bp.RULES[name].absentable)


FEW = [name for name, page in PAGES.items() if not page.has_backward or len(page.outputs) > 1]
"""Pages unlike those of the rules above: without backward, or of several outputs."""


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in FEW else EVERY) for n in PAGES])
def test_a_page_of_anybodys_own_may_be_the_reference(name):
    report = audit(lambda program: True, PAGES[name])
    assert "it cannot fail" in report.findings[0]
    assert report.wrong


def test_any_function_may_be_the_reference():
    def forward(x, weight, *, eps=1e-6):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight

    def checker(program):
        x, weight, dy = torch.randn(4, 5), torch.randn(5), torch.randn(4, 5)
        _, (dx, _) = program((x, weight), dy)
        torch.testing.assert_close(dx, due(lambda x: forward(x, weight), x, dy))

    report = audit(checker, forward, inputs={"x": (4, 5), "weight": (5,)})
    assert not report.refuses
    reason(report, "dweight is not looked at: whatever comes for it passes")
    assert not [o for o in report.lets_pass if o.argument == "dx" and o.size is not None and o.size >= 0.01]


def test_a_program_is_a_vjp_and_an_autograd_function():
    x, dy = torch.randn(2, 3, 4, dtype=torch.float64).unbind()

    def checker(program):
        y, (dx,) = program(inputs=(x,), dy=dy)
        for apply in (program, program.apply):
            leaf = x.clone().requires_grad_()
            apply(leaf).backward(dy)
            torch.testing.assert_close(leaf.grad, dx)
            torch.testing.assert_close(apply(x), y)

    assert not audit(checker, RULE, seconds=0).refuses


def test_what_a_program_overwrites_is_put_back():
    x, dy = torch.randn(3, 4), torch.randn(3, 4)
    before = x.clone(), dy.clone()
    audit(lambda program: program((x,), dy) is not None, RULE)
    assert torch.equal(x, before[0])
    assert torch.equal(dy, before[1])


# ------------------------------------------------------------------------------------------------------- the report


def test_what_is_allowed_does_no_harm():
    report = of("loose")
    allowed = of("loose", smallest=0.5, allow=tuple({o.kind for o in report.lets_pass if o.size is None}))
    assert report.lets_pass
    assert not report.passed
    assert not allowed.lets_pass
    assert allowed.passed


def test_time_that_runs_out_is_told():
    report = of("sound", seconds=0.0)
    assert report.untried
    assert not report.passed
    assert "not tried, for want of time" in str(report)


def test_as_text_json_and_html(tmp_path):
    report = of("loose")
    text = str(report)
    assert text.startswith(f"loose against {RULE.name} (float32): lets {len(report.lets_pass)} of ")
    assert all(kind in text for kind in report.kinds)
    found = valid(report.to_json(), "audit", "report")
    assert found["passed"] is False
    assert len(found["outcomes"]) == len(report.outcomes)
    assert found["by_kind"]["NaN"][0] == found["by_kind"]["NaN"][1]
    shown = report._repr_html_()
    assert report.headline.partition(":")[0] in shown
    assert all(f"<td>{kind}</td>" in shown for kind in report.kinds)
    report.picture(tmp_path / "audit.svg")
    assert "dx: too large" in (tmp_path / "audit.svg").read_text() or (tmp_path / "audit.svg").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((len, "no_such_rule"), "no_such_rule"),
        ((len, 3), "came 3"),
        ((3, RULE), "a checker must be a function"),
        (("no such", RULE), "a ready-made checker must be one of"),
    ],
)
def test_bad_input_is_a_value_error(arguments, words):
    with pytest.raises(ValueError, match=words):
        audit(*arguments)


def test_unknown_options_are_value_errors():
    with pytest.raises(ValueError, match="allow must name kinds"):
        audit(len, RULE, allow=["rounding"])
    for wrong in (-1, 0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="timeout must be a positive number"):
            audit(len, RULE, timeout=wrong)
    for option in ("timeout", "seconds", "smallest"):
        with pytest.raises(ValueError, match=f"{option} must be a number; came '5'"):
            audit(len, RULE, **{option: "5"})
    for option in ("seconds", "smallest"):
        with pytest.raises(ValueError, match="must be 0 or more"):
            audit(len, RULE, **{option: float("nan")})
    with pytest.raises(ValueError, match="dtype must be one of"):
        audit(len, RULE, dtype=torch.int32)
    with pytest.raises(ValueError, match="hyper= is for a function"):
        audit(len, RULE, hyper={"eps": 1e-5})
    with pytest.raises(ValueError, match="must end in one of"):
        of("never_calls").picture("audit.txt")
