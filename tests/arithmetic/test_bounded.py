"""The width: wide enough for every right program, too narrow for a wrong one.

What each function does to a bound is tested in test_functions.py.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import manual_bp as bp
from manual_bp.arithmetic.bounded import (
    Bounded,
    Contract,
    Paging,
    UnknownFunctionError,
    Widths,
    contract_of,
    enter,
    magnitudes,
    widths,
)
from manual_bp.arithmetic.bounded_program import run_bounded_program
from manual_bp.arithmetic.bounded_table import gamma, precision
from manual_bp.arithmetic.operators import is_bounded, on_tensors
from manual_bp.inputs import Edge
from manual_bp.oracle.calling.candidates import differentiator
from manual_bp.oracle.cases.generated import Case, draw, in_dtype
from manual_bp.outputs import parts
from manual_bp.rule import Rule
from manual_bp.signature import DTYPES
from tests.pages import PAGES

SEEDS = range(3)
MORE_SEEDS = range(8)  # where three draws come near nowhere: from draw to draw errors of sums differ by a factor of 2
every_rule = pytest.mark.parametrize("name", [*bp.RULES, *(f"pages/{name}" for name in PAGES)])


def rule_of(name: str) -> Rule:
    return PAGES[name.removeprefix("pages/")] if name.startswith("pages/") else bp.RULES[name]


# ------------------------------------------------------------------------------------------------------ helpers

Results = list[Tensor]
"""The outputs and the cotangents that are not None."""


def flat(outputs: Any, grads: Any) -> Results:
    return [x.double() for x in (*parts(outputs), *grads) if x is not None]


ORDINARY = Edge("ordinary")


def drawn(rule: Rule, dtype: torch.dtype, seed: int = 0, edge: Edge = ORDINARY) -> Case:
    inputs, dy, hyper = draw(rule, edge, torch.Generator().manual_seed(seed))
    return in_dtype(Case(inputs, dy, hyper, edge.name), dtype, "cpu")


def of_page(rule: Rule, case: Case) -> Results:
    return flat(*rule.vjp(case.inputs, case.dy, **case.hyper))


def wide(case: Case) -> Case:
    return in_dtype(case, torch.float64, "cpu")


def is_finite(case: Case) -> bool:
    return all(bool(x.isfinite().all()) for x in case.tensors)


def found_widths(rule: Rule, case: Case, contract: Contract | None = None, **more: Any) -> Widths:
    contract = contract or contract_of(next((x.dtype for x in case.tensors if x.is_floating_point()), torch.float32))
    return widths(rule, case.inputs, case.dy, contract, **more, **case.hyper)


def allowance(rule: Rule, case: Case, contract: Contract | None = None) -> Results:
    found = found_widths(rule, case, contract)
    return flat(found.outputs, found.grads)


@cache  # for two tests; the widths of a recurrence take seconds
def at_edges(name: str) -> list[tuple[Case, Widths]]:
    """Of every edge in float32 that is finite there, the widths of the page."""
    rule = rule_of(name)
    cases = [drawn(rule, torch.float32, edge=edge) for edge in rule.edges if not edge.raises]
    return [(case, found_widths(rule, case)) for case in filter(is_finite, cases)]


LONG = 100


def longest(case: Case) -> int:
    return max((length for x in case.tensors for length in x.shape), default=0)


def ratio(error: Tensor, width: Tensor) -> Tensor:
    """error / width, where 0 / 0 is 0: something exact that came out exact."""
    return torch.where(error == 0, 0.0, error / width)


# --------------------------------------------------------------------------------------------- of every page

LOOSEST = 100  # more than this is called loose
FACTOR = {torch.float64: 1e-6, torch.float32: 1e-3}  # scale errors that must be rejected
CANCELLED = 1e-2  # of the terms into which it expands: what is smaller may be what is left of terms that cancel


@every_rule
def test_the_page_is_within_its_width_which_is_not_loose(name: str) -> None:
    """Against certified truth: never beyond the width, and somewhere at a hundredth of it, unless a result is exact."""
    certified = pytest.importorskip("manual_bp.arithmetic.certified", reason="certified truth needs python-flint")
    rule = rule_of(name)
    for dtype in DTYPES:
        seen: dict[int, float] = {}
        for seed in MORE_SEEDS:
            if seed not in SEEDS and all(not largest or largest >= 1 / LOOSEST for largest in seen.values()):
                break
            case = drawn(rule, dtype, seed)
            truth = certified.truth(rule, case.inputs, case.dy, **case.hyper)
            balls = [ball for ball in (*truth.outputs, *truth.grads) if ball is not None]
            results = zip(balls, of_page(rule, case), allowance(rule, case), strict=True)
            for position, (ball, got, width) in enumerate(results):
                largest = float(ratio(ball.errors(got), width).nan_to_num(0.0).max())
                seen[position] = max(seen.get(position, 0.0), largest)
        assert max(seen.values()) <= 1, f"{dtype}: {seen}"
        assert all(largest >= 1 / LOOSEST for largest in seen.values() if largest > 0), f"{dtype}: {seen}"


@every_rule
@pytest.mark.parametrize("dtype", FACTOR, ids=str)
def test_a_scaled_gradient_is_outside(name: str, dtype: torch.dtype) -> None:
    rule = rule_of(name)
    case = drawn(rule, dtype)
    grads = rule.vjp(wide(case).inputs, wide(case).dy, **case.hyper)[1]
    terms = magnitudes(rule, case.inputs, case.dy, **case.hyper).grads
    for grad, term, width in zip(grads, terms, found_widths(rule, case).grads, strict=True):
        if grad is not None and width is not None:
            plain = grad.abs() > CANCELLED * term
            assert (grad.abs()[plain] * FACTOR[dtype] > width[plain]).all()


@every_rule
def test_every_edge_has_a_width(name: str) -> None:
    """Finite where the result is a number of the dtype, not too near its largest."""
    rule = rule_of(name)
    for case, found in at_edges(name):
        for result, width in zip(of_page(rule, wide(case)), flat(found.outputs, found.grads), strict=True):
            representable = result.abs() < precision(torch.float32).max / 2
            assert width[representable].isfinite().all(), f"{case.name}: {width}"


@every_rule
def test_every_formula_of_a_page_has_widths(name: str) -> None:
    """A page that uses a function which the table lacks is named here."""
    rule = rule_of(name)
    case = drawn(rule, torch.float32)
    outputs = parts(rule.forward(*case.inputs, **case.hyper)[0])
    wanted = [
        x.shape if x is not None and spec.cotangent and rule.has_backward else None
        for x, spec in zip(case.inputs, rule.inputs.values(), strict=True)
    ]
    formulas = [*rule.mistakes, *rule.values] if rule.has_backward else rule.values
    for instead in ({}, *(formula.instead for formula in formulas)):
        found = found_widths(rule, case, **instead)
        assert [width.shape for width in found.outputs] == [y.shape for y in outputs]
        if "backward" not in instead:
            assert [None if width is None else width.shape for width in found.grads] == wanted
        assert all(bool((width >= 0).all()) for width in flat(found.outputs, found.grads))


@every_rule
def test_a_rule_runs_on_bounded_numbers_unchanged(name: str) -> None:
    """Rule checks shapes, detaches and casts; the width is that of the page."""
    rule = rule_of(name)
    case, contract = drawn(rule, torch.float32), contract_of(torch.float32)
    entered = case.with_tensors(enter(x, contract) for x in case.tensors)
    with torch.no_grad(), Paging():
        outputs, grads = rule.vjp(entered.inputs, entered.dy, **case.hyper)
    wanted = found_widths(rule, case)
    for found, width in zip((*parts(outputs), *grads), (*wanted.outputs, *wanted.grads), strict=True):
        assert (found is None) == (width is None)
        if isinstance(found, Bounded):
            assert torch.equal(found.error, width)


@every_rule
def test_low_precision_arithmetic_is_wider_than_one_rounding(name: str) -> None:
    rule = rule_of(name)
    case = drawn(rule, torch.bfloat16)
    narrow = Contract(torch.bfloat16, torch.bfloat16)
    for once, always in zip(allowance(rule, case), allowance(rule, case, narrow), strict=True):
        # an input's rounding is that of the result, which float32 adds its own to
        assert (always >= once * (1 - precision(torch.bfloat16).u)).all()


@every_rule
def test_lost_digits_are_within_the_width_of_their_own_formula(name: str) -> None:
    """And somewhere beyond the page's, at one of its edges.  On a long axis, where each width takes seconds, the first
    formula is asked, and of the others those that are further off than the page."""
    rule = rule_of(name)
    for number, mistake in enumerate(each for each in rule.mistakes if each.loses_digits):
        beyond = False
        for case, page in at_edges(name):
            truths = rule.vjp(wide(case).inputs, wide(case).dy, **case.hyper)[1]
            grads = rule.mistaken(mistake.backward)(case.inputs, case.dy, **case.hyper)[1]
            found = zip(truths, grads, page.grads, strict=True)
            errors = [None if t is None or g is None else ((g.double() - t).abs(), right) for t, g, right in found]
            is_off = any(bool((error > right).any()) for error, right in filter(None, errors))
            if is_off or number == 0 or longest(case) < LONG:
                own = found_widths(rule, case, **mistake.instead).grads
                for there, allowed in zip(errors, own, strict=True):
                    assert there is None or not (there[0] > allowed).any(), f"{mistake.name} at {case.name!r}"
            beyond |= is_off
        assert beyond, f"{mistake.name} loses no digits at any edge"


# ------------------------------------------------------------------------------------------- the order of a sum


def sequential(terms: Tensor) -> Tensor:
    """Σ over the first axis, one after the other."""
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def fused(a: Tensor, b: Tensor) -> Tensor:
    """Σ a b over the first axis by fused multiply-add: float32 rounded from float64, in which a product is exact."""
    total = torch.zeros_like(a[0])
    for x, y in zip(a, b, strict=True):
        total = (x.double() * y.double() + total.double()).float()
    return total


PRODUCTS = {
    "one after the other": lambda x, w, b: sequential((x[:, :, None] * w[None]).transpose(0, 1)) + b,
    "backwards": lambda x, w, b: sequential((x[:, :, None] * w[None]).transpose(0, 1).flip(0)) + b,
    "the bias first": lambda x, w, b: sequential(
        torch.cat([b.expand(1, len(x), -1), (x[:, :, None] * w[None]).transpose(0, 1)])
    ),
    "fused": lambda x, w, b: fused(x.T[:, :, None].expand(-1, -1, w.shape[1]), w[:, None].expand(-1, len(x), -1)) + b,
    "torch's addmm": lambda x, w, b: torch.addmm(b, x, w),
}


@pytest.mark.parametrize("size", [7, 200])
@pytest.mark.parametrize("program", PRODUCTS)
def test_a_sum_in_any_order_is_within_the_width(program: str, size: int) -> None:
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        x, w, b = (torch.randn(*shape, generator=generator) for shape in ((5, size), (size, 4), (4,)))
        with torch.no_grad(), Paging():
            bounded = (lambda x, w, b: x @ w + b)(*(enter(t, contract_of(torch.float32)) for t in (x, w, b)))
        assert isinstance(bounded, Bounded)
        assert ((PRODUCTS[program](x, w, b).double() - bounded.value).abs() <= bounded.error).all()


@pytest.mark.parametrize(("added", "error"), [(math.nan, math.inf), (math.inf, 0.0)])
def test_what_is_no_number_beside_a_sum_leaves_no_bound_that_is_none(added: float, error: float) -> None:
    x, w, b = torch.ones(1, 40), torch.ones(40, 1), torch.tensor([added])
    with torch.no_grad(), Paging():
        bounded = (lambda x, w, b: x @ w + b)(*(enter(t, contract_of(torch.float32)) for t in (x, w, b)))
    assert isinstance(bounded, Bounded)
    assert bounded.error.item() == error


ADDING_UP = {
    "sum": lambda x: x.sum(0),
    "mean": lambda x: x.mean(0),
    "cumsum": lambda x: x.cumsum(0)[-1],
    "prod": lambda x: x.prod(0),
    "cumprod": lambda x: x.cumprod(0)[-1],
    "norm of order 1": lambda x: x.norm(1, dim=0),
    "matrix product": lambda x: x[:, 0] @ x,
    "addmm": lambda x: torch.addmm(x[:1], x[:, :1].T, x)[0],
    "convolution": lambda x: torch.conv1d(x.T[None], x.T[None]).flatten(),
    "index_add": lambda x: torch.zeros(1, 2).index_add(0, torch.zeros(1000, dtype=torch.int64), x)[0],
    "scatter_add": lambda x: torch.zeros(1, 2).scatter_add(0, torch.zeros(1000, 2, dtype=torch.int64), x)[0],
    "index_put": lambda x: torch.zeros(1, 2).index_put((torch.zeros(1000, dtype=torch.int64),), x, accumulate=True)[0],
}


@pytest.mark.parametrize("name", ADDING_UP)
def test_what_adds_up_is_granted_the_roundings_of_its_terms(name: str) -> None:
    """γ of a thousand terms at least, and not twice as much, beside what the terms themselves are off by."""
    x = torch.rand(1000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 4 + 0.875
    with torch.no_grad(), Paging():
        bounded = ADDING_UP[name](Bounded(x, torch.zeros_like(x), torch.float32))
    assert isinstance(bounded, Bounded)
    granted = bounded.error / (bounded.value.abs() * gamma(999, precision(torch.float32).u))
    assert (granted > 0.999).all()
    assert (granted < 2).all()


def test_the_roundings_of_a_sum_are_half_as_large_under_a_root_and_as_they_are_in_a_logarithm() -> None:
    x, of_sum = torch.full((1000,), 0.1, dtype=torch.float64), gamma(999, precision(torch.float32).u)
    with torch.no_grad(), Paging():
        exact = Bounded(x, torch.zeros_like(x), torch.float32)
        norm, log, share = exact.norm(), exact.logsumexp(0), exact.softmax(0)
    assert 0.5 < error_of(norm) / (float(norm.value) * of_sum) < 0.6
    assert 1 < error_of(log) / of_sum < 1.2
    assert 1 < error_of(share[:1]) / (float(share.value[0]) * of_sum) < 1.1


def test_a_structural_zero_is_judged_on_the_scale_of_what_cancels() -> None:
    """The sum of what a mean was taken from, as the cotangent of a bias before a normalisation is."""
    u = precision(torch.float32).u
    for seed in range(10):
        g = torch.randn(16, 4, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad(), Paging():
            total = (lambda g: (g - g.mean(0)).sum(0))(enter(g, contract_of(torch.float32)))
        terms, found = g.double().abs().sum(0), (g - g.mean(0)).sum(0).double()
        assert isinstance(total, Bounded)
        assert (total.value.abs() <= u * u * terms).all()  # 0, as far as float64 can tell
        assert (found.abs() <= total.error).all()
        assert (total.error > u * terms).all()
        assert (total.error < 1e-3 * terms).all()  # a sum that is really there is not excused


# --------------------------------------------------------------------------------------------------- the model


def test_a_function_that_the_table_lacks_is_named() -> None:
    rule = PAGES["mean_square"]
    case = drawn(rule, torch.float32)
    for formula, named in (
        (torch.special.bessel_j0, r"mean_square: aten\.special_bessel_j0\.default"),
        (lambda x: (x * 1).cumprod_(0).frac_(), r"mean_square: aten\.frac"),
    ):
        with pytest.raises(UnknownFunctionError, match=named):
            found_widths(rule, case, backward=lambda formula=formula, **named: (formula(named["dy"]),))


def of(value: float, error: float, dtype: torch.dtype = torch.float32) -> Bounded:
    return Bounded(torch.tensor([value], dtype=torch.float64), torch.tensor([error], dtype=torch.float64), dtype)


def error_of(x: Any) -> float:
    assert isinstance(x, Bounded)
    return float(x.error)


def test_the_contract_is_in_the_dtypes() -> None:
    x = of(1.0, 0.0, torch.bfloat16)
    assert error_of(x.to(torch.float32)) == 0
    assert error_of(of(1.0, 0.0).to(torch.bfloat16)) == 2**-8
    assert error_of(of(1.0, 0.0, torch.float16).to(torch.bfloat16)) == 2**-8
    assert (x * of(1.0, 0.0)).dtype == torch.float32
    without_axes = of(1.0, 0.0, torch.float64)[0]
    assert (of(1.0, 0.0) * without_axes).dtype == torch.float32
    assert (without_axes * of(1.0, 0.0)).dtype == torch.float32
    assert error_of(x * of(3.0, 0.0, torch.bfloat16)) == 3 * 2**-8


def test_a_sign_is_exact_unless_errors_leave_it_open() -> None:
    """0.1 · 3 − 0.3 · 1 is 0, or next to it on either side; an exact 0 and what is well above 0 have one sign."""
    x = torch.tensor([3.0, 3.0, 0.0, -3.0])
    y = torch.tensor([1.0, -1.0, 0.0, 1.0])
    float32 = contract_of(torch.float32)
    with Paging():
        sign = torch.sign(0.1 * enter(x, float32) - 0.3 * enter(y, float32))
    assert isinstance(sign, Bounded)
    assert sign.error[1:].tolist() == [0.0, 0.0, 0.0]
    assert sign.error[0] == 1 + sign.value[0].abs()


def test_powers_of_two_and_signs_are_exact() -> None:
    assert error_of(2 * of(3.0, 0.0)) == 0
    assert error_of(of(3.0, 0.0) / 4) == 0
    assert error_of(-of(3.0, 0.5)) == 0.5
    assert error_of(3 * of(3.0, 0.0)) == 9 * 2**-24
    # 0.1 has been rounded twice before it is multiplied
    assert error_of(0.1 * of(1.0, 0.0)) == pytest.approx(0.3 * 2**-24, rel=1e-6, abs=0)
    assert error_of(0.1 * of(1.0, 0.0, torch.float64)) == pytest.approx(0.3 * 2**-53, rel=1e-6, abs=0)


@pytest.mark.parametrize("name", ["exp", "expm1", "log", "log1p", "tanh", "erf", "sqrt"])
def test_a_library_function_is_granted_what_is_documented(name: str) -> None:
    """Between ½ ulp (2 u at most: u) and the 2½ ulps of the worst of them (5 u)."""
    bounded = getattr(of(1.5, 0.0), name)()
    assert 1 < error_of(bounded) / (float(bounded.value.abs()) * 2**-24) < 5.001


def test_an_uncertain_denominator_has_no_bound() -> None:
    assert error_of(1 / of(1.0, 1.0)) == math.inf
    assert error_of(1 / of(0.5, 0.75)) == math.inf
    assert error_of(1 / of(0.0, 0.0)) == math.inf
    assert error_of(of(0.5, 0.75).sqrt()) == math.inf
    assert error_of(of(0.5, 0.75).log()) == math.inf
    assert error_of(of(0.0, 0.0).sqrt()) == 0


def test_a_sum_of_squares_that_underflows_has_a_root() -> None:
    """g² of float32 gradients below 1e-23: the program has a root between 0 and a little more than the true one."""
    gradients = torch.tensor([1e-23, 3e-23, 1e-25, 0.0])
    bounded = (enter(gradients, contract_of(torch.float32)) ** 2 * 1e-3).sqrt()
    program = (gradients**2 * 1e-3).sqrt()
    assert isinstance(bounded, Bounded)
    assert ((program.double() - bounded.value).abs() <= bounded.error).all()
    assert bounded.error.isfinite().all()
    assert error_of((of(1e-23, 1e-23) ** 2 - of(1e-40, 1e-37)).sqrt()) == math.inf


def test_powers_of_a_number_at_its_edges() -> None:
    assert error_of(0.0 ** of(3.0, 0.0)) == 0
    assert error_of(0.0 ** of(0.5, 0.5)) == math.inf
    assert error_of(torch.pow(-2.0, of(3.0, 0.0))) == math.inf
    assert 0 < error_of(0.999 ** of(200.0, 0.0, torch.float64)) < 1e-12


def test_overflow_has_no_bound_and_does_not_poison() -> None:
    large = of(1e30, 0.0) * 1e30
    assert error_of(large) == math.inf
    assert error_of(0 * large) == math.inf  # inf times 0 is NaN in the program
    assert error_of(of(math.inf, 0.0) * of(1.0, math.inf)) == math.inf  # and so is inf times what may be 0
    assert error_of(of(math.inf, 0.0) * of(1.0, 0.5)) == 0
    assert error_of(torch.where(of(1.0, 0.0) > 0, of(1.0, 0.25), large)) == 0.25
    assert error_of(torch.cat([of(3e38, 0.0), of(3e38, 0.0)]).sum()) == math.inf
    assert error_of(of(1e5, 0.0).to(torch.float16)) == math.inf
    assert error_of(of(6.5e4, 0.0).to(torch.float16)) < math.inf
    assert error_of(of(1e5, 0.0).to(torch.bfloat16)) < math.inf


def test_an_infinite_input_is_exact() -> None:
    infinite = enter(torch.tensor([math.inf, -math.inf]), contract_of(torch.float32))
    assert isinstance(infinite, Bounded)
    assert (infinite.error == 0).all()
    assert isinstance(slope := torch.exp(-infinite[:1]), Bounded)
    assert error_of(slope) < precision(torch.float32).tiny


def test_inputs_carry_one_rounding() -> None:
    float32 = precision(torch.float32)
    x = torch.tensor([1.0, 0.0, 1e-42])
    entered = enter(x, contract_of(torch.float32))
    assert isinstance(entered, Bounded)
    assert entered.error.tolist() == [float32.u, 0.0, float32.eta]
    sixteen = enter(x.half(), contract_of(torch.float16))
    assert isinstance(sixteen, Bounded)
    assert (sixteen.dtype, float(sixteen.error[0])) == (torch.float32, float32.u)
    mask = torch.tensor([True])
    assert type(enter(mask, contract_of(torch.float16))) is Tensor


def test_underflow_is_counted_where_it_can_happen() -> None:
    float32 = precision(torch.float32)
    assert error_of(of(1e-30, 0.0) * of(1e-12, 0.0)) == float32.eta
    assert error_of(of(1e-42, 0.0) + of(1e-42, 0.0)) == 2e-42 * float32.u
    assert error_of(of(0.0, 0.0) * of(1.0, 0.0)) == 0
    assert error_of(of(-1000.0, 0.0).exp()) >= float32.eta
    tiny_product = of(1e-30, 0.0)[None] @ of(1e-12, 0.0)[:, None]
    assert error_of(tiny_product) == pytest.approx(float32.eta, rel=1e-3, abs=0)


def test_gamma_takes_the_smaller_bound() -> None:
    u = precision(torch.float32).u
    assert gamma(0, u) == 0
    assert gamma(10, u) == pytest.approx(10 * u, rel=1e-5, abs=0)
    assert gamma(10_000, u) == pytest.approx(600 * u, rel=1e-3, abs=0)  # λ √n = 6 · 100
    assert gamma(500, 2**-8) < 1  # the worst case has no bound here: n u > 1
    assert gamma(10**9, 2**-8) == math.inf


def test_sums_written_in_place_are_bounded() -> None:
    """Into zeros, through parts of them, as a page adds windows that overlap."""

    def windows(x: Tensor) -> Tensor:
        y = torch.zeros(2, 5, dtype=x.dtype)
        for k in range(3):
            y[:, k : k + 3] += 0.1 * x
        y[0].mul_(3.0)
        y[:, torch.tensor([4])] = 0.1
        return y

    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), Paging():
        bounded = windows(enter(x, contract_of(torch.float32)))
    assert isinstance(bounded, Bounded)
    assert ((windows(x.double()) - bounded.value).abs() <= bounded.error).all()
    error = (windows(x).double() - bounded.value).abs()
    assert (error <= bounded.error).all()
    assert (bounded.error > 0).all()
    assert (bounded.error < 1e-5).all()


# ------------------------------------------------------------------------------------------------ checks


def test_contracts_are_checked() -> None:
    assert contract_of(torch.float16) == Contract(torch.float32, torch.float16)
    assert contract_of(torch.float64) == Contract(torch.float64, torch.float64)
    for compute, storage in (
        (torch.int32, torch.float32),
        (torch.float32, torch.int8),
        (torch.float32, torch.float64),
        (torch.float16, torch.bfloat16),
    ):
        with pytest.raises(ValueError, match="contract"):
            Contract(compute, storage)
    with pytest.raises(ValueError, match="contract"):
        contract_of(torch.int64)


def test_arguments_are_checked() -> None:
    rule, contract = PAGES["three_outputs"], contract_of(torch.float32)
    case = drawn(rule, torch.float32)
    with pytest.raises(ValueError, match="takes 1 inputs"):
        widths(rule, (*case.inputs, *case.inputs), case.dy, contract)
    with pytest.raises(ValueError, match="dy must have one tensor of each output's shape"):
        widths(rule, case.inputs, case.dy[:2], contract)
    only_one = widths(rule, case.inputs, (None, case.dy[1], None), contract).grads[0]
    assert only_one is not None
    assert (only_one < found_widths(rule, case).grads[0]).all()
    with pytest.raises(ValueError, match="sclae"):
        widths(rule, case.inputs, case.dy, contract, sclae=1.0)


def test_inputs_that_require_grad_are_accepted_and_nothing_is_recorded() -> None:
    rule = PAGES["three_outputs"]
    case = drawn(rule, torch.float32)
    result: Widths = widths(rule, (case.inputs[0].requires_grad_(),), case.dy, contract_of(torch.float32))
    assert not any(width.requires_grad for width in result.outputs)


def mixed(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of its own, a cast, lists, sums, what lies elsewhere in memory, a formula, a mask, a write."""
    h = torch.zeros(4)
    states = []
    for part in x.unbind():
        h = torch.tanh(0.7 * h + weight @ part) + F.gelu(part) / 3
        states.append(h)
    y = torch.stack(states).t().contiguous().view(-1)
    y = torch.where(y > 0.25, y, torch.full((), 1 / 3)) * (torch.arange(len(y)) * 2 - 1).to(torch.float32)
    written = torch.zeros(3, 4)
    written[1:] = F.softmax(x, -1)[:2]
    return y, torch.cat([written, x.cumsum(0)]).sum(0)


