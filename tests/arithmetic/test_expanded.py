"""What a bound grants beyond a right program: expanded terms, sums of another precision; and where it is infinite."""

from __future__ import annotations

import math

import pytest
import torch

import manual_bp as bp
from manual_bp.arithmetic.bounded import Bounded, Contract, How, contract_of, enter, magnitudes, widths
from manual_bp.arithmetic.bounded_tensor import done_so, magnitude_of

BFLOAT16 = Contract(torch.bfloat16, torch.bfloat16)


def entered(*numbers, dtype=torch.float32):
    return enter(torch.tensor(numbers, dtype=dtype), contract_of(dtype))


def test_magnitudes_are_those_of_the_expanded_terms():
    x, target = torch.tensor([[3.0, -1.0]], dtype=torch.float64), torch.tensor([[2.5, -1.5]], dtype=torch.float64)
    found = magnitudes(bp.square_loss, (x, target), torch.tensor(1.0, dtype=torch.float64))
    # (|x| + |t|)² / 2, summed; |x| + |t|
    assert found.outputs[0].item() == pytest.approx((5.5**2 + 2.5**2) / 2, rel=1e-9)
    assert found.grads[0].flatten().tolist() == pytest.approx([5.5, 2.5], rel=1e-9)


def test_what_a_maximum_does_not_take_is_no_part_of_its_terms():
    lowest, two, three = (done_so(entered(number), How(roundings=8.0)) for number in (-1e38, 2.0, 3.0))
    assert magnitude_of(torch.maximum(lowest, two)).item() == pytest.approx(
        2.0, rel=1e-5
    )  # a maximum that starts at the lowest number
    assert magnitude_of(torch.minimum(lowest, two)).item() == pytest.approx(1e38, rel=1e-5)
    of_large = two + 2.0**30 - 2.0**30  # anything within 64 or more of 2: it may be the larger, and the smaller
    assert magnitude_of(torch.maximum(of_large, three)).item() >= 2.0**30


def test_an_expanded_variance_is_within_the_bound_and_not_within_the_width():
    x = 100 + torch.randn(16, 1, generator=torch.Generator().manual_seed(0))
    inputs, dy = (x, torch.ones(1), torch.zeros(1)), torch.ones(16, 1)
    variance = (x**2).mean() - x.mean() ** 2
    y = (x - x.mean()) / torch.sqrt(variance + 1e-5)
    error = (y.double() - bp.batch_norm.forward(*(t.double() for t in inputs))[0]).abs()
    own, lost = (
        widths(bp.batch_norm, inputs, dy, contract_of(torch.float32), how=how).outputs[0] for how in (None, How(8.0))
    )
    assert bool((error > own).any())
    assert bool((error <= lost).all())


def test_sums_of_another_precision_hide_no_digit_of_16_bits():
    n = 1600
    inputs, dy = (torch.ones(n, 1), torch.ones(1, 1), torch.zeros(1)), torch.ones(n, 1)
    narrow, wide = (
        widths(bp.linear, inputs, dy, BFLOAT16, how=how).grads[2].item()
        for how in (None, How(accumulate=torch.float32))
    )
    assert narrow > n  # nothing is left
    assert wide < n / 50


def test_what_is_fused_with_a_sum_has_its_range():
    weight, dy = torch.full((2, 3), 1000.0), torch.ones(2, 3)
    contract = Contract(torch.float16, torch.float16)
    narrow, wide = (
        widths(bp.max_norm, (weight,), dy, contract, how=how, limit=1.0).outputs[0]
        for how in (None, How(accumulate=torch.float32))
    )
    assert bool(narrow.isinf().all())  # 1000² is beyond 65 504
    assert bool(wide.isfinite().all())


@pytest.mark.parametrize(("n", "granted"), [(1000, True), (5000, False)])
def test_equal_terms_in_order_are_granted_the_worst_case_while_every_term_shows(n, granted):
    u = 2.0**-24
    inputs = (torch.ones(n, 1), torch.ones(1, 1), torch.zeros(1))
    bound = widths(bp.linear, inputs, torch.ones(n, 1), contract_of(torch.float32), how=How(8.0)).grads[2].item()
    assert (bound > n * n * u) is granted
    assert bound < n / n  # one term of the sum


def test_a_part_of_a_sum_may_overflow():
    largest = 3e38
    assert entered(largest, largest, -largest).sum().error.isinf()
    assert entered(largest, -largest, 1.0).sum().error.isfinite()
    assert (entered(largest, largest, -largest)[None] @ entered(1.0, 1.0, 1.0)[:, None]).error.isinf().all()


def test_a_product_that_underflows_in_float64_itself_is_not_exact():
    small, large = entered(1e-200, dtype=torch.float64), entered(1e300, dtype=torch.float64)
    product = small * small * large  # 1e-100, and 0 on the way
    assert isinstance(product, Bounded)
    assert product.value.item() == 0.0
    assert product.error.item() > 1e-100
    assert not math.isinf(product.error.item())
