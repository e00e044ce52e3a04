"""Where a function's own forward overflows on the way no number is due, and everywhere else one is."""

import pytest
import torch

from manual_bp.oracle import compare
from manual_bp.oracle.overflow import Watching

# A function, and its slope as a textbook has it.
QUOTIENT = (lambda x: x / (x * x + 1), lambda x: (1 - x * x) / ((x * x + 1) * (x * x + 1)))
ROOT = (lambda x: torch.sqrt(x * x + 1), lambda x: x / torch.sqrt(x * x + 1))
SHARE = (lambda x: x / torch.sqrt(x * x + 1), lambda x: (x * x + 1) ** -1.5)
SOFTPLUS = (lambda x: torch.log(1 + torch.exp(x)), lambda x: torch.exp(x) / (1 + torch.exp(x)))
LOGISTIC = (lambda x: torch.exp(x) / (1 + torch.exp(x)), lambda x: torch.exp(x) / (1 + torch.exp(x)) ** 2)
FUNCTIONS = {"quotient": QUOTIENT, "root": ROOT, "share": SHARE, "softplus": SOFTPLUS, "logistic": LOGISTIC}
# Its own infinity, and no overflow.
WRITTEN = (
    lambda x: torch.sigmoid(2 * x.masked_fill(x > 0, -torch.inf)),
    lambda x: torch.where(x > 0, 0, 2 * torch.sigmoid(2 * x) * torch.sigmoid(-2 * x)),
)
# 1 + x² overflows beyond 2^64, its square, which only the slope has, beyond 2^32.
PEAK = (lambda x: 1 / (1 + x * x), lambda x: -2 * x / ((1 + x * x) * (1 + x * x)))


# What is made of a right slope: x is there for its size.
WRONG = {
    "a thousandth more": lambda x, slope: 1.001 * slope,
    "NaN where it is large": lambda x, slope: slope.where((x.abs() < 16) | (x.abs() > 64), torch.nan),
    "infinite where it is large": lambda x, slope: slope.where((x.abs() < 16) | (x.abs() > 64), torch.inf),
    "another number where it is large": lambda x, slope: slope.where((x.abs() < 16) | (x.abs() > 64), 2.0),
    "a number where the forward overflows": lambda x, slope: slope.nan_to_num(1.0),
    "NaN before the forward overflows": lambda x, slope: slope.where(x.abs() < 2.0**48, torch.nan),  # 2^64 does
}


def judged(pair, change=lambda x, slope: slope, dtype=torch.float32, **options):
    function, slope = pair

    def candidate(inputs, dy):
        (x,) = inputs
        return function(x), (change(x, slope(x)) * dy,)

    return compare(candidate, function, inputs={"x": (4, 33)}, dtype=dtype, **{"diagnose": 0, **options})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_textbook_derivative_is_right_where_its_function_overflows(name, dtype):
    report = judged(FUNCTIONS[name], dtype=dtype)
    assert report.passed, str(report)


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_beside_an_overflow_is_wrong(name):
    for function in (QUOTIENT, SOFTPLUS) if "overflows" not in name else (QUOTIENT,):
        report = judged(function, WRONG[name])
        assert {(m.kind, m.argument) for m in report.mismatches} == {("wrong", "dx")}, str(report)


def test_it_is_said_and_wrong_where_notes_are_mismatches():
    by_turns = (QUOTIENT[0], lambda x: (1 - x * x) / (x * x + 1) / (x * x + 1))  # of an infinite x * x alone NaN
    report = judged(by_turns)
    assert report.passed, str(report)
    assert any("the function itself overflows" in note for note in report.notes)
    assert not judged(by_turns, strict=True).passed


def test_an_infinity_that_a_function_writes_is_no_overflow():
    assert judged(WRITTEN).passed
    assert not judged(WRITTEN, lambda x, slope: slope.where(x <= 0, torch.nan)).passed


def test_a_pole_is_no_overflow():
    x = torch.tensor([0.0, 1e-39, 1.0])
    with Watching(x.shape) as watching:
        torch.rsqrt(x) + 1 / x
    assert watching.overflown.tolist() == [False, True, False]


def test_an_overflow_of_the_candidate_alone_is_wrong_and_said():
    report = judged(PEAK, diagnose=3.0)
    assert {(m.kind, m.argument) for m in report.mismatches} == {("wrong", "dx")}
    assert "a step of the candidate overflows in float32" in report.diagnoses[0]
    assert judged((PEAK[0], lambda x: -2 * x / (1 + x * x) / (1 + x * x))).passed


@pytest.mark.parametrize(
    "change",
    [
        lambda x, slope: slope.where((x.abs() < 2.0**24) | (x.dtype == torch.float64), 0.0),  # right in float64
        lambda x, slope: slope.where(x.abs() < 2.0**33, 0.0),  # and overflows there
    ],
)
def test_what_is_0_for_another_reason_is_said_to_be_no_overflow(change):
    report = judged(PEAK, change, diagnose=0.5)
    assert not report.passed
    assert not any("overflows" in sentence for sentence in report.diagnoses), str(report)
