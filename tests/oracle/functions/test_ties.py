"""Orders of numbers that are equal, or nearly so: what depends on them is judged where truth is the same for all."""

from functools import partial

import pytest
import torch

import torch_ref
from manual_bp.oracle import Case, compare


def router(x, w, *, k=2):
    chosen, experts = (x @ w.mT).softmax(-1).topk(k, -1)
    return chosen / chosen.sum(-1, keepdim=True), experts


def test_an_order_that_rounding_leaves_open_is_not_judged() -> None:
    """Of the experts of a router: an output of integers has no cotangent."""
    inputs = {"x": (5, 8), "w": (6, 8)}
    report = compare(torch_ref.vjp(router), router, inputs=inputs, diagnose=0)
    assert report.passed, str(report)
    assert any("order" in text for text in report.not_tested)


def second(x, w):
    """By values of which ball arithmetic cannot tell that they are equal."""
    return (x @ w.mT).softmax(-1).topk(2, -1).values[..., 1]


def best(x, w):
    """By an index that has no derivative."""
    return x * w[(x @ w.mT).argmax(-1)]


def pooled(x, w):
    return (x @ w.mT).max(-1).values


def with_a_column_of_its_own(inputs, dy, function):
    """The last column of x wᵀ is rounded otherwise than the first ones, as by many a kernel."""
    x, w = inputs
    step = torch.zeros_like(w)
    step[-1] = 2.0**-23 * w[-1]
    return torch_ref.vjp(function)((x, w + step), dy)


@pytest.mark.parametrize(("function", "is_judged"), [(second, False), (best, False), (pooled, True)])
def test_equal_products_whose_order_roundings_decide_are_not_judged_by_it(function, is_judged) -> None:
    """The largest of them is judged: it has any of its subgradients."""
    generator = torch.Generator().manual_seed(0)
    x, row = torch.randn(5, 4, generator=generator), torch.randn(1, 4, generator=generator)
    inputs = (x, row.expand(6, 4))
    case = Case(inputs, torch.ones_like(function(*inputs)))
    candidate = partial(with_a_column_of_its_own, function=function)
    shapes = {"x": (5, 4), "w": (6, 4)}
    report = compare(candidate, function, inputs=shapes, cases=[case], diagnose=0)
    assert not report.mismatches, str(report)
    assert any("order" in text for text in report.not_tested) is not is_judged


def picked(x, weight):
    """How many are above a threshold says which one is read."""
    z = x.sort(-1, descending=True).values
    count = (z > 0).sum(-1, keepdim=True).clamp(min=1)
    return x * weight - z.gather(-1, count - 1)


def routed(x):
    p = x.softmax(-1)
    best, which = p.topk(2, -1)
    return torch.zeros_like(p).scatter(-1, which, best / best.sum(-1, keepdim=True))


@pytest.mark.parametrize(("function", "inputs"), [(picked, {"x": (4, 6), "weight": (6,)}), (routed, {"x": (4, 6)})])
def test_an_index_that_a_tie_leaves_open_is_no_error_and_leaves_other_cases_certified(function, inputs) -> None:
    report = compare(torch_ref.vjp(function), function, inputs=inputs, diagnose=0)
    assert report.passed, str(report)
    assert not any("not certified" in note for note in report.notes)


def threshold(x):
    """The sparse softmax: how many are above the threshold is counted, and where one is on it that is left open."""
    ordered = x.sort(-1, descending=True).values
    k, sums = torch.arange(1, x.shape[-1] + 1, dtype=x.dtype, device=x.device), ordered.cumsum(-1)
    count = ((1 + k * ordered) > sums).sum(-1, keepdim=True)
    return (x - (sums.gather(-1, count - 1) - 1) / count).clamp(min=0)


def zero_on_the_threshold(inputs, dy):
    y = threshold(*inputs)
    inside = y > 0
    mean = torch.where(inside, dy, 0).sum(-1, keepdim=True) / inside.sum(-1, keepdim=True)
    return y, (torch.where(inside, dy - mean, 0),)


def test_where_an_index_is_left_open_torchs_choice_is_not_asked_for() -> None:
    """torch's clamp passes the gradient at its limit, which a program need not."""
    report = compare(zero_on_the_threshold, threshold, inputs={"x": (4, 9)}, diagnose=0)
    assert report.passed, str(report)
    assert any("order" in text for text in report.not_tested)
    other = compare(lambda i, dy: (threshold(*i), (dy * (threshold(*i) > 0),)), threshold, inputs={"x": (4, 9)})
    assert not other.passed


def policy_loss(ratio, advantage, *, clip=0.2):
    return -torch.min(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).mean()


def first_of_equals(inputs, dy, clip=0.2, inside=True):
    ratio, advantage = inputs
    clipped = ratio.clamp(1 - clip, 1 + clip)
    plain = (ratio * advantage <= clipped * advantage) | ((ratio == clipped) if inside else (ratio != ratio))
    scale = -dy / ratio.numel()
    grads = torch.where(plain, scale * advantage, 0), scale * torch.where(plain, ratio, clipped)
    return policy_loss(*inputs, clip=clip), grads


def test_one_number_worked_out_twice_is_no_tie() -> None:
    """Within the limits both are r · a, equal at every input; a tie is where a is 0: there either slope is right."""
    inputs = {"ratio": (torch.rand(9, generator=torch.Generator().manual_seed(0)) + 0.5), "advantage": (9,)}
    report = compare(first_of_equals, policy_loss, inputs=inputs, diagnose=0)
    assert report.passed, str(report)
    assert any("subgradient" in note for note in report.notes)
    case = Case((torch.full((9,), 1.1), torch.ones(9)), torch.tensor(1.0))
    assert not compare(partial(first_of_equals, inside=False), policy_loss, inputs=inputs, cases=[case]).mismatches
    half = compare(lambda i, dy: (policy_loss(*i), (-dy * i[1] / 18, -dy * i[0] / 9)), policy_loss, cases=[case])
    assert [m.argument for m in half.mismatches] == ["dratio"]


def meeting(h, *, gap: float = 0.0):
    """At 0 both branches are -log 2, which no ball holds exactly."""
    return torch.where(h >= 0, (torch.relu(h) + 0.5).log(), gap - torch.nn.functional.softplus(-h))


@pytest.mark.parametrize(
    ("slope", "gap", "passes"),
    [(0.5, 0.0, True), (2.0, 0.0, True), (2.1, 0.0, False), (0.5, 1e-12, False)],
    ids=["left", "right", "neither", "a jump"],
)
def test_branches_that_meet_in_a_number_that_no_ball_holds_have_a_kink(slope, gap, passes) -> None:
    def candidate(inputs, dy, gap):
        y, (dh,) = torch_ref.vjp(meeting)(inputs, dy, gap=gap)
        return y, (torch.where(inputs[0] == 0, slope * dy, dh),)

    case = Case((torch.tensor([0.0, 1.0, -1.0]).double(),), torch.tensor([1.0, -0.5, 2.0]).double(), {"gap": gap})
    how = {"inputs": {"h": (3,)}, "hyper": {"gap": gap}, "dtype": torch.float64, "cases": [case], "diagnose": 0}
    report = compare(candidate, meeting, **how)
    assert bool(report.mismatches) != passes, str(report)
