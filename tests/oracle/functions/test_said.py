"""What is said of a candidate for a function: hyperparameters that it does not take, kinks, recorded results."""

import pytest
import torch
from torch.nn import functional as F

import torch_ref
from manual_bp.oracle import Case, compare
from manual_bp.oracle.cases.declared import NOTHING
from manual_bp.oracle.functions import reference
from manual_bp.oracle.refusals import refusals

DY = torch.tensor([0.5, -1.25])
KINKED = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 2.0]])
ROW_OF_NAN = torch.tensor([[0.0, 1.0, 0.0], [torch.nan, 1.0, 2.0]])


def of_rows(x, *, slope=0.25, dims=(-1,)):
    return torch.where(x > 0, x, slope * x).sum(dims)


def steep_at_kinks(inputs, dy, slope=0.25):
    (x,) = inputs
    return of_rows(x, slope=slope), (torch.where(x >= 0, 1.0, slope) * dy[:, None],)


def beyond_both_slopes(inputs, dy):
    (x,) = inputs
    return of_rows(x), (torch.where(x > 0, 1.0, torch.where(x == 0, 2.0, 0.25)) * dy[:, None],)


def nan_at_kinks(inputs, dy):
    (x,) = inputs
    return of_rows(x), (torch.where(x == 0, torch.nan, torch.where(x > 0, 1.0, 0.25)) * dy[:, None],)


def judged(candidate, x, **options):
    return compare(candidate, of_rows, inputs={"x": (2, 3)}, cases=[Case((x,), DY)], diagnose=0, **options)


@pytest.mark.parametrize("x", [KINKED, ROW_OF_NAN], ids=["finite", "NaN in one row"])
def test_any_subgradient_is_right_declared_or_not(x):
    for declared in (None, {"kink": "any"}, {"tie": "any"}):
        assert not judged(steep_at_kinks, x, conventions=declared).mismatches
        for wrong in (beyond_both_slopes, nan_at_kinks):
            assert [m.kind for m in judged(wrong, x, conventions=declared).mismatches] == ["wrong"]


def coupled(x):
    return (torch.relu(x) * x.mean(-1, keepdim=True)).sum(-1)


def steep_and_coupled(inputs, dy):
    (x,) = inputs
    mean, total = x.mean(-1, keepdim=True), torch.relu(x).sum(-1, keepdim=True)
    return coupled(x), (dy[:, None] * ((x >= 0) * mean + total / 3),)


def test_what_a_nan_reaches_says_nothing_of_kinks_elsewhere():
    case = Case((torch.tensor([[0.0, 1.0, 2.0], [0.0, torch.nan, 1.0]]),), DY)
    assert not compare(steep_and_coupled, coupled, cases=[case], diagnose=0).mismatches


def shifted(x, bias):
    return torch.relu(x + bias)


def shifted_masked(mask, leaks=False):
    def candidate(inputs, dy):
        x, bias = inputs
        dx = torch.where(mask(x + bias), dy, 0.0) + (x.sum() if leaks else 0.0)
        return shifted(x, bias), (dx, dx.sum(0))

    return candidate


def test_a_mask_may_fall_either_way_at_nan_of_functions_and_pages():
    x = torch.tensor([[torch.nan, torch.nan, torch.nan], [1.0, -2.0, 3.0]])
    case = Case((x, torch.tensor([0.5, 0.25, -1.0])), torch.tensor([[0.5, -1.0, 2.0], [3.0, 0.25, -0.75]]))
    for mask in (lambda u: u > 0, lambda u: ~(u <= 0)):
        assert not compare(shifted_masked(mask), shifted, cases=[case], diagnose=0).mismatches
        leaking = compare(shifted_masked(mask, leaks=True), shifted, cases=[case], diagnose=0)
        assert {(m.argument, m.index[0]) for m in leaking.mismatches} == {("dx", 1)}
    for mask in (lambda u: u < 0, lambda u: u <= 0, lambda u: ~(u > 0)):

        def prelu(inputs, dy, mask=mask):
            x, weight = inputs
            dweight = torch.where(mask(x), dy * x, 0.0).sum(0)
            return torch.where(x > 0, x, weight * x), (torch.where(mask(x), weight * dy, dy), dweight)

        assert not compare(prelu, "prelu", cases=[case], diagnose=0).mismatches


def quantised(x):
    step = x.detach().abs().amax() / 7
    return x + (torch.round(x.detach() / step) * step - x.detach()).detach()


def quantised_lower(inputs, dy):
    """Rounded as if each number had one rounding more."""
    (x,) = inputs
    step = x.abs().amax() / 7
    return torch.round(x / step * (1 - 1e-7)) * step, (dy,)


