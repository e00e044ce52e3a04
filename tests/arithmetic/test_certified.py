"""Certified truth is compared with closed forms in decimal arithmetic, with the hand-derived backwards, with autograd,
and with wrong answers that it must reject.

What each function means is tested in test_functions.py.
"""

import decimal
import math
import subprocess
import sys
from decimal import Decimal

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

import manual_bp as bp
import torch_ref
from manual_bp.inputs import Edge
from manual_bp.oracle.cases.generated import Case, draw, in_dtype
from manual_bp.outputs import parts
from manual_bp.rule import Rule
from tests.arithmetic.planted import rule_of
from tests.pages import PAGES

pytest.importorskip("flint", reason="certified truth needs python-flint")
from flint import arb, ctx

from manual_bp.arithmetic import enclosed
from manual_bp.arithmetic.balls import lift
from manual_bp.arithmetic.bounded import contract_of, widths
from manual_bp.arithmetic.certified import PrecisionError, UnknownFunction, adjoint_identity, is_subgradient, truth

decimal.getcontext().prec = 80
every_rule = pytest.mark.parametrize("name", [*bp.RULES, *(f"pages/{name}" for name in PAGES)])


def named_rule(name: str) -> Rule:
    return PAGES[name.removeprefix("pages/")] if name.startswith("pages/") else bp.RULES[name]


def drawn(rule: Rule, seed: int = 0, dtype: torch.dtype = torch.float64) -> Case:
    inputs, dy, hyper = draw(rule, Edge("ordinary"), torch.Generator().manual_seed(seed))
    return in_dtype(Case(inputs, dy, hyper), dtype, "cpu")


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# Functions as pages would write them.


