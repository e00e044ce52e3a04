"""What stands in for an operation in a compiled program computes the same."""

from __future__ import annotations

import pytest
import torch

from manual_bp.compilation.decompositions import FEW, argmax, erf, expm1, gather, sigmoid, spread, tanh

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_expm1_keeps_its_digits(dtype):
    reach = -torch.log(torch.tensor(torch.finfo(dtype).eps, dtype=dtype))
    x = torch.cat([torch.linspace(-reach, reach, 10001, dtype=dtype), torch.logspace(-30, 0, 301, dtype=dtype)])
    x = torch.cat([x, -x, torch.tensor([0.0, -0.0, INF, -INF], dtype=dtype)])
    expected = torch.expm1(x)  # below 1 ulp off
    # The series and the subtraction err by two roundings each beside the exponential's own ulp.
    assert ((expm1(x) - expected).abs() <= 4 * torch.finfo(dtype).eps * expected.abs()).logical_or(x.isinf()).all()
    assert torch.equal(expm1(x[-2:]), expected[-2:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_sigmoid_keeps_its_digits(dtype):
    x = torch.linspace(-80, 80, 10001, dtype=dtype)
    expected = torch.sigmoid(x)
    assert ((sigmoid(x) - expected).abs() <= 4 * torch.finfo(dtype).eps * expected).all()
    assert sigmoid(torch.tensor([INF, -INF])).tolist() == [1.0, 0.0]
    assert sigmoid(torch.tensor(NAN)).isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_tanh_keeps_its_digits(dtype):
    x = torch.cat([torch.linspace(0, 40, 10001, dtype=dtype), torch.logspace(-30, 0, 301, dtype=dtype)])
    x = torch.cat([x, -x, torch.tensor([INF, -INF], dtype=dtype)])
    expected = torch.tanh(x)
    assert ((tanh(x) - expected).abs() <= 4 * torch.finfo(dtype).eps * expected.abs()).all()
    assert torch.equal(torch.signbit(tanh(x)), torch.signbit(x))
    assert tanh(torch.tensor(NAN)).isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_erf_keeps_its_digits(dtype):
    x = torch.cat([torch.linspace(0, 7, 10001, dtype=dtype), torch.logspace(-30, 0, 301, dtype=dtype)])
    x = torch.cat([x, -x, torch.tensor([INF, -INF], dtype=dtype)])
    expected = torch.erf(x)
    assert ((erf(x) - expected).abs() <= 4 * torch.finfo(dtype).eps * expected.abs()).all()
    assert torch.equal(torch.signbit(erf(x)), torch.signbit(x))
    assert erf(torch.tensor(NAN)).isnan()


def test_argmax_takes_the_first_maximum_and_nan_for_the_largest():
    x = torch.tensor([[1.0, 3.0, 3.0], [NAN, 5.0, NAN], [2.0, NAN, INF], [-INF, -INF, -INF], [0.0, -0.0, 0.0]])
    assert torch.equal(argmax(x, -1), torch.argmax(x, -1))
    assert torch.equal(argmax(x, 1, keepdim=True), torch.argmax(x, 1, keepdim=True))


def test_gather_and_spread_are_torch_s():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 5, 3, generator=generator)
    index = torch.randint(3, (4, 5, 1), generator=generator)
    assert torch.equal(gather(x, -1, index), torch.gather(x, -1, index))
    chosen, value = x > 0, torch.randn(4, 5, 1, generator=generator)
    assert torch.equal(spread(chosen, value, 0), torch.where(chosen, value, 0))


def test_what_is_not_along_a_short_last_axis_is_left_to_torch():
    wide = torch.ones(2, FEW + 1)
    assert argmax(wide, -1) is NotImplemented
    assert argmax(wide) is NotImplemented
    assert argmax(torch.ones(2, 3), 0) is NotImplemented
    assert gather(torch.ones(2, 3), -1, torch.zeros(2, 2, dtype=torch.int64)) is NotImplemented
    assert spread(wide > 0, torch.ones(2, 1), 0) is NotImplemented
    assert spread(torch.ones(2, 3) > 0, torch.ones(2, 3), 0) is NotImplemented
