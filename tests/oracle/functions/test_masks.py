"""Masks whose numbers stand for an infinity without being one: the largest of the format, negative."""

import math
from functools import partial

import pytest
import torch

from manual_bp.arithmetic.bounded import Contract, magnitudes, widths
from manual_bp.oracle import compare
from manual_bp.oracle.functions import reference
from tests.judging import ordinary

KEEP = torch.ones(5, 5, dtype=torch.bool).tril()
FORMS = {
    "filled": lambda s, keep: s.masked_fill(~keep, torch.finfo(s.dtype).min),
    "added times a mask": lambda s, keep: s + (~keep).to(s.dtype) * torch.finfo(s.dtype).min,
    "added times 1 less a mask": lambda s, keep: s + (1.0 - keep.to(s.dtype)) * torch.finfo(s.dtype).min,
    "added": lambda s, keep: s + torch.full((5, 5), torch.finfo(s.dtype).min, dtype=s.dtype).triu(1),
}
INPUTS = {"q": (2, 5, 3), "k": (2, 5, 3), "v": (2, 5, 4), "keep": KEEP}


def attention(form, q, k, v, keep):
    s = q @ k.mT / math.sqrt(q.shape[-1])
    return FORMS[form](s, keep).softmax(-1) @ v


def attention_of_an_infinite_mask(q, k, v, keep):
    s = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~keep, -math.inf)
    return s.softmax(-1) @ v


def by_hand(inputs, dy, factor=1.0):
    q, k, v, keep = inputs
    scale = 1 / math.sqrt(q.shape[-1])
    p = (q @ k.mT * scale).masked_fill(~keep, -math.inf).softmax(-1)
    dp = dy @ v.mT
    ds = factor * p * (dp - (p * dp).sum(-1, keepdim=True)) * scale
    return p @ v, (ds @ k, ds.mT @ q, p.mT @ dy, None)


def named(form):
    function = partial(attention, form)
    function.__name__ = "attention"
    return function


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("form", FORMS)
def test_what_such_a_mask_hides_hides_no_error(form, dtype):
    rule = reference(named(form), INPUTS)
    how = {"inputs": INPUTS, "dtype": dtype, "diagnose": 0, "cases": [ordinary(rule, dtype)]}
    report = compare(by_hand, named(form), **how)
    assert report.passed, str(report)
    report = compare(partial(by_hand, factor=1 + 1e-3), named(form), **how)
    assert {m.argument for m in report.mismatches} == {"dq", "dk"}, str(report)


@pytest.mark.parametrize("form", FORMS)
def test_widths_are_those_of_an_infinite_mask(form):
    """In the precision of 16 bits too, and so are the magnitudes of what is added up."""
    inputs = ordinary(reference(named(form), INPUTS), torch.bfloat16)
    infinite = reference(attention_of_an_infinite_mask, INPUTS)

    def found(rule, of):
        results = of(rule, inputs.inputs, inputs.dy)
        return [x for x in (*results.outputs, *results.grads) if x is not None]

    for of in (partial(widths, contract=Contract(torch.bfloat16, torch.bfloat16)), magnitudes):
        for got, due in zip(found(reference(named(form), INPUTS), of), found(infinite, of), strict=True):
            assert torch.allclose(got, due, rtol=0.1), form
