"""Arithmetic in 16 bits excuses what is rounded to 16 bits, and no formula that is computed in float32."""

import math
from functools import partial

import pytest
import torch

import torch_ref
from manual_bp.inputs import Input, uniform
from manual_bp.oracle import Case, compare

ROOT = math.sqrt(2 / math.pi)
CUBE = 0.044715


def gated(x, weight):
    gate, up = (x @ weight.mT).chunk(2, -1)
    return torch.nn.functional.gelu(gate, approximate="tanh") * up


def backward_with(times, rounded=lambda x: x):
    """In float32 whatever comes; times: of the cube's slope; rounded: what is done to the cotangent of the product."""

    def vjp(inputs, dy):
        x, weight, d = (each.float() for each in (*inputs, dy))
        gate, up = (x @ weight.mT).chunk(2, -1)
        t = torch.tanh(ROOT * (gate + CUBE * gate**3))
        slope = (1 + t) / 2 + gate * (1 - t * t) / 2 * ROOT * (1 + times * CUBE * gate**2)
        both = rounded(torch.cat((d * up * slope, d * gate * (1 + t) / 2), -1))
        results = (gate * (1 + t) / 2 * up, both @ weight, both.mT @ x)
        y, *grads = (each.to(inputs[0].dtype) for each in results)
        return y, tuple(grads)

    return vjp


@pytest.mark.parametrize(
    ("candidate", "is_wrong"),
    [
        (backward_with(3), False),
        (backward_with(3, lambda x: x.bfloat16().float()), False),
        (backward_with(1), True),
    ],
    ids=["right", "rounded on the way", "another formula"],
)
def test_what_is_off_alike_at_numbers_nearby_is_no_rounding(candidate, is_wrong) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, dy = (torch.randn(shape, generator=generator).bfloat16() for shape in ((4, 6), (10, 6), (4, 5)))
    case = Case((x, weight), dy)
    given = {"x": (4, 6), "weight": (10, 6)}
    report = compare(candidate, gated, inputs=given, cases=[case], dtype=torch.bfloat16, diagnose=0)
    assert {m.argument for m in report.mismatches} == ({"dx", "dweight"} if is_wrong else set()), str(report)


def cost(x, target):
    return -(target * (x - x.logsumexp(-1, keepdim=True))).sum(-1).mean()


def test_a_program_of_16_bits_throughout_is_told_which_contract_takes_it():
    inputs = {"x": (4, 7), "target": (4, 7)}
    report = compare(torch_ref.vjp(cost), cost, inputs=inputs, dtype=torch.bfloat16)
    assert not report.passed
    assert "contract=Contract(torch.bfloat16, torch.bfloat16)" in report.diagnoses[0], report


def test_a_function_that_torch_has_not_in_16_bits_is_one_there():
    """As cdist is on the CPU."""

    def function(x, w):
        return torch.cdist(x, w).square()

    def candidate(inputs, dy, factor=1.0):
        x, w = (each.float() for each in inputs)
        difference = x[:, None] - w
        each = 2 * factor * dy[..., None] * difference
        y, *grads = (part.to(dy.dtype) for part in (difference.square().sum(-1), each.sum(1), -each.sum(0)))
        return y, tuple(grads)

    def judged(vjp):
        return compare(vjp, function, inputs={"x": (4, 3), "w": (5, 3)}, dtype=torch.bfloat16, diagnose=0)

    assert judged(candidate).passed
    wrong = judged(partial(candidate, factor=-1.0))
    assert {m.argument for m in wrong.mismatches} == {"dx", "dw"}, str(wrong)


def routed(logits):
    """Weights in the dtype of the logits, and the loss that balances the load in float32."""
    p = torch.softmax(logits.float(), -1)
    return p.to(logits.dtype), (p.mean(0) ** 2).sum()


def by_hand(inputs, dy, loss_dtype=torch.float32, factor=2.0):
    (x,), (dp, dloss) = inputs, dy
    p = torch.softmax(x.float(), -1)
    due = dp.float() + dloss.float() * factor * p.mean(0) / len(x)
    dx = p * (due - (due * p).sum(-1, keepdim=True))
    return (p.to(x.dtype), (p.mean(0) ** 2).sum().to(loss_dtype)), (dx.to(x.dtype),)