def test_a_program_is_run_alike_with_and_without_the_dispatcher() -> None:
    generator, contract = torch.Generator().manual_seed(0), contract_of(torch.float32)
    x, weight = (torch.randn(*shape, generator=generator) for shape in ((3, 4), (4, 4)))
    found = differentiator().derivative(mixed, (x, weight), {}, is_bounded, True, False)
    given = [enter(t, contract) for t in (x, weight)]
    dy = [enter(torch.randn(*shape, generator=generator), contract) for shape in ((12,), (4,))]
    with torch.no_grad(), Paging() as paging:
        assert paging.is_next()
        assert not torch.vmap(lambda x: x * paging.is_next())(torch.ones(2)).any()
        y, saved = run_bounded_program(found.forward, given, torch.float32)
        grads = run_bounded_program(found.backward, [*saved, *dy], torch.float32)
    with torch.no_grad(), Paging():
        (due, kept), _ = found.forward.run(given, on_tensors(torch.float32, are_bounded=True))
        due_grads, _ = found.backward.run([*kept, *dy], on_tensors(torch.float32, are_bounded=True))
    for own, other in zip((*y, *grads), (*due, *due_grads), strict=True):
        assert own.dtype == other.dtype
        assert torch.equal(own.value, other.value)
        assert torch.equal(own.error, other.error)
