"""Where a function's own forward overflows on the way no number is due, and everywhere else one is."""

from functools import partial

import pytest
import torch

import torch_ref
from manual_bp.arithmetic.bounded import contract_of, widths
from manual_bp.oracle import Case, compare
from manual_bp.oracle.functions import reference
from manual_bp.oracle.truth.overflow import Watching
from tests.judging import ordinary

# A function, and its slope as a textbook has it.
QUOTIENT = (lambda x: x / (x * x + 1), lambda x: (1 - x * x) / ((x * x + 1) * (x * x + 1)))
ROOT = (lambda x: torch.sqrt(x * x + 1), lambda x: x / torch.sqrt(x * x + 1))
SHARE = (lambda x: x / torch.sqrt(x * x + 1), lambda x: (x * x + 1) ** -1.5)
SOFTPLUS = (lambda x: torch.log(1 + torch.exp(x)), lambda x: torch.exp(x) / (1 + torch.exp(x)))
LOGISTIC = (lambda x: torch.exp(x) / (1 + torch.exp(x)), lambda x: torch.exp(x) / (1 + torch.exp(x)) ** 2)
# Its own infinity, and no overflow.
WRITTEN = (
    lambda x: torch.sigmoid(2 * x.masked_fill(x > 0, -torch.inf)),
    lambda x: torch.where(x > 0, 0, 2 * torch.sigmoid(2 * x) * torch.sigmoid(-2 * x)),
)
# 1 + x² overflows beyond 2^64, its square, which only the slope has, beyond 2^32: one as the quotient is.
PEAK = (lambda x: 1 / (1 + x * x), lambda x: -2 * x / ((1 + x * x) * (1 + x * x)))
FUNCTIONS = {
    "quotient": QUOTIENT,
    "peak": PEAK,
    "root": ROOT,
    "share": SHARE,
    "softplus": SOFTPLUS,
    "logistic": LOGISTIC,
}
# It does not overflow, its slope does beyond 2^64: NaN, where 3 is due.
LINE = (lambda x: 3 * x, lambda x: 3 * (1 + x * x) / (1 + x * x))

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


def test_no_number_is_judged_where_the_function_is_not_defined():
    """acosh is NaN below 1, and the logarithm that stands for it -inf where its digits end; 0 there is an invention."""

    def logarithm(inputs, dy):
        (x,) = inputs
        root = torch.sqrt(x * x - 1)
        return torch.log(x + root), (dy / root,)

    def invented(inputs, dy):
        y, grads = logarithm(inputs, dy)
        return y.nan_to_num(0.0, neginf=0.0), grads

    def acosh(x):
        return torch.acosh(x)

    x = torch.tensor([1.5, 2.0, -1e6, -2.0])
    options = {
        "inputs": {"x": (4,)},
        "cases": [Case((x,), torch.ones(4)), Case((x.abs(),), torch.ones(4))],
        "diagnose": 0,
    }
    report = compare(logarithm, acosh, **options)
    assert not report.mismatches, str(report)
    assert any("NaN at finite numbers" in note for note in report.notes)
    assert compare(logarithm, acosh, strict=True, **options).mismatches
    assert {m.argument for m in compare(invented, acosh, **options).mismatches} == {"y"}


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
    page = reference(lambda x: torch.rsqrt(x) + 1 / x, {"x": (4, 33)}).page
    y, _ = page.WITHOUT_OVERFLOWN((x,), torch.ones(3), {})
    assert y.isnan().tolist() == [False, True, False]


def test_an_overflow_inside_of_a_kernel_of_torch_is_none_of_the_function():
    """The cube in F.gelu, where torch's own derivative is NaN: a slope of 1 is due."""
    x = torch.tensor([1e20])
    page = reference(lambda x: torch.nn.functional.gelu(x, approximate="tanh"), {"x": (4, 33)}).page
    assert not page.WITHOUT_OVERFLOWN((x,), torch.ones(1), {})


def polynomial(x, coefficients):
    value = torch.zeros_like(x)
    for c in reversed(coefficients.unbind(0)):
        value = value * x + c
    return torch.tanh(value)


def by_powers(inputs, dy, factor=1.0):
    """As a sum of powers, of which two are infinite where Horner's rule has one."""
    x, coefficients = inputs
    degrees = torch.arange(len(coefficients))[:, None, None]
    powers = x**degrees
    value = (coefficients[:, None] * powers).sum(0)
    dvalue = factor * dy / torch.cosh(value) ** 2
    slope = (degrees[1:] * coefficients[1:, None] * powers[:-1]).sum(0)
    return torch.tanh(value), (dvalue * slope, (dvalue * powers).sum(1))


def test_of_coupled_numbers_what_depends_on_an_overflow_is_not_judged():
    inputs = {"x": lambda generator: 2.4 * torch.rand(6, 4, generator=generator).double() - 1.2, "coefficients": (4, 4)}
    report = compare(by_powers, polynomial, inputs=inputs, diagnose=0)
    assert report.passed, str(report)
    assert any("the function itself overflows" in note for note in report.notes)
    assert not compare(by_powers, polynomial, inputs=inputs, diagnose=0, strict=True).passed


