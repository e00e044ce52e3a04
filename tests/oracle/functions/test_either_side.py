"""Where the side of a kink is open any slope between those beside it is right, and nothing else is."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

import torch_ref
from manual_bp.arithmetic.bounded import contract_of
from manual_bp.arithmetic.sides import between, by_underflow
from manual_bp.oracle import Case, compare
from manual_bp.oracle.case import Further
from manual_bp.oracle.functions import reference
from manual_bp.oracle.truth.evidence import evidence

FLOAT32 = contract_of(torch.float32)
SHAPES = {"x": (4, 5), "w": (4, 5)}
FUNCTIONS = {
    "relu of a product": lambda x, w: torch.relu(x * w),
    "abs of a product": lambda x, w: (x * w).abs(),
    "where": lambda x, w: torch.where(x * w > 0, x * w, 0.1 * x * w),
    "where, the other way round": lambda x, w: torch.where(0 * x < x * w, x * w, 0.1 * x * w),
    "clamp": lambda x, w: torch.clamp(x * w, min=0.0, max=6.0),
    "maximum": lambda x, w: torch.maximum(x * w, torch.zeros_like(x)),
    "leaky relu": lambda x, w: F.leaky_relu(x * w, 0.1),
    "prelu": lambda x, w: F.prelu(x * w, torch.full((1,), 0.25, dtype=x.dtype)),
    "relu of an exponential": lambda x, w: torch.relu(torch.exp(w - 1) * x),
    "relu of a square": lambda x, w: torch.relu(x * w**2),
    "relu of a quotient": lambda x, w: torch.relu(x / (4 + w)),
    "several kinks": lambda x, w: torch.relu(x * w) + 3 * torch.relu(-x * w) + (x * w).abs(),
    "coupled": lambda x, w: torch.relu(x * w).sum(-1),
}


def at_an_underflow(function, dtype=torch.float32):
    """Some hundredth of the smallest number of the dtype, of either sign, and in one row ordinary numbers."""
    info = torch.finfo(dtype)
    x = torch.full((4, 5), info.smallest_normal * info.eps, dtype=dtype)
    w = torch.full((4, 5), 0.01, dtype=dtype)
    x[0], w[1], x[2] = -x[0], -w[1], 0.5
    y = function(x, w)
    return Case((x, w), torch.linspace(0.5, 1.5, y.numel()).reshape(y.shape).to(dtype))


IN_16_BITS = ["relu of a product", "clamp", "coupled"]
ALL = [*((name, torch.float32) for name in FUNCTIONS), *((name, torch.float16) for name in IN_16_BITS)]


@pytest.mark.parametrize(("name", "dtype"), ALL, ids=[f"{name}, {dtype}" for name, dtype in ALL])
def test_torchs_own_derivative_is_right(name, dtype) -> None:
    function = FUNCTIONS[name]
    case = at_an_underflow(function, dtype)
    report = compare(torch_ref.vjp(function), function, inputs=SHAPES, cases=[case], dtype=dtype, diagnose=0)
    assert not report.mismatches, str(report)
    assert report.cases == 1


def test_a_case_of_many_sizes_is_judged() -> None:
    """It was left out whole where one of its numbers underflows to a kink."""
    function = FUNCTIONS["abs of a product"]
    found = evidence(reference(function, SHAPES), Further(**vars(at_an_underflow(function))), FLOAT32)
    assert not isinstance(found, str)


def with_slope(inputs, dy, slope):
    """relu of the product, with a slope of its own where float32 has it as 0."""
    x, w = inputs
    product = x * w
    own = torch.where(product == 0, slope, (product > 0).to(x.dtype))
    return torch.relu(product), (dy * w * own, dy * x * own)


@pytest.mark.parametrize(
    ("slope", "is_right"), [(0.0, True), (0.5, True), (1.0, True), (1.01, False), (-0.01, False), (torch.nan, False)]
)
def test_the_slopes_beside_the_kink_and_between_them_are_right(slope, is_right) -> None:
    function = FUNCTIONS["relu of a product"]
    case = at_an_underflow(function)
    candidate = partial(with_slope, slope=slope)
    report = compare(candidate, function, inputs=SHAPES, cases=[case], diagnose=0)
    assert (not report.mismatches) is is_right, str(report)


def with_sign(inputs, dy, sign):
    """x times the sign of the product, with a sign of its own where float32 has the product as 0."""
    x, w = inputs
    own = torch.where(x * w == 0, sign, (x * w).sign())
    return own * x, (dy * own, 0 * dy)


@pytest.mark.parametrize(
    ("sign", "is_right"), [(-1.0, True), (0.0, True), (1.0, True), (-1.01, False), (1.01, False), (3.0, False)]
)
def test_a_sign_is_open_between_those_beside_the_jump_and_no_further(sign, is_right) -> None:
    function = lambda x, w: torch.sign(x * w) * x  # noqa: E731
    tiny = torch.full((4, 5), 2.0**-100)
    case, given = Case((tiny, tiny), torch.ones(4, 5)), {"inputs": SHAPES, "diagnose": 0}
    report = compare(partial(with_sign, sign=sign), function, cases=[case], **given)
    assert (not [m for m in report.mismatches if m.argument == "dx"]) is is_right, str(report)
    generated = compare(partial(with_sign, sign=0.0), function, **given)
    assert generated.passed, str(generated)  # though 0 is due for dw, and 0 times NaN beside a NaN


def test_what_does_not_underflow_is_not_excused() -> None:
    """Three times the smallest number is no kink."""
    function = FUNCTIONS["relu of a product"]
    x = torch.full((4, 5), 3 * 2.0**-149)
    case = Case((x, torch.ones_like(x)), torch.ones_like(x))
    candidate = lambda inputs, dy: (torch.relu(inputs[0] * inputs[1]), (0 * dy, 0 * dy))  # noqa: E731
    report = compare(candidate, function, inputs=SHAPES, cases=[case], diagnose=0)
    assert report.mismatches, str(report)


@pytest.mark.parametrize("number", [1, 3])
def test_elements_that_share_a_sum_are_tried_by_turns(number) -> None:
    """Of two the one makes it larger and the other smaller."""
    rule = reference(lambda x, w: torch.relu(x @ w), {"x": (1, 1), "w": (1, 3)})
    x, w = torch.full((1, 1), 2.0**-149), torch.full((1, 3), 0.25)
    w[0, number:] = 2.0
    terms, dy = torch.tensor([1.0, -2.0, 3.0]), torch.tensor([[4.0, -8.0, 12.0]])
    _, dx, _ = between(rule, (x, w), dy, FLOAT32, by_underflow)
    open_, others = terms[:number], 8 * terms[number:].sum()
    assert dx.least.item() == pytest.approx(float(open_.clamp(max=0).sum() + others), rel=1e-5)
    assert dx.most.item() == pytest.approx(float(open_.clamp(min=0).sum() + others), rel=1e-5)


def sparsemax(x, *, is_tied_in=False):
    """By a sorting, and the number of those that stand above the threshold, which is an index."""
    ordered = x.sort(dim=-1, descending=True).values
    sums, counts = ordered.cumsum(-1), torch.arange(1, x.shape[-1] + 1, dtype=x.dtype)
    is_in = 1 + counts * ordered >= sums if is_tied_in else 1 + counts * ordered > sums
    count = is_in.sum(-1, keepdim=True)
    return torch.clamp(x - (sums.gather(-1, count - 1) - 1) / count.to(x.dtype), min=0.0)


def rows(dtype, step):
    """So many that they are not certified, of multiples of a step."""
    generator = torch.Generator().manual_seed(0)
    x, dy = (torch.randn(500, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    return Case(((x / step).round().mul(step).to(dtype),), dy.to(dtype))


def judged_rows(candidate, dtype, step, **options):
    said = {"x": (4, 5)}
    return compare(candidate, sparsemax, inputs=said, cases=[rows(dtype, step)], dtype=dtype, diagnose=0, **options)


def test_a_branch_that_roundings_of_16_bits_leave_open() -> None:
    """It leads to another index."""
    report = judged_rows(torch_ref.vjp(sparsemax), torch.bfloat16, 2.0**-10)
    assert not report.mismatches, str(report)
    assert any("16-bit: where roundings" in note for note in report.notes)
    assert judged_rows(torch_ref.vjp(sparsemax), torch.bfloat16, 2.0**-10, strict=True).mismatches


@pytest.mark.parametrize(("factor", "is_right"), [(1.0, True), (1.5, False)])
def test_a_tie_that_leads_to_another_index(factor, is_right) -> None:
    def tied_in(inputs, dy):
        y, (dx,) = torch_ref.vjp(partial(sparsemax, is_tied_in=True))(inputs, dy)
        _, (own,) = torch_ref.vjp(sparsemax)(inputs, dy)
        return y, (torch.where(dx == own, dx, factor * dx),)

    report = judged_rows(tied_in, torch.float32, 2.0**-3)
    assert (not report.mismatches) is is_right, str(report)


def test_where_the_function_itself_raises_in_that_precision_nothing_is_judged() -> None:
    """1 is less there than half of what 1000 is rounded to: no number is above the threshold."""
    x = torch.full((4, 5), 1000.0, dtype=torch.bfloat16)
    case = Case((x,), torch.ones_like(x))
    candidate = torch_ref.vjp(sparsemax)
    report = compare(candidate, sparsemax, inputs={"x": (4, 5)}, cases=[case], dtype=torch.bfloat16, diagnose=0)
    assert not report.mismatches, str(report)
    assert any("raises" in text for text in report.not_tested)
