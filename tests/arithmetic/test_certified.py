"""Certified truth is compared with closed forms in decimal arithmetic, with the hand-derived backwards, with autograd,
and with wrong answers that it must reject."""

import decimal
import inspect
import subprocess
import sys
import time
from decimal import Decimal
from types import ModuleType
from typing import NamedTuple

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

import manual_bp as bp
import torch_ref
from manual_bp import axes
from manual_bp.inputs import Input
from manual_bp.rule import Rule

pytest.importorskip("flint", reason="certified truth needs python-flint")
from flint import arb, ctx

from manual_bp.arithmetic import certified
from manual_bp.arithmetic.bounded import contract_of, widths
from manual_bp.arithmetic.certified import PrecisionError, UnknownFunction, adjoint_identity, is_subgradient, truth

decimal.getcontext().prec = 80
ALL = list(bp.RULES)
KINKED = ("relu", "leaky_relu", "elu")


def case(rule: Rule, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[tuple[Tensor, ...], Tensor, dict]:
    """Ordinary inputs of small distinct sizes, dy and hyperparameters."""
    generator = torch.Generator().manual_seed(seed)
    lengths = iter((5, 3, 2, 4, 7))
    sizes = {name: (2, 2) if many else (next(lengths),) for name, many in rule.axis_names.items()}
    hyper = rule.ordinary
    drawn = (rule.inputs[n].draw(axes.shape_of(rule.annotations[n], sizes, hyper), generator) for n in rule.inputs)
    inputs = tuple(x.to(dtype) if x.is_floating_point() else x for x in drawn)
    y, _ = rule.forward(*inputs, **hyper)
    return inputs, torch.randn(y.shape, generator=generator, dtype=torch.float64).to(dtype), hyper


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def rule_of(forward) -> Rule:
    """A rule from a bare forward, as if it were a page.  Its backward is wrong."""

    class Residuals(NamedTuple):
        pass

    def page_forward(*inputs, **hyper):
        return forward(*inputs, **hyper), Residuals()

    def backward(residuals: Residuals, dy: Float[Tensor, "*shape"]) -> tuple[Tensor, ...]:
        return tuple(3 * dy for _ in page.INPUTS)

    page_forward.__signature__ = inspect.signature(forward)
    returned = tuple[forward.__annotations__["return"], Residuals]
    page_forward.__annotations__ = {**forward.__annotations__, "return": returned}
    page = ModuleType("pages.testing.planted")
    page.forward, page.backward, page.Residuals, page.EDGES, page.MISTAKES = page_forward, backward, Residuals, (), ()
    page.INPUTS = {name: Input() for name in inspect.signature(forward).parameters}
    return Rule("planted", page)


def digits(ball: arb, exact: Decimal) -> float:
    """To how many digits the whole ball agrees with an exact value."""
    with ctx.workprec(400):
        error = abs(ball - arb(str(exact))) / abs(arb(str(exact)))
        return float("inf") if error.upper() == 0 else -float(error.upper().log_base(10))


# Known derivatives


@pytest.mark.parametrize("x", [0.25, -3.0, 7.5, 40.0, -745.0, 1e-300])
def test_sigmoid_to_40_digits(x: float) -> None:
    (dx,) = truth(bp.sigmoid, (doubles(x),), doubles(1.0)).grads
    e = (-abs(Decimal(x))).exp()
    assert digits(dx.balls[0], e / (1 + e) ** 2) > 40


@pytest.mark.parametrize("x", [0.25, -3.0, 19.0, 370.0, 1e-300])
def test_tanh_to_40_digits(x: float) -> None:
    (dx,) = truth(bp.tanh, (doubles(x),), doubles(1.0)).grads
    e = (-2 * abs(Decimal(x))).exp()
    assert digits(dx.balls[0], 4 * e / (1 + e) ** 2) > 40


@pytest.mark.parametrize("alpha", [0.3, 2.0, -1.5])
@pytest.mark.parametrize("x", [-0.7, -40.0, -1e-300])
def test_elu_to_40_digits(x: float, alpha: float) -> None:
    exact = truth(bp.elu, (doubles(x),), doubles(1.0), alpha=alpha)
    assert digits(exact.grads[0].balls[0], Decimal(alpha) * Decimal(x).exp()) > 40


def test_values_are_certified_too() -> None:
    exact = truth(bp.sigmoid, (doubles(-40.0, 3.0),), doubles(1.0, 1.0))
    assert all(
        digits(b, 1 / (1 + (-Decimal(x)).exp())) > 40 for b, x in zip(exact.outputs[0].balls, (-40.0, 3.0), strict=True)
    )


def test_batch_norm_to_40_digits() -> None:
    """Two values a and b with h = (a - b)/2: x̂_a = -x̂_b = h s with s = 1/√(h² + eps), and dx̂_a/da = ½ s³ eps."""
    a, b, dy_a, dy_b, weight, eps = map(Decimal.from_float, (0.3, -1.1, 0.7, -2.9, 1.7, 0.125))
    h = (a - b) / 2
    s = 1 / (h * h + eps).sqrt()
    exact = truth(
        bp.batch_norm,
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
        bp.square_loss, (x, torch.zeros(1, dtype=torch.float16)), torch.tensor(0.1, dtype=torch.float32)
    ).grads[:1]
    assert dx.balls[0] == arb(x.item()) * arb(torch.tensor(0.1).item())


# Every rule


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("seed", range(3))
def test_hand_derivation_and_autograd_lie_in_the_enclosure(name: str, seed: int) -> None:
    rule = bp.RULES[name]
    inputs, dy, hyper = case(rule, seed)
    y, by_hand = rule.vjp(inputs, dy, **hyper)
    _, by_autograd = torch_ref.twin(name)(inputs, dy, **hyper)
    exact = truth(rule, inputs, dy, **hyper)
    allowed = widths(rule, inputs, dy, contract_of(torch.float64), **hyper)
    formulas = [m.backward for m in rule.mistakes if m.loses_digits]  # torch's own may be one of them
    losing = [widths(rule, inputs, dy, contract_of(torch.float64), backward=f, **hyper).grads for f in formulas]
    assert ((y - exact.outputs[0].midpoint()).abs() <= allowed.outputs[0]).all()
    assert [ball is None for ball in exact.grads] == [not each.cotangent for each in rule.inputs.values()]
    for position, (ball, hand, autograd) in enumerate(zip(exact.grads, by_hand, by_autograd, strict=True)):
        if ball is not None:
            width = allowed.grads[position]
            torchs_width = torch.stack([width, *(grads[position] for grads in losing)]).amax(0)
            assert ((hand - ball.midpoint()).abs() <= width).all()
            assert ((autograd - ball.midpoint()).abs() <= torchs_width).all()
            assert (ball.radius() <= 2.0**-60 * ball.midpoint().abs()).all()


@pytest.mark.parametrize(
    "name", ["sigmoid", "tanh", "elu", "relu", "leaky_relu", "dropout", "l2_penalty", "square_loss"]
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_element_wise_rules_are_accurate_in_every_dtype(name: str, dtype: torch.dtype) -> None:
    rule = bp.RULES[name]
    inputs, dy, hyper = case(rule, dtype=dtype)
    grads = rule.vjp(inputs, dy, **hyper)[1]
    for ball, grad in zip(truth(rule, inputs, dy, **hyper).grads, grads, strict=True):
        assert ball is None or ball.ulps(grad).max() <= 5


@pytest.mark.parametrize("name", ALL)
def test_adjoint_identity(name: str) -> None:
    rule = bp.RULES[name]
    inputs, dy, hyper = case(rule)
    grads = rule.vjp(inputs, dy, **hyper)[1]
    v = tuple(None if g is None else torch.randn(g.shape, dtype=g.dtype) for g in grads)
    allowance = tuple(None if g is None else 1e-13 * (1 + g.abs()) for g in grads)
    judged = adjoint_identity(rule, inputs, dy, grads, v, allowance=allowance, **hyper)
    assert judged.overlap
    assert judged.agrees
    doubled = tuple(None if g is None else g * (1 + 1e-6) for g in grads)
    assert not adjoint_identity(rule, inputs, dy, doubled, v, allowance=allowance, **hyper).agrees


def test_the_adjoint_identity_leaves_out_kinks() -> None:
    x, dy = doubles(0.0, 2.0), doubles(3.0, 5.0)
    judged = adjoint_identity(bp.relu, (x,), dy, (doubles(99.0, 5.0),), (doubles(1.0, 1.0),))
    assert judged.overlap
    assert judged.agrees
    assert judged.forward == 5


@pytest.mark.parametrize("name", ALL)
def test_mistakes_that_show_everywhere_disagree_with_the_enclosure(name: str) -> None:
    rule = bp.RULES[name]
    inputs, dy, hyper = case(rule)
    exact = truth(rule, inputs, dy, **hyper)

    def worst(grads: tuple[Tensor | None, ...]) -> float:
        pairs = list(zip(exact.grads, grads, strict=True))
        if any(ball is None and grad is not None for ball, grad in pairs):
            return float("inf")
        return max(ball.ulps(grad).max().item() for ball, grad in pairs if ball is not None)

    by_hand = rule.vjp(inputs, dy, **hyper)[1]
    assert worst(by_hand) < 1e6
    for wrong in (lambda g: -g, lambda g: 0 * g, lambda g: g * (1 + 1e-6), lambda g: g.roll(1)):
        assert worst(tuple(g if g is None else wrong(g) for g in by_hand)) > 1e6
    for mistake in rule.mistakes:
        if mistake.shows == "everywhere":
            assert worst(rule.mistaken(mistake.backward)(inputs, dy, **hyper)[1]) > 1e6, mistake.name


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


@pytest.mark.parametrize("name", KINKED)
def test_no_derivative_at_a_kink(name: str) -> None:
    hyper = {"elu": {"alpha": 2.0}}.get(name, {})
    exact = truth(bp.RULES[name], (doubles(0.0, -0.0, 1.0),), doubles(1.0, 1.0, 1.0), **hyper)
    assert exact.grads[0].balls[:2] == (None, None)
    assert exact.grads[0].midpoint().isnan().tolist() == [True, True, False]
    assert exact.outputs[0].midpoint().tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize(("name", "hyper"), [("elu", {"alpha": 1.0}), ("leaky_relu", {"negative_slope": 1})])
def test_branches_that_meet_smoothly_have_a_derivative(name: str, hyper: dict) -> None:
    assert truth(bp.RULES[name], (doubles(0.0),), doubles(3.0), **hyper).grads[0].balls[0] == 3


def test_an_output_that_nobody_asks_for_may_have_a_kink() -> None:
    assert truth(bp.relu, (doubles(0.0),), doubles(0.0)).grads[0].balls[0] == 0


def test_beside_the_kink_the_derivative_exists() -> None:
    assert truth(bp.relu, (doubles(5e-324, -5e-324),), doubles(1.0, 1.0)).grads[0].midpoint().tolist() == [1.0, 0.0]


@pytest.mark.parametrize("dy", [3.0, -3.0])
def test_relu_at_0_accepts_every_slope_between_0_and_1(dy: float) -> None:
    x = doubles(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0)
    slopes = doubles(0.0, 0.5, 1.0, -0.001, 1.001, float("nan"), 7.0)  # 7 is wrong, but not at a kink
    judged = is_subgradient(bp.relu, (x,), torch.full((7,), dy, dtype=torch.float64), (slopes * dy,))
    assert judged.kinks[0].tolist() == [True] * 6 + [False]
    assert judged.failing[0].tolist() == [False, False, False, True, True, True, False]
    assert not judged.passed


def test_signs_of_dy_may_differ() -> None:
    x, dy = doubles(0.0, 0.0, 0.0, 0.0), doubles(2.0, -2.0, 2.0, -2.0)
    judged = is_subgradient(bp.relu, (x,), dy, (doubles(1.0, -1.0, -1.0, 1.0),))
    assert judged.failing[0].tolist() == [False, False, True, True]


@pytest.mark.parametrize(("name", "hyper"), [("leaky_relu", {"negative_slope": 3.0}), ("elu", {"alpha": 3.0})])
def test_concave_kinks(name: str, hyper: dict) -> None:
    x = doubles(0.0, 0.0, 0.0, 0.0, 0.0)
    judged = is_subgradient(bp.RULES[name], (x,), torch.ones_like(x), (doubles(1.0, 3.0, 2.0, 0.9, 3.1),), **hyper)
    assert judged.failing[0].tolist() == [False, False, False, True, True]


def test_the_ends_of_a_subdifferential_may_be_rounded() -> None:
    x, dy = torch.zeros(1), torch.tensor([0.3])
    end = bp.leaky_relu.vjp((x,), dy, negative_slope=0.1)[1]
    assert is_subgradient(bp.leaky_relu, (x,), dy, end, negative_slope=0.1).passed
    below = (end[0] * (1 - 1e-5),)
    assert not is_subgradient(bp.leaky_relu, (x,), dy, below, negative_slope=0.1).passed
    assert is_subgradient(bp.leaky_relu, (x,), dy, below, allowance=(torch.tensor([1e-5]),), negative_slope=0.1).passed


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
    judged = is_subgradient(bp.maxout, (x,), torch.full((3,), scale, dtype=torch.float64), (dx,), pieces=3)
    assert judged.kinks[0].reshape(3, 3).tolist() == [[True, True, False], [True, True, True], [False, False, False]]
    assert [not row.any() for row in judged.failing[0].reshape(3, 3)[:2]] == right
    assert judged.passed == all(right)


def test_a_tie_of_many_is_judged_by_random_signs() -> None:
    x, dy = torch.ones(12, dtype=torch.float64), doubles(1.0)
    even = (torch.full((12,), 1 / 12, dtype=torch.float64),)
    assert is_subgradient(bp.maxout, (x,), dy, even, pieces=12).passed
    assert not is_subgradient(bp.maxout, (x,), dy, (torch.ones_like(x),), pieces=12).passed
    assert not is_subgradient(bp.maxout, (x,), dy, (torch.zeros_like(x),), pieces=12).passed


@pytest.mark.parametrize("name", KINKED)
def test_conventions_of_page_and_torch_are_subgradients(name: str) -> None:
    inputs, dy = (doubles(0.0, -0.0),), doubles(2.0, -3.0)
    assert is_subgradient(bp.RULES[name], inputs, dy, bp.RULES[name].vjp(inputs, dy)[1]).passed
    assert is_subgradient(bp.RULES[name], inputs, dy, torch_ref.twin(name)(inputs, dy)[1]).passed


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
    (dx,) = truth(bp.sigmoid, x, dy).grads
    assert dx.ulps(bp.sigmoid.vjp(x, dy)[1][0]).item() < 5
    assert dx.ulps(torch_ref.twin("sigmoid")(x, dy)[1][0]).item() > 2.0**51


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
    inputs, dy, _ = case(bp.batch_norm)
    (dx, *_), bits = (
        truth(bp.batch_norm, inputs, torch.ones_like(dy)).grads,
        truth(bp.batch_norm, inputs, dy).outputs[0].bits,
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
    ball = certified.Balls(torch.Size([1]), (arb(x),), 200)
    got = torch.tensor([x], dtype=dtype)
    here = abs(got.double().item() - x) / unit
    assert ball.ulps(got).item() == pytest.approx(here)
    assert ball.ulps(torch.nextafter(got, torch.full_like(got, 9.0))).item() == pytest.approx(
        abs(torch.nextafter(got, torch.full_like(got, 9.0)).double().item() - x) / unit
    )


def test_ulps_of_truth_below_the_range_of_float64() -> None:
    (dx,) = truth(bp.sigmoid, (doubles(1000.0, 744.5),), doubles(1.0, 1.0)).grads
    assert dx.midpoint().tolist()[0] == 0.0
    assert dx.radius().tolist()[0] > 0
    below = float(Decimal("-744.5").exp() / Decimal(2) ** -1074)
    assert dx.ulps(doubles(0.0, 0.0)).tolist() == pytest.approx([0.0, below], abs=1e-12)


def test_ulps_of_what_is_no_number() -> None:
    (dx,) = truth(bp.relu, (doubles(1.0, 1.0, 0.0),), doubles(1.0, 1.0, 1.0)).grads
    assert dx.ulps(doubles(float("nan"), float("-inf"), 0.0)).nan_to_num(-1.0, posinf=99.0).tolist() == [
        99.0,
        99.0,
        -1.0,
    ]


def test_ulps_rejects_other_shapes_and_dtypes() -> None:
    (dx,) = truth(bp.relu, (doubles(1.0),), doubles(1.0)).grads
    with pytest.raises(ValueError, match=r"shape \(1,\)"):
        dx.ulps(doubles(1.0, 2.0))
    with pytest.raises(ValueError, match="int64"):
        dx.ulps(torch.tensor([1]))


@pytest.mark.parametrize("name", ALL)
def test_empty_inputs(name: str) -> None:
    rule = bp.RULES[name]
    sizes = {axis: (0, 3) if many else (3,) for axis, many in rule.axis_names.items()}
    if "batch" in sizes and len(sizes["batch"]) == 1:
        sizes["batch"] = (0,)
    if not any(0 in lengths for lengths in sizes.values()):
        sizes[next(iter(sizes))] = (0,)
    shapes = [axes.shape_of(rule.annotations[n], sizes, rule.ordinary) for n in rule.inputs]
    inputs = tuple(rule.inputs[n].draw(s, torch.Generator()) for n, s in zip(rule.inputs, shapes, strict=True))
    y, _ = rule.forward(*inputs, **rule.ordinary)
    exact = truth(rule, inputs, torch.ones_like(y), **rule.ordinary)
    assert exact.outputs[0].midpoint().shape == y.shape
    assert inputs[0].numel() == 0
    for x, ball in zip(inputs, exact.grads, strict=True):
        assert ball is None or ball.midpoint().equal(torch.zeros(x.shape, dtype=torch.float64))
    assert is_subgradient(
        rule, inputs, torch.ones_like(y), rule.vjp(inputs, torch.ones_like(y), **rule.ordinary)[1], **rule.ordinary
    ).passed


# What is refused


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_inf_and_nan_lie_outside(bad: float) -> None:
    with pytest.raises(ValueError, match="relu: x holds inf or nan"):
        truth(bp.relu, (doubles(bad),), doubles(1.0))
    with pytest.raises(ValueError, match="relu: dy holds inf or nan"):
        is_subgradient(bp.relu, (doubles(1.0),), doubles(bad), (doubles(1.0),))


def test_what_the_rule_refuses_is_refused() -> None:
    with pytest.raises(ValueError, match="more than one value"):
        truth(bp.batch_norm, (torch.ones(1, 2), torch.ones(2), torch.ones(2)), torch.ones(1, 2))
    with pytest.raises(ValueError, match=r"dy must be a tensor of shape \(2,\)"):
        truth(bp.relu, (torch.ones(2),), torch.ones(3))
    with pytest.raises(ValueError, match="alhpa"):
        truth(bp.elu, (torch.ones(2),), torch.ones(2), alhpa=1.0)
    with pytest.raises(ValueError, match="grads must be one per input"):
        is_subgradient(bp.relu, (torch.ones(2),), torch.ones(2), ())
    with pytest.raises(ValueError, match=r"grads of x must be a tensor of shape \(2,\)"):
        is_subgradient(bp.relu, (torch.ones(2),), torch.ones(2), (torch.ones(1),))


def erfinv(x: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    return torch.erfinv(x)


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
        (erfinv, "erfinv"),
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


# The table


def f_elementary(x: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    return (
        torch.exp(x).log1p() + x.square().rsqrt() - torch.log(x) * x.sin() / torch.cos(x) + torch.erf(-x) ** 3 - x**-1
    )


def f_reductions(x: Float[Tensor, "a b"]) -> Float[Tensor, "b a"]:
    y = (x - x.mean(1, keepdim=True)) / torch.sum(x * x, dim=(0, 1)).sqrt() + x.mean()
    return torch.softmax(y, 1).T + y.log_softmax(0).transpose(0, 1)


def f_selections(x: Float[Tensor, "a b"]) -> Float[Tensor, "a b"]:
    y = torch.clamp(x, -1, 1) + x.abs() + torch.maximum(x, 2 * x) * x.clamp(min=0.5) - x.relu()
    return y + x.amax(1, keepdim=True) + torch.gather(x, 1, x.argmax(1, keepdim=True))


def f_shapes(x: Float[Tensor, "a b"]) -> Float[Tensor, "a b"]:
    pieces = torch.stack([x, 2 * x]).flatten().unflatten(0, (2, *x.shape))
    top, bottom = torch.cat([pieces[0], pieces[1] ** 2]).chunk(2)
    return top.flip(0) * bottom.unsqueeze(-1).expand(*x.shape, 2)[..., 1].roll(1, 0) + torch.ones(3) * x[:, :1]


def f_products(x: Float[Tensor, "a b"]) -> Float[Tensor, "a a"]:
    return (x @ x.mT) * (x.reshape(1, *x.shape) @ x.T)[0] + (x @ x[0]) * (x[0] @ x.T)


@pytest.mark.parametrize("forward", [f_elementary, f_reductions, f_selections, f_shapes, f_products])
def test_the_table_means_what_torch_means(forward) -> None:
    x = (
        doubles(0.3, 1.7, -0.6, 2.2, 0.9, -1.4, 0.11, 0.6, -0.2)
        if forward is not f_elementary
        else doubles(0.3, 1.7, 2.6)
    )
    x = x if forward is f_elementary else x.reshape(3, 3)
    dy = torch.randn(forward(x).shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y, (dx,) = torch_ref.vjp(forward)((x,), dy)
    exact = truth(rule_of(forward), (x,), dy)
    # 100 ulp: these functions are sums of a dozen terms of about the same size; a wrong meaning is off by 1e13 ulp.
    assert (exact.outputs[0].ulps(y) <= 100).all()
    assert (exact.grads[0].ulps(dx) <= 100).all()


def test_the_whole_table_is_fast() -> None:
    started = time.perf_counter()
    for rule in bp.RULES.values():
        inputs, dy, hyper = case(rule)
        truth(rule, inputs, dy, **hyper)
    assert time.perf_counter() - started < 5
