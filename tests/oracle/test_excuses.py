"""An excuse is a finite bound in the precision under test: 0, twice or a constant is wrong where a digit is due."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import Float

import manual_bp as bp
from manual_bp.arithmetic.bounded import contract_of
from manual_bp.inputs import Edge
from manual_bp.oracle import Case, compare
from manual_bp.oracle.case import in_dtype
from manual_bp.oracle.cases.drawing import draw
from manual_bp.oracle.truth.errors import errors, ulp
from manual_bp.oracle.truth.kept import generated_evidence
from manual_bp.outputs import parts, whole
from tests.conftest import short
from tests.judging import as_candidate, by_default, judged

WRONG = {
    "0": torch.zeros_like,
    "twice": lambda result: 2 * result,
    "constant": lambda result: torch.full_like(result, 0.25),
    "half more": lambda result: result + 0.5,
}


def wrong_only_in(rule, dtype, position, change):
    """The rule, but for one result in one dtype: a kernel is often another program for another dtype."""

    def candidate(inputs, dy=None, **hyper):
        y, grads = rule.vjp(inputs, dy, **hyper)
        results = [*parts(y), *grads]
        numbers = [x for x in (*inputs, *parts(dy)) if x is not None and x.is_floating_point()]
        if numbers[0].dtype == dtype and results[position] is not None:
            results[position] = change(results[position])
        return whole(results[: len(rule.outputs)], y), tuple(results[len(rule.outputs) :])

    return as_candidate(rule, candidate)


# One case may leave no digit: a bfloat16 sum of two dozen terms that cancel.
FEW = 8


@pytest.mark.thinned(2)
@pytest.mark.parametrize("dtype", by_default(torch.float32, torch.bfloat16), ids=short)
def test_what_is_wrong_in_one_precision_alone_is_wrong(rule, dtype):
    first = {case.name for case in generated_evidence(rule, dtype, "cpu", contract_of(dtype)).cases[:FEW]}
    for position, argument in enumerate(rule.arguments):
        is_number = rule.annotation(argument).dtype is Float  # a count or a truth value is of a dtype of its own
        for name, change in WRONG.items() if rule.wanted[position] and is_number else ():
            candidate = wrong_only_in(rule, dtype, position, change)
            report = judged(candidate, rule, dtype, lambda case: case.name in first, strict=False, most=1)
            assert {m.kind for m in report.mismatches} == {"wrong"}, f"{argument}, {name}: {report}"


# A right formula that loses digits, at inputs where it does; the same as a call and as a recorded result.
HONEST = {
    "alpha (exp(x) - 1) near 0": ("elu", [-0.00178, -3e-5], lambda x: (torch.exp(x) - 1, torch.exp(x))),
    "2 sigmoid(2x) - 1": ("tanh", [0.0625, 1.0012e-7], lambda x: (2 * torch.sigmoid(2 * x) - 1, torch.cosh(x) ** -2)),
    "1 - y²": ("tanh", [4.0, 9.5], lambda x: (torch.tanh(x), 1 - torch.tanh(x) ** 2)),
    "y (1 - y)": ("sigmoid", [7.0, 18.0], lambda x: (torch.sigmoid(x), torch.sigmoid(x) * (1 - torch.sigmoid(x)))),
    "(1 + tanh(x/2)) / 2": (
        "sigmoid",
        [-9.0, -40.0],
        lambda x: ((1 + torch.tanh(x / 2)) / 2, torch.cosh(x / 2) ** -2 / 4),
    ),
}


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_formula_gets_a_note_called_and_recorded(name, dtype):
    rule, x, formula = HONEST[name]
    computing = torch.float64 if dtype is torch.float64 else torch.float32
    # Beside two numbers at which every digit is there, so that 0 would not pass.
    inputs = torch.tensor([*x, 0.5, -1.5], dtype=dtype)
    dy = torch.tensor([0.7, -1.3, 0.9, 1.1], dtype=dtype)

    def candidate(inputs, dy):
        y, slope = formula(inputs[0].to(computing))
        slope = torch.where((inputs[0] > 0) & (rule == "elu"), 1, slope)
        y = torch.where((inputs[0] > 0) & (rule == "elu"), inputs[0].to(computing), y)
        return y.to(dy.dtype), ((dy.to(computing) * slope).to(dy.dtype),)

    y, grads = candidate((inputs,), dy)
    hyper = {"alpha": 1.0} if rule == "elu" else {}
    call = lambda inputs, dy, **_: candidate(inputs, dy)  # noqa: E731
    called = compare(call, rule, dtype=dtype, cases=[Case((inputs,), dy, hyper)], diagnose=0)
    recorded = compare(None, rule, dtype=dtype, cases=[Case((inputs,), dy, hyper, y=y, grads=grads)], diagnose=0)
    for report in (called, recorded):
        assert report.passed, str(report)
        assert all("digits" in note for note in report.notes), str(report)
    changed = compare(
        None, rule, dtype=dtype, cases=[Case((inputs,), dy, hyper, y=2 * y, grads=(0 * grads[0],))], diagnose=0
    )
    assert {(m.kind, m.argument) for m in changed.mismatches} == {("wrong", "y"), ("wrong", "dx")}


def test_a_cut_is_refuted_by_another_precision():
    def cut(inputs, dy):
        y, grads = bp.sigmoid.vjp(inputs, dy)
        return torch.where(inputs[0] < -15, 0, y), grads

    case = Case((torch.tensor([-15.5, -0.3, 1.2]),), torch.ones(3) * 0.7)
    assert [m.kind for m in compare(cut, "sigmoid", cases=[case], diagnose=0).mismatches] == ["wrong"]


@pytest.mark.parametrize("instead", [7.0, 0.0])
def test_a_number_where_nan_is_due_is_wrong(instead, dtype):
    def candidate(inputs, dy):
        y, grads = bp.relu.vjp(inputs, dy)
        return y.nan_to_num(nan=instead), grads

    case = Case((torch.tensor([torch.nan, -0.3, 1.2], dtype=dtype),), torch.ones(3, dtype=dtype) * 0.75)
    report = compare(candidate, "relu", dtype=dtype, cases=[case], diagnose=0)
    assert [(m.kind, m.argument) for m in report.mismatches] == [("wrong", "y")]


@pytest.mark.parametrize("instead", [torch.inf, -torch.inf, torch.nan])
def test_what_is_no_number_where_one_is_due_is_wrong(instead, dtype):
    def candidate(inputs, dy):
        y, (dx,) = bp.relu.vjp(inputs, dy)
        return y, (torch.where(inputs[0] > 1, instead, dx),)

    case = Case((torch.tensor([0.7, -0.3, 1.2], dtype=dtype),), torch.ones(3, dtype=dtype) * 0.75)
    report = compare(candidate, "relu", dtype=dtype, cases=[case], diagnose=0)
    assert [(m.kind, m.argument) for m in report.mismatches] == [("wrong", "dx")]


def test_where_a_step_may_overflow_every_number_is_right_and_nan_is_not():
    inf, nan = torch.inf, torch.nan
    got, due = torch.tensor([3.0, inf, nan, nan, 3.0]), torch.tensor([1.0, 1.0, 1.0, nan, nan]).double()
    ratio, _ = errors(got, due, torch.full_like(due, inf), torch.float32)
    assert ratio.tolist() == [0, 0, inf, 0, inf]


def test_a_unit_in_the_last_place_is_as_far_as_the_next_number(dtype):
    least = torch.finfo(dtype).smallest_normal
    x = torch.tensor([1.0, 1.5, 2.0, -3.0, 1000.0, 2.0**-7, least, least / 4], dtype=dtype)
    next_one = x.abs().nextafter(torch.full_like(x, torch.inf))
    assert torch.equal(ulp(x, dtype), next_one.double() - x.abs().double())


def test_a_variance_that_overflows_in_16_bits_is_wrong():
    def narrow(inputs, dy, eps=1e-5):
        x, weight, bias = inputs
        m = len(x)
        mean = x.mean(0)
        variance = ((x - mean) ** 2).sum(0) / m  # overflows
        s = 1 / (variance + eps).sqrt()
        x_hat = (x - mean) * s
        g = dy * weight
        dx = s * (g - g.mean(0) - x_hat * (g * x_hat).mean(0))
        return x_hat * weight + bias, (dx, (dy * x_hat).sum(0), dy.sum(0))

    generator = torch.Generator().manual_seed(0)
    numbers = (100 * torch.randn(16, 3, generator=generator), torch.ones(3), torch.zeros(3))
    case = Case(tuple(x.half() for x in numbers), torch.randn(16, 3, generator=generator).half())
    report = compare(narrow, "batch_norm", dtype=torch.float16, cases=[case], diagnose=0)
    assert {"y", "dx", "dweight"} <= {m.argument for m in report.mismatches if m.kind == "wrong"}, str(report)


@pytest.mark.parametrize("length", [3, 600])  # 600 are not certified, and torch in float64 overflows itself
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_a_step_that_overflows_refuses_no_right_program(rule, dtype, length):
    """At numbers near the largest the page, and its terms added up in another order, overflow on the way."""
    longest = getattr(rule.page, "LONGEST", {})
    first, is_list = next(each for each in rule.axis_names.items() if longest.get(each[0], length) >= length)
    edge = Edge("large", sizes={first: (length,) if is_list else length})
    inputs, dy, hyper = draw(rule, edge, torch.Generator().manual_seed(0))
    largest = 0.9 * torch.finfo(dtype).max
    large = (largest * x.sign() if rule.is_number(n) else x for n, x in zip(rule.inputs, inputs, strict=True))
    case = in_dtype(Case(tuple(large), dy, hyper), dtype, "cpu")
    report = compare(rule.candidate, rule, dtype=dtype, cases=[case], diagnose=0)
    assert not report.mismatches, str(report)