def test_an_output_may_have_the_dtype_in_which_the_function_returns_it() -> None:
    given = {"inputs": {"logits": (5, 8)}, "dtype": torch.bfloat16, "diagnose": 0}
    for dtype in (torch.float32, torch.bfloat16):
        report = compare(partial(by_hand, loss_dtype=dtype), routed, **given)
        assert report.passed, str(report)
    assert {m.argument for m in compare(partial(by_hand, factor=1.0), routed, **given).mismatches} == {"dlogits"}
    for dtype in (torch.float64, torch.float16):
        other = compare(partial(by_hand, loss_dtype=dtype), routed, **given)
        assert {m.kind for m in other.mismatches} == {"trap"}
    assert compare(torch_ref.vjp(routed), routed, **given).passed


def affine(x, weight, bias):
    return x @ weight.mT + bias


KINKED = {
    "relu": lambda x, weight, bias: torch.relu(affine(x, weight, bias)),
    "clamp": lambda x, weight, bias: torch.clamp(affine(x, weight, bias), min=-1.0, max=1.0),
    "hinge": lambda x, weight, bias: torch.clamp_min(1 - affine(x, weight, bias), 0.0).mean(0),
}


SEEDS = {"relu": 1, "clamp": 4, "hinge": 4}
"""At which some number of bfloat16 is on the other side of a kink."""


@pytest.mark.parametrize("name", KINKED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_sum_behind_a_kink_has_the_digits_of_its_terms(name, dtype) -> None:
    """What is small there may be the difference of large numbers, and its branch be another one; but no more than that
    is excused in a case too large to be certified."""
    function, generator = KINKED[name], torch.Generator().manual_seed(SEEDS[name])
    inputs = tuple(torch.randn(s, generator=generator).to(dtype) for s in ((8, 64), (127, 64), (127,)))
    dy = torch.randn(function(*inputs).shape, generator=generator).to(dtype)

    def without_the_kink(inputs, dy):
        y, _ = torch_ref.vjp(function)(inputs, dy)
        each = dy.expand(8, 127).float() / (-8 if name == "hinge" else 1)
        x, weight, _ = (part.float() for part in inputs)
        return y, tuple(g.to(dtype) for g in (each @ weight, each.mT @ x, each.sum(0)))

    def judged(vjp):
        given = {"x": (8, 64), "weight": (16, 64), "bias": (16,)}
        return compare(vjp, function, inputs=given, cases=[Case(inputs, dy)], dtype=dtype, diagnose=0)

    report = judged(torch_ref.vjp(function))
    assert not report.mismatches, str(report)
    # Of a sum of 127 terms in bfloat16 no digit need be left.
    sure = {"dweight", "dbias"} if dtype is torch.bfloat16 else {"dx", "dweight", "dbias"}
    assert sure <= {m.argument for m in judged(without_the_kink).mismatches}


def test_what_is_as_wrong_in_float32_is_no_program_of_16_bits_throughout():
    """A filter's variance, whose many steps in 16 bits may be a tenth off: 0.81 in place of 0.9 is no rounding."""

    def updated(m, P, z, r):
        predicted = 0.9 * P + 0.1
        gain = predicted / (predicted + r)
        return m + gain * (z - m), (1 - gain) * predicted

    def squared(inputs, dy):
        m, P, z, r = (x.float() for x in inputs)
        dm, dP = (d.float() for d in dy)
        predicted = 0.9 * P + 0.1
        s = predicted + r
        gain, rest = predicted / s, r / s
        dgain = dm * (z - m) - dP * predicted
        dpredicted = dgain * r / s**2 + dP * rest
        y = (m + gain * (z - m), rest * predicted)
        grads = (dm * rest, 0.81 * dpredicted, dm * gain, -dgain * predicted / s**2)
        return tuple(x.to(inputs[0].dtype) for x in y), tuple(x.to(inputs[0].dtype) for x in grads)

    positive = ((5, 4), Input(uniform(0.5, 2)))
    inputs = {"m": (5, 4), "P": positive, "z": (5, 4), "r": positive}
    report = compare(squared, updated, inputs=inputs, dtype=torch.bfloat16, diagnose=1e-3)
    assert report.mismatches
    assert not any("throughout" in sentence for sentence in report.diagnoses), str(report)