def test_a_jump_is_not_judged_where_roundings_decide_on_which_side_one_is():
    ones = torch.ones(1, 2)
    at_jump, beside = (Case((torch.tensor([x]),), ones) for x in ([1.0, 2.0], [1.0, 3.0]))  # 3.5 and 2.33 steps
    report = compare(quantised_lower, quantised, inputs={"x": (1, 2)}, cases=[at_jump], diagnose=0)
    assert not report.mismatches
    assert "numbers on whose order something depends" in report.not_tested[0]
    assert not compare(quantised_lower, quantised, inputs={"x": (1, 2)}, cases=[beside], diagnose=0).mismatches
    twice = compare(
        lambda inputs, dy: (2 * quantised(*inputs), (dy,)), quantised, inputs={"x": (1, 2)}, cases=[beside], diagnose=0
    )
    assert [m.argument for m in twice.mismatches] == ["y"]


def test_where_the_function_broadcasts_the_candidate_may():
    rule = reference(lambda x, weight: x * weight, {"x": (4, 3), "weight": (3,)})
    refused = refusals(rule, torch.float32, "cpu", NOTHING)
    assert refused
    for case in refused:
        with pytest.raises(RuntimeError):
            rule.page.FUNCTION(*case.inputs)


def test_a_slope_at_kinks_is_one_of_an_elementwise_function():
    with pytest.raises(ValueError, match="element-wise function, which of_rows is not"):
        judged(steep_at_kinks, KINKED, conventions={"kink": 1.0})


def test_what_the_candidate_does_not_take_is_as_the_function_has_it():
    notes = compare(steep_at_kinks, of_rows, inputs={"x": torch.tensor([[1.0, -2.0], [3.0, 0.5]])}, diagnose=0).notes
    assert any(
        note.startswith("dims: the candidate takes no dims, so it was judged where that is (-1,)") for note in notes
    )


def tails(x):
    return F.gelu(x).sum(-1)


@pytest.mark.parametrize("strict", [False, True])
def test_what_torchs_own_formulas_lose_is_no_error_but_under_strict(strict):
    case = Case((torch.tensor([[-5.1, -5.3, -4.9, -5.0]]),), torch.tensor([1.0]))
    report = compare(torch_ref.vjp(tails), tails, cases=[case], diagnose=0, strict=strict)
    words = [str(m) for m in report.mismatches] if strict else report.notes
    assert not (report.notes if strict else report.mismatches)
    for argument, formula in (("y", "of torch"), ("dx", "of torch's derivative")):
        assert any(argument in text and f"as the formula {formula} does" in text for text in words), str(report)


def test_a_list_is_as_good_as_a_tuple():
    whole = Case((torch.tensor([[1.0, -2.0]]),), torch.tensor(0.5))
    report = compare(
        torch_ref.vjp(of_rows), of_rows, inputs={"x": (1, 2)}, hyper={"dims": [0, 1]}, cases=[whole], diagnose=0
    )
    assert not report.mismatches
    assert report.worst["dx"].by_case


def cost_of_probabilities(p, t):
    return F.binary_cross_entropy(p, t)


def soft_cross_entropy(x, t):
    return -(t * x.log_softmax(-1)).sum(-1).mean()


def for_labels_that_add_up_to_one(factor):
    def vjp(inputs, dy):
        x, t = inputs
        dx = factor * (x.softmax(-1) - t) / len(x)
        return soft_cross_entropy(x, t), (dy * dx, -dy * x.log_softmax(-1) / len(x))

    return vjp


def one_hot(generator):
    return torch.eye(5, dtype=torch.float64)[torch.randint(5, (4,), generator=generator)]


def between(generator):
    return 0.1 + 0.8 * torch.rand(4, 5, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    ("candidate", "function", "inputs", "passes"),
    [
        (torch_ref.vjp(cost_of_probabilities), cost_of_probabilities, {"p": between, "t": between}, True),
        (for_labels_that_add_up_to_one(1.0), soft_cross_entropy, {"x": (4, 5), "t": one_hot}, True),
        (for_labels_that_add_up_to_one(1.01), soft_cross_entropy, {"x": (4, 5), "t": one_hot}, False),
    ],
    ids=["the function raises beyond 1", "labels are not scaled", "a factor"],
)
def test_what_an_input_cannot_be_is_no_case(candidate, function, inputs, passes):
    report = compare(candidate, function, inputs=inputs, diagnose=0)
    assert report.passed is passes, str(report)
    assert any("should be between 0 and 1" in text for text in report.not_tested) is (function is cost_of_probabilities)