def sigmoid(x: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    return torch.sigmoid(x)


def tanh(x: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    return torch.tanh(x)


def relu(x: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    return torch.relu(x)


def leaky(x: Float[Tensor, "n"], *, slope: float = 0.01) -> Float[Tensor, "n"]:
    return torch.where(x <= 0, slope * x, x)


def elu(x: Float[Tensor, "n"], *, alpha: float = 1.0) -> Float[Tensor, "n"]:
    return torch.where(x <= 0, alpha * torch.expm1(x), x)


def maxout(x: Float[Tensor, "n"], *, pieces: int = 3) -> Float[Tensor, "m"]:
    return x.reshape(-1, pieces).amax(-1)


def normalized(
    x: Float[Tensor, "n c"], weight: Float[Tensor, "c"], bias: Float[Tensor, "c"], *, eps: float = 1e-5
) -> Float[Tensor, "n c"]:
    deviation = x - torch.mean(x, 0)
    return deviation / torch.sqrt(torch.mean(deviation * deviation, 0) + eps) * weight + bias


def half_squares(x: Float[Tensor, "n"], target: Float[Tensor, "n"]) -> Float[Tensor, ""]:
    return torch.sum((x - target) ** 2) / 2


def digits(ball: arb, exact: Decimal) -> float:
    """To how many digits the whole ball agrees with an exact value."""
    with ctx.workprec(400):
        error = abs(ball - arb(str(exact))) / abs(arb(str(exact)))
        return float("inf") if error.upper() == 0 else -float(error.upper().log_base(10))


# Known derivatives


@pytest.mark.parametrize("x", [0.25, -3.0, 7.5, 40.0, -745.0, 1e-300])
def test_sigmoid_to_40_digits(x: float) -> None:
    (dx,) = truth(rule_of(sigmoid), (doubles(x),), doubles(1.0)).grads
    e = (-abs(Decimal(x))).exp()
    assert digits(dx.balls[0], e / (1 + e) ** 2) > 40


@pytest.mark.parametrize("x", [0.25, -3.0, 19.0, 370.0, 1e-300])
def test_tanh_to_40_digits(x: float) -> None:
    (dx,) = truth(rule_of(tanh), (doubles(x),), doubles(1.0)).grads
    e = (-2 * abs(Decimal(x))).exp()
    assert digits(dx.balls[0], 4 * e / (1 + e) ** 2) > 40


@pytest.mark.parametrize("alpha", [0.3, 2.0, -1.5])
@pytest.mark.parametrize("x", [-0.7, -40.0, -1e-300])
def test_elu_to_40_digits(x: float, alpha: float) -> None:
    exact = truth(rule_of(elu), (doubles(x),), doubles(1.0), alpha=alpha)
    assert digits(exact.grads[0].balls[0], Decimal(alpha) * Decimal(x).exp()) > 40


def test_values_are_certified_too() -> None:
    exact = truth(rule_of(sigmoid), (doubles(-40.0, 3.0),), doubles(1.0, 1.0))
    assert all(
        digits(b, 1 / (1 + (-Decimal(x)).exp())) > 40 for b, x in zip(exact.outputs[0].balls, (-40.0, 3.0), strict=True)
    )


def test_batch_norm_to_40_digits() -> None:
    """Two values a and b with h = (a - b)/2: x̂_a = -x̂_b = h s with s = 1/√(h² + eps), and dx̂_a/da = ½ s³ eps."""
    a, b, dy_a, dy_b, weight, eps = map(Decimal.from_float, (0.3, -1.1, 0.7, -2.9, 1.7, 0.125))
    h = (a - b) / 2
    s = 1 / (h * h + eps).sqrt()
    exact = truth(
        rule_of(normalized),
        (doubles(0.3, -1.1).reshape(2, 1), doubles(1.7), doubles(0.0)),
        doubles(0.7, -2.9).reshape(2, 1),
        eps=0.125,
    )
    dx, dweight, dbias = exact.grads
    da = weight * s**3 * eps / 2 * (dy_a - dy_b)
    assert digits(dx.balls[0], da) > 40
    assert digits(dx.balls[1], -da) > 40
    assert digits(dweight.balls[0], h * s * (dy_a - dy_b)) > 40
    assert digits(dbias.balls[0], dy_a + dy_b) > 40


def test_inputs_are_taken_as_the_exact_numbers_they_are() -> None:
    x = torch.tensor([0.1], dtype=torch.bfloat16)
    (dx,) = truth(
        rule_of(half_squares), (x, torch.zeros(1, dtype=torch.float16)), torch.tensor(0.1, dtype=torch.float32)
    ).grads[:1]
    assert dx.balls[0] == arb(x.item()) * arb(torch.tensor(0.1).item())


# Every rule


@every_rule
def test_every_rule_has_certified_truth(name: str) -> None:
    """A ball for every output and every input with a cotangent, narrow ones, of the right shapes."""
    rule = named_rule(name)
    case = drawn(rule)
    y, grads = rule.vjp(case.inputs, case.dy, **case.hyper)
    exact = truth(rule, case.inputs, case.dy, **case.hyper)
    assert [ball is None for ball in exact.grads] == [grad is None for grad in grads]
    for ball, found in zip((*exact.outputs, *exact.grads), (*parts(y), *grads), strict=True):
        if ball is not None:
            assert ball.shape == found.shape
            assert (ball.radius() <= 2.0**-60 * ball.midpoint().abs()).all()


@every_rule
def test_adjoint_identity(name: str) -> None:
    rule = named_rule(name)
    case = drawn(rule)
    grads = rule.vjp(case.inputs, case.dy, **case.hyper)[1]
    if all(grad is None or not grad.numel() for grad in grads):
        pytest.skip("nothing has a cotangent")
    generator = torch.Generator().manual_seed(1)
    v = tuple(None if g is None else torch.randn(g.shape, generator=generator, dtype=g.dtype) for g in grads)
    allowance = widths(rule, case.inputs, case.dy, contract_of(torch.float64), **case.hyper).grads
    judged = adjoint_identity(rule, case.inputs, case.dy, grads, v, allowance=allowance, **case.hyper)
    assert judged.overlap
    assert judged.agrees
    doubled = tuple(None if g is None else g * (1 + 1e-6) for g in grads)
    judged = adjoint_identity(rule, case.inputs, case.dy, doubled, v, allowance=allowance, **case.hyper)
    assert not judged.agrees or abs(judged.forward) < arb(1e7) * sum(float(w.sum()) for w in allowance if w is not None)


@every_rule
def test_what_a_page_says_at_a_kink_is_a_subgradient(name: str) -> None:
    """At every edge at which there is one.  An infinite slope is that of a pole, where there is none."""
    rule = named_rule(name)
    for edge in rule.edges:
        if edge.raises or not rule.has_backward:
            continue
        case = in_dtype(Case(*draw(rule, edge, torch.Generator().manual_seed(0)), edge.name), torch.float64, "cpu")
        if not all(bool(x.isfinite().all()) for x in case.tensors) or case.elements > 64:
            continue
        grads = rule.vjp(case.inputs, case.dy, **case.hyper)[1]
        if any(g is not None and bool(g.isnan().any()) for g in grads):
            continue  # no function there
        judged = is_subgradient(rule, case.inputs, case.dy, grads, **case.hyper)
        failing = [g[mask] for g, mask in zip(grads, judged.failing, strict=True) if mask is not None]
        assert not any(bool(g.isfinite().any()) for g in failing), edge.name


@every_rule
def test_empty_inputs(name: str) -> None:
    rule = named_rule(name)
    axis, several = next(iter(rule.axis_names.items()))
    try:
        inputs, dy, hyper = draw(rule, Edge("empty", sizes={axis: (0, 3) if several else 0}), torch.Generator())
        y, grads = rule.vjp(inputs, dy, **hyper)
    except ValueError:
        pytest.skip("not defined there")
    exact = truth(rule, inputs, dy, **hyper)
    assert [ball.midpoint().shape for ball in exact.outputs] == [part.shape for part in parts(y)]
    for grad, ball in zip(grads, exact.grads, strict=True):
        assert ball is None or ball.midpoint().shape == grad.shape
    assert is_subgradient(rule, inputs, dy, grads, **hyper).passed


def test_the_adjoint_identity_leaves_out_kinks() -> None:
    x, dy = doubles(0.0, 2.0), doubles(3.0, 5.0)
    judged = adjoint_identity(rule_of(relu), (x,), dy, (doubles(99.0, 5.0),), (doubles(1.0, 1.0),))
    assert judged.overlap
    assert judged.agrees
    assert judged.forward == 5


def squared(x: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    return x * x


def test_a_planted_wrong_backward_disagrees_with_its_own_enclosure() -> None:
    rule, x, dy = rule_of(squared), doubles(2.0, 1.5), doubles(1.0, 1.0)
    (dx,) = truth(rule, (x,), dy).grads
    wrong = rule.vjp((x,), dy)[1][0]
    assert dx.midpoint().tolist() == [4.0, 3.0]
    assert wrong.tolist() == [3.0, 3.0]
    assert dx.ulps(wrong).tolist() == [2.0**50, 0.0]


# Kinks and ties


@pytest.mark.parametrize(("forward", "hyper"), [(relu, {}), (leaky, {}), (elu, {"alpha": 2.0})])
def test_no_derivative_at_a_kink(forward, hyper: dict) -> None:
    exact = truth(rule_of(forward), (doubles(0.0, -0.0, 1.0),), doubles(1.0, 1.0, 1.0), **hyper)
    assert exact.grads[0].balls[:2] == (None, None)
    assert exact.grads[0].midpoint().isnan().tolist() == [True, True, False]
    assert exact.outputs[0].midpoint().tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize(("forward", "hyper"), [(elu, {"alpha": 1.0}), (leaky, {"slope": 1})])
def test_branches_that_meet_smoothly_have_a_derivative(forward, hyper: dict) -> None:
    assert truth(rule_of(forward), (doubles(0.0),), doubles(3.0), **hyper).grads[0].balls[0] == 3


def test_an_output_that_nobody_asks_for_may_have_a_kink() -> None:
    assert truth(rule_of(relu), (doubles(0.0),), doubles(0.0)).grads[0].balls[0] == 0


def test_beside_the_kink_the_derivative_exists() -> None:
    assert truth(rule_of(relu), (doubles(5e-324, -5e-324),), doubles(1.0, 1.0)).grads[0].midpoint().tolist() == [
        1.0,
        0.0,
    ]


@pytest.mark.parametrize("dy", [3.0, -3.0])
def test_relu_at_0_accepts_every_slope_between_0_and_1(dy: float) -> None:
    x = doubles(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0)
    slopes = doubles(0.0, 0.5, 1.0, -0.001, 1.001, float("nan"), 7.0)  # 7 is wrong, but not at a kink
    judged = is_subgradient(rule_of(relu), (x,), torch.full((7,), dy, dtype=torch.float64), (slopes * dy,))
    assert judged.kinks[0].tolist() == [True] * 6 + [False]
    assert judged.failing[0].tolist() == [False, False, False, True, True, True, False]
    assert not judged.passed


def test_signs_of_dy_may_differ() -> None:
    x, dy = doubles(0.0, 0.0, 0.0, 0.0), doubles(2.0, -2.0, 2.0, -2.0)
    judged = is_subgradient(rule_of(relu), (x,), dy, (doubles(1.0, -1.0, -1.0, 1.0),))
    assert judged.failing[0].tolist() == [False, False, True, True]


@pytest.mark.parametrize(("forward", "hyper"), [(leaky, {"slope": 3.0}), (elu, {"alpha": 3.0})])
def test_concave_kinks(forward, hyper: dict) -> None:
    x = doubles(0.0, 0.0, 0.0, 0.0, 0.0)
    judged = is_subgradient(rule_of(forward), (x,), torch.ones_like(x), (doubles(1.0, 3.0, 2.0, 0.9, 3.1),), **hyper)
    assert judged.failing[0].tolist() == [False, False, False, True, True]


def test_the_ends_of_a_subdifferential_may_be_rounded() -> None:
    x, dy = torch.zeros(1), torch.tensor([0.3])
    end = (0.1 * dy,)
    assert is_subgradient(rule_of(leaky), (x,), dy, end, slope=0.1).passed
    below = (end[0] * (1 - 1e-5),)
    assert not is_subgradient(rule_of(leaky), (x,), dy, below, slope=0.1).passed
    assert is_subgradient(rule_of(leaky), (x,), dy, below, allowance=(torch.tensor([1e-5]),), slope=0.1).passed


TIE = [[1.0, 1.0, 0.0], [2.0, 2.0, 2.0], [0.0, 1.0, 0.0]]


@pytest.mark.parametrize(
    ("grads", "right"),
    [
        ([[1, 0, 0], [1, 0, 0], [0, 1, 0]], [True, True]),
        ([[0, 1, 0], [0, 0, 1], [0, 1, 0]], [True, True]),
        ([[0.5, 0.5, 0], [1 / 3, 1 / 3, 1 / 3], [0, 1, 0]], [True, True]),
        ([[1, 1, 0], [1, 0, 0], [0, 1, 0]], [False, True]),
        ([[1, 0, 0], [1, 1, 1], [0, 1, 0]], [True, False]),
        ([[0, 0, 0], [0, 1, 0], [0, 1, 0]], [False, True]),
        ([[1, 0, 0], [0, 0, 0], [0, 1, 0]], [True, False]),
        ([[2, -1, 0], [1.2, -0.1, -0.1], [0, 1, 0]], [False, False]),
        ([[0.5, 0.4999, 0], [0.5, 0.5, 1e-9], [0, 1, 0]], [False, False]),
    ],
)
@pytest.mark.parametrize("scale", [1.0, -2.5])
def test_ties_of_maxout(grads: list, right: list[bool], scale: float) -> None:
    x = torch.tensor(TIE, dtype=torch.float64).flatten()
    dx = scale * torch.tensor(grads, dtype=torch.float64).flatten()
    judged = is_subgradient(rule_of(maxout), (x,), torch.full((3,), scale, dtype=torch.float64), (dx,), pieces=3)
    assert judged.kinks[0].reshape(3, 3).tolist() == [[True, True, False], [True, True, True], [False, False, False]]
    assert [not row.any() for row in judged.failing[0].reshape(3, 3)[:2]] == right
    assert judged.passed == all(right)


def test_a_tie_of_many_is_judged_by_random_signs() -> None:
    x, dy = torch.ones(12, dtype=torch.float64), doubles(1.0)
    even = (torch.full((12,), 1 / 12, dtype=torch.float64),)
    assert is_subgradient(rule_of(maxout), (x,), dy, even, pieces=12).passed
    assert not is_subgradient(rule_of(maxout), (x,), dy, (torch.ones_like(x),), pieces=12).passed
    assert not is_subgradient(rule_of(maxout), (x,), dy, (torch.zeros_like(x),), pieces=12).passed


def minimum_of_relus(x: Float[Tensor, "n"], y: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    return torch.minimum(torch.relu(x), torch.relu(y))


def cancelling_kinks(x: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    return torch.relu(x) + torch.relu(-x)  # |x|: the slopes of the branches taken at 0 agree by accident


def masked_kink(x: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    return x * ((x > 0) & ~(x <= -5))


def repaired(x: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    return torch.where(x == 0, 0, x)


def along_the_diagonal(x: Float[Tensor, "n"], y: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    return torch.where(x == y, 0, x)


def routed(x: Float[Tensor, "n"], y: Float[Tensor, "n"]) -> Float[Tensor, ""]:
    return y.gather(0, x.argmax(0, keepdim=True)).sum()


def sum_of_kinks(x: Float[Tensor, "n"]) -> Float[Tensor, ""]:
    return torch.relu(x).sum()


def overlapping_kinks(x: Float[Tensor, "n"]) -> Float[Tensor, "m"]:
    return torch.relu(x[1:]) + torch.relu(x[:-1])


def over_the_largest(x: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    return torch.exp(x) / torch.exp(x).detach().amax(0)


def jump(x: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    return torch.where(x > 0, 1.0, x)


def root(x: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    return torch.sqrt(x)


def test_kinks_are_not_overlooked() -> None:
    zero, one = doubles(0.0), doubles(1.0)
    assert truth(rule_of(minimum_of_relus), (zero, zero), one).grads[0].balls == (None,)
    assert truth(rule_of(cancelling_kinks), (zero,), one).grads[0].balls == (None,)
    assert truth(rule_of(masked_kink), (zero,), one).grads[0].balls == (None,)
    assert truth(rule_of(repaired), (zero,), one).grads[0].balls[0] == 1


def test_equal_inputs_can_move_together() -> None:
    exact = truth(rule_of(along_the_diagonal), (doubles(0.0), doubles(0.0)), doubles(1.0))
    assert exact.grads[0].balls == (None,)


def test_an_index_that_a_tie_leaves_open_is_the_first_and_jumps() -> None:
    dx, dy = truth(rule_of(routed), (doubles(1.0, 3.0, 3.0), doubles(5.0, 6.0, 7.0)), torch.tensor(1.0)).grads
    assert dx.balls == (0, None, None)
    assert dy.midpoint().tolist() == [0.0, 1.0, 0.0]


def test_the_largest_of_constants_need_not_be_told_from_the_others() -> None:
    """Two that are equal and no binary numbers would stay undecided in any precision."""
    exact = truth(rule_of(over_the_largest), (doubles(1.0, 1.0, 0.0),), doubles(1.0, 1.0, 1.0))
    assert exact.grads[0].midpoint().tolist() == pytest.approx([1.0, 1.0, math.exp(-1)], rel=1e-15)


@pytest.mark.parametrize(
    "values", [(-math.inf, 2.0), (-math.inf, -math.inf), (1.0, math.inf), (math.nan, math.inf), (1.0, -1e300, 1.0)]
)
def test_the_largest_of_constants_that_are_infinite(values) -> None:
    found = float(torch.amax(lift(doubles(*values)), 0).cells[0].value)
    assert found == torch.amax(doubles(*values), 0).item() or (math.isnan(found) and math.isnan(values[0]))


def test_slack_of_one_element_does_not_excuse_another() -> None:
    judged = is_subgradient(rule_of(sum_of_kinks), (doubles(0.0, 0.0),), torch.tensor(1.0), (doubles(1.2, 0.5),))
    assert judged.failing[0].tolist() == [True, False]
    judged = is_subgradient(rule_of(sum_of_kinks), (doubles(0.0, 0.0),), torch.tensor(1.0), (doubles(1.2, 1.5),))
    assert judged.failing[0].tolist() == [True, True]


def test_an_element_in_several_kinks() -> None:
    rule, x, dy = rule_of(overlapping_kinks), (doubles(0.0, 0.0, 0.0),), doubles(1.0, 1.0)
    assert is_subgradient(rule, x, dy, (doubles(0.5, 2.0, 0.0),)).passed
    assert is_subgradient(rule, x, dy, (doubles(0.5, 2.1, 0.0),)).failing[0].tolist() == [False, True, False]
    assert is_subgradient(rule, x, dy, (doubles(1.1, 2.0, 0.0),)).failing[0].tolist() == [True, False, False]


def test_jumps_and_poles_are_not_judged() -> None:
    for forward in (jump, root):
        exact = truth(rule_of(forward), (doubles(0.0),), doubles(1.0))
        judged = is_subgradient(rule_of(forward), (doubles(0.0),), doubles(1.0), (doubles(0.5),))
        assert exact.grads[0].balls == (None,)
        assert judged.unjudged[0].tolist() == [True]
        assert not judged.passed


# Precision


def test_torch_is_wrong_in_saturation() -> None:
    x, dy = (doubles(40.0),), doubles(1.0)
    (dx,) = truth(rule_of(sigmoid), x, dy).grads
    assert dx.ulps(torch.exp(-x[0]) / (1 + torch.exp(-x[0])) ** 2).item() < 5
    assert dx.ulps(torch_ref.vjp(torch.sigmoid)(x, dy)[1][0]).item() > 2.0**51


def test_precision_is_raised_until_it_suffices() -> None:
    def absorbed(x: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        return torch.where((x + 1e300) - 1e300 > 0, 2 * x, -x)

    exact = truth(rule_of(absorbed), (doubles(1e-300, -1e-300),), doubles(1.0, 1.0))
    assert exact.outputs[0].bits > 1000
    assert exact.grads[0].midpoint().tolist() == [2.0, -1.0]


def test_a_divisor_may_need_precision_to_be_told_from_0() -> None:
    def reciprocal(x: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        return 1 / ((x + 1e300) - 1e300)

    exact = truth(rule_of(reciprocal), (doubles(2.0**-900),), doubles(2.0**-900))
    assert exact.outputs[0].midpoint().tolist() == [2.0**900]
    assert exact.grads[0].midpoint().tolist() == [-(2.0**900)]


def test_a_gradient_that_cancels_exactly_is_enclosed_below_every_float() -> None:
    inputs, dy = drawn(rule_of(normalized)).inputs, drawn(rule_of(normalized)).dy
    (dx, *_), bits = (
        truth(rule_of(normalized), inputs, torch.ones_like(dy)).grads,
        truth(rule_of(normalized), inputs, dy).outputs[0].bits,
    )
    assert bits == 200
    assert dx.bits > 1000
    assert dx.midpoint().abs().max() == 0
    assert dx.ulps(torch.full_like(dy, 5e-324)).unique().tolist() == [1.0]


def test_what_no_precision_decides_is_an_error() -> None:
    def third(x: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        return torch.where(x / 3 * 3 - x > 0, x, 2 * x)

    with pytest.raises(PrecisionError, match="planted: 6400 bits"):
        truth(rule_of(third), (doubles(1.0),), doubles(1.0))


# Balls


@pytest.mark.parametrize(
    ("dtype", "x", "unit"),
    [
        (torch.float64, 1.0, 2.0**-52),
        (torch.float64, 0.75, 2.0**-53),
        (torch.float64, 1e-310, 5e-324),
        (torch.float64, 0.0, 5e-324),
        (torch.float32, -3.0, 2.0**-22),
        (torch.float32, 1e-42, 2.0**-149),
        (torch.float16, 1.0, 2.0**-10),
        (torch.float16, 1e-6, 2.0**-24),
        (torch.bfloat16, 1.0, 2.0**-7),
        (torch.bfloat16, 1e-40, 2.0**-133),
    ],
)
def test_unit_in_the_last_place(dtype: torch.dtype, x: float, unit: float) -> None:
    ball = enclosed.Balls(torch.Size([1]), (arb(x),), 200)
    got = torch.tensor([x], dtype=dtype)
    here = abs(got.double().item() - x) / unit
    assert ball.ulps(got).item() == pytest.approx(here)
    assert ball.ulps(torch.nextafter(got, torch.full_like(got, 9.0))).item() == pytest.approx(
        abs(torch.nextafter(got, torch.full_like(got, 9.0)).double().item() - x) / unit
    )


def test_ulps_of_truth_below_the_range_of_float64() -> None:
    (dx,) = truth(rule_of(sigmoid), (doubles(1000.0, 744.5),), doubles(1.0, 1.0)).grads
    assert dx.midpoint().tolist()[0] == 0.0
    assert dx.radius().tolist()[0] > 0
    below = float(Decimal("-744.5").exp() / Decimal(2) ** -1074)
    assert dx.ulps(doubles(0.0, 0.0)).tolist() == pytest.approx([0.0, below], abs=1e-12)


def test_ulps_of_what_is_no_number() -> None:
    (dx,) = truth(rule_of(relu), (doubles(1.0, 1.0, 0.0),), doubles(1.0, 1.0, 1.0)).grads
    assert dx.ulps(doubles(float("nan"), float("-inf"), 0.0)).nan_to_num(-1.0, posinf=99.0).tolist() == [
        99.0,
        99.0,
        -1.0,
    ]


def test_ulps_rejects_other_shapes_and_dtypes() -> None:
    (dx,) = truth(rule_of(relu), (doubles(1.0),), doubles(1.0)).grads
    with pytest.raises(ValueError, match=r"shape \(1,\)"):
        dx.ulps(doubles(1.0, 2.0))
    with pytest.raises(ValueError, match="int64"):
        dx.ulps(torch.tensor([1]))


# Several outputs, and inputs that are not there


def test_several_outputs_are_certified_and_their_cotangents_add_up() -> None:
    rule, x = PAGES["three_outputs"], doubles(1.0, 3.0).reshape(1, 2)
    dy = (doubles(0.5, 0.25).reshape(1, 2), doubles(8.0), torch.tensor(2.0))
    y, mean, total = truth(rule, (x,), dy).outputs
    assert [each.midpoint().tolist() for each in (y, mean, total)] == [[[3.0, 9.0]], [2.0], 12.0]
    (dx,) = truth(rule, (x,), dy).grads
    assert dx.midpoint().tolist() == [[3 * 2.5 + 4, 3 * 2.25 + 4]]
    (dx,) = truth(rule, (x,), (None, dy[1], None)).grads
    assert dx.midpoint().tolist() == [[4.0, 4.0]]


def test_an_absent_input_has_no_cotangent() -> None:
    rule, x = PAGES["optional_inputs"], doubles(1.0, 3.0).reshape(1, 2)
    grads = truth(rule, (x, None, doubles(1.0, 1.0), None), torch.ones(1, 2)).grads
    assert [grad is None for grad in grads] == [False, True, False, True]


def test_of_a_page_without_backward_the_values_are_certified() -> None:
    exact = truth(PAGES["momentum"], (doubles(1.0), doubles(0.5), None), None, lr=0.5)
    assert [y.midpoint().tolist() for y in exact.outputs] == [[0.75], [0.5]]
    assert exact.grads == (None, None, None)


def constant_here(x: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    return x.detach() * x


def test_what_is_detached_is_a_constant() -> None:
    assert truth(rule_of(constant_here), (doubles(3.0),), doubles(1.0)).grads[0].midpoint().tolist() == [3.0]


# Exponentials that add up


def softmaxed(x: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    return torch.softmax(x, -1)


def log_softmaxed(x: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    return torch.log_softmax(x, -1)


def masked_softmax(x: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    return torch.softmax(torch.where(torch.tensor([True, True, False]), x, -torch.inf), -1)


def test_equal_logits_are_no_tie() -> None:
    exact = truth(rule_of(softmaxed), (doubles(2.0, 2.0),), doubles(1.0, 0.0))
    assert exact.outputs[0].bits == 200
    assert exact.grads[0].midpoint().tolist() == [0.25, -0.25]


@pytest.mark.parametrize("gap", [30.0, 2e4])
def test_a_logit_far_above_the_others(gap: float) -> None:
    """1 − p and log p of the largest are what the other one has: e^−gap / (1 + e^−gap) and −log(1 + e^−gap)."""
    x, e = (doubles(1e4, 1e4 - gap),), Decimal(-gap).exp()
    exact = truth(rule_of(softmaxed), x, doubles(1.0, 0.0))
    assert exact.grads[0].bits == 200
    assert digits(exact.grads[0].balls[0], e / (1 + e) ** 2) > 40
    log = truth(rule_of(log_softmaxed), x, doubles(1.0, 0.0))
    assert log.outputs[0].bits == 200
    assert digits(log.outputs[0].balls[0], -(1 + e).ln() if gap < 100 else -e) > 40
    assert digits(log.grads[0].balls[0], e / (1 + e)) > 40


def test_a_logit_of_minus_infinity_has_no_weight() -> None:
    exact = truth(rule_of(masked_softmax), (doubles(1.0, 1.0, 7.0),), doubles(1.0, 0.0, 5.0))
    assert exact.outputs[0].midpoint().tolist() == [0.5, 0.5, 0.0]
    assert exact.grads[0].midpoint().tolist() == [0.25, -0.25, 0.0]


# What is refused


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_inf_and_nan_lie_outside(bad: float) -> None:
    with pytest.raises(ValueError, match="planted: x holds inf or nan"):
        truth(rule_of(relu), (doubles(bad),), doubles(1.0))
    with pytest.raises(ValueError, match="planted: dy holds inf or nan"):
        is_subgradient(rule_of(relu), (doubles(1.0),), doubles(bad), (doubles(1.0),))


def test_what_the_rule_refuses_is_refused() -> None:
    with pytest.raises(ValueError, match="a window must be as long as taps"):
        truth(PAGES["windows"], (torch.ones(2), torch.ones(3)), torch.ones(1))
    with pytest.raises(ValueError, match="dy must be a tuple of 3 tensors; came 1"):
        truth(PAGES["three_outputs"], (torch.ones(1, 2),), torch.ones(1, 2))
    with pytest.raises(ValueError, match=r"dy must be a tensor of shape \(2,\)"):
        truth(rule_of(relu), (torch.ones(2),), torch.ones(3))
    with pytest.raises(ValueError, match="alhpa"):
        truth(rule_of(elu), (torch.ones(2),), torch.ones(2), alhpa=1.0)
    with pytest.raises(ValueError, match="grads must be one per input"):
        is_subgradient(rule_of(relu), (torch.ones(2),), torch.ones(2), ())
    with pytest.raises(ValueError, match=r"grads of x must be a tensor of shape \(2,\)"):
        is_subgradient(rule_of(relu), (torch.ones(2),), torch.ones(2), (torch.ones(1),))


def bessel(x: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    return torch.special.bessel_j0(x)


def in_place(x: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    return x.add_(1)


def copied_sign(x: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    return torch.ones(2, dtype=torch.float64).copysign(x)


def rounded_quotient(x: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    return torch.div(x, x, rounding_mode="floor")


def python_branch(x: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    return x if x.sum() else -x


@pytest.mark.parametrize(
    ("forward", "named"),
    [
        (bessel, "special_bessel_j0"),
        (in_place, "add_"),
        (copied_sign, "copysign"),
        (rounded_quotient, "div in this form"),
        (python_branch, r"bool\(\)"),
    ],
)
def test_an_unknown_function_is_named_with_its_page(forward, named: str) -> None:
    with pytest.raises(UnknownFunction, match=f"the page planted uses {named}"):
        truth(rule_of(forward), (doubles(0.5, 0.25),), doubles(1.0, 1.0))


def test_without_flint_the_import_names_the_extra() -> None:
    hidden = "import sys; sys.modules['flint'] = None; import manual_bp.arithmetic.certified"
    ran = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True, check=False)
    assert ran.returncode != 0
    assert "pip install 'manual-bp[truth]'" in ran.stderr