def test_what_does_not_depend_on_an_overflow_is_judged():
    """Rows of their own, of which the first one overflows."""

    def candidate(inputs, dy, also=()):
        x, w = inputs
        h = x * x + 1
        y, slope = (w * x / h).sum(-1), w * (1 - x * x) / (h * h)
        dx = slope * dy[:, None]
        dx[[0, *also]] = torch.nan
        return y, (dx, x / h * dy[:, None])

    def function(x, w):
        return (w * x / (x * x + 1)).sum(-1)

    case = ordinary(reference(function, {"x": (4, 3), "w": (4, 3)}), torch.float32)
    case.inputs[0][0] = 1e25
    given = {"inputs": {"x": (4, 3), "w": (4, 3)}, "cases": [case], "diagnose": 0}
    assert compare(candidate, function, **given).passed
    report = compare(partial(candidate, also=[2]), function, **given)
    assert {(m.kind, m.argument) for m in report.mismatches} == {("wrong", "dx")}, str(report)


def test_an_overflow_of_the_candidate_alone_is_wrong_and_said():
    report = judged(LINE, diagnose=3.0)
    assert {(m.kind, m.argument) for m in report.mismatches} == {("wrong", "dx")}
    assert "a step of the candidate overflows in float32" in report.diagnoses[0]


@pytest.mark.parametrize("pair", [QUOTIENT, PEAK])
def test_0_in_a_tail_is_right_within_a_few_roundings_of_the_largest_slope(pair):
    def zeros(bound, dtypes):
        return judged(pair, lambda x, slope: slope.where((x.abs() < bound) | (x.dtype not in dtypes), 0.0))

    report = zeros(2.0**10, (torch.float32,))
    assert report.passed, str(report)
    assert any("the largest slope" in note for note in report.notes)
    assert not zeros(2.0**10, (torch.float32, torch.float64)).passed  # rounding would go away there
    assert not zeros(2.0**3, (torch.float32,)).passed


def test_where_there_is_a_pole_no_slope_near_it_excuses_one_far_away():
    def twice(x, slope):
        return slope.where((x.abs() < 2.0**9) | (x.dtype == torch.float64), 2 * slope)

    assert not judged((lambda x: 1 / x, lambda x: -1 / (x * x)), twice).passed


def decayed(x, rate):
    """By the root of 1 − a², which cancels to 0 where a is nearly 1: beside x = 0 torch's derivative is 0 · ∞ = NaN."""
    log_a = -8 * torch.nn.functional.softplus(rate)
    return x * torch.sqrt(1 - torch.exp(2 * log_a))


def stable_decayed(inputs, dy, slope=1.0):
    x, rate = (t.double() for t in inputs)
    log_a = -8 * torch.where(rate < 0, rate.exp().log1p(), rate + (-rate).exp().log1p())
    root = (-torch.expm1(2 * log_a)).sqrt()
    drate = dy * x * 8 * rate.sigmoid() * torch.exp(2 * log_a) / root
    y, dx, drate = (t.to(inputs[0].dtype) for t in (x * root, dy * root, slope * drate))
    return y, (dx, drate)


def test_where_torchs_derivative_is_nan_at_finite_numbers_nothing_is_asked_for() -> None:
    inputs = {"x": (8, 300), "rate": (8, 300)}
    x, rate = torch.ones(8, 300), torch.linspace(-60, 2, 300).expand(8, 300).clone()
    x[0] = 0
    case = Case((x, rate), torch.ones(8, 300))
    drate = torch_ref.vjp(decayed)((x.double(), rate.double()), case.dy.double())[1][1]
    assert drate.isnan().any()
    for candidate in (stable_decayed, torch_ref.vjp(decayed)):
        report = compare(candidate, decayed, inputs=inputs, cases=[case], diagnose=0)
        assert "drate" not in {m.argument for m in report.mismatches}, str(report)
    wrong = compare(partial(stable_decayed, slope=2.0), decayed, inputs=inputs, cases=[case], diagnose=0)
    assert {m.argument for m in wrong.mismatches} == {"drate"}


def running_share(x):
    return x.logcumsumexp(dim=1).exp()


def test_torchs_own_running_logsumexp_of_large_numbers_loses_digits_and_is_not_wrong() -> None:
    """It adds x to log |dy| - y, of which float32 keeps few digits where they are thousands."""

    def running(x):
        return x.logcumsumexp(dim=1)

    report = compare(torch_ref.vjp(running), running, inputs={"x": (3, 4)}, diagnose=0)
    assert report.passed, str(report)
    assert any("as the formula of torch's derivative does" in note for note in report.notes)


def test_a_derivative_whose_formula_in_torch_takes_the_lowest_number_away_has_a_bound() -> None:
    x, dy = torch.tensor([[0.5, -1.0, 0.25, 2.0]]), torch.tensor([[1.0, -2.0, 0.0, 3.0]])
    rule = reference(running_share, {"x": (1, 4)})
    (dx,) = widths(rule, (x,), dy, contract_of(torch.float32)).grads
    due = torch.autograd.functional.vjp(running_share, x.double(), dy.double())[1]
    assert bool((dx < 1e-4 * due.abs()).all())

    def without_the_last(inputs, dy):
        y, (dx,) = torch_ref.vjp(running_share)(inputs, dy)
        return y, (dx * torch.tensor([1.0, 1.0, 1.0, 0.999]),)

    case = Case((x,), dy)
    assert compare(torch_ref.vjp(running_share), running_share, inputs={"x": (1, 4)}, cases=[case], diagnose=0).passed
    found = compare(without_the_last, running_share, inputs={"x": (1, 4)}, cases=[case], diagnose=0)
    assert [m.index for m in found.mismatches] == [(0, 3)], str(found)
