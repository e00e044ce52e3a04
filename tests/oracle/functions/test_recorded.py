"""Results recorded elsewhere, and candidates on arrays, against a function: its inputs are told by the cases."""

import numpy as np
import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

import torch_ref
from manual_bp.oracle import NOT_RECORDED, Case, compare, from_functions


def gained(x: Tensor, weight, scale: float, bias=None):
    y = x * weight * scale
    return y if bias is None else y + bias


def looked_up(
    weight: Float[Tensor, "entries features"], index: Int[Tensor, "number"]
) -> Float[Tensor, "number features"]:
    return weight[index]


def curved(x):
    return x * torch.exp(-x)


X, WEIGHT, DY = torch.tensor([[1.0, -2.0, 0.5]]), torch.tensor([3.0, 0.25, -1.0]), torch.tensor([[0.5, 1.5, -2.0]])
Y, GRADS = 2 * X * WEIGHT, (2 * WEIGHT * DY, (2 * X * DY).sum(0))


def test_recorded_results_are_judged_without_inputs():
    hyper = {"scale": 2.0}
    right = Case((X, WEIGHT), DY, hyper, "right", Y, GRADS)
    arrays = Case((X.numpy(), WEIGHT.tolist()), DY.numpy(), hyper, "arrays", Y.numpy(), [g.numpy() for g in GRADS])
    vector = Case((X[0], WEIGHT), DY[0], hyper, "other axes", Y[0], (GRADS[0][0], 2 * X[0] * DY[0]))
    missing = Case((X, WEIGHT), DY, hyper, "missing", Y, (NOT_RECORDED, GRADS[1]))
    wrong = Case((X, WEIGHT), DY, hyper, "wrong", Y, (GRADS[0], GRADS[1] / 2))
    report = compare(None, gained, cases=[right, arrays, vector, missing], diagnose=0)
    assert report.passed, str(report)
    assert report.rule == "gained"
    report = compare(None, gained, cases=[right, wrong], diagnose=0)
    assert [(m.argument, m.case) for m in report.mismatches] == [("dweight", "wrong")]


def test_an_input_that_is_in_some_cases_may_be_absent():
    bias = torch.tensor([1.0, 2.0, 3.0])
    cases = [
        Case((X, WEIGHT), DY, {"scale": 2.0}, "without", Y, (*GRADS, None)),
        Case((X, WEIGHT, bias), DY, {"scale": 2.0}, "with", Y + bias, (*GRADS, DY.sum(0))),
    ]
    report = compare(None, gained, cases=cases, diagnose=0)
    assert report.passed, str(report)


def test_annotated_indices_are_those_of_the_case():
    weight, index, dy = torch.arange(8.0).reshape(4, 2), torch.tensor([3, 0, 3]), torch.ones(3, 2)
    due = torch.tensor([[1.0, 1.0], [0, 0], [0, 0], [2, 2]])
    report = compare(None, looked_up, cases=[Case((weight, index), dy, y=weight[index], grads=(due, None))], diagnose=0)
    assert report.passed, str(report)


def test_a_candidate_on_arrays_is_judged_at_cases():
    candidate = from_functions(lambda x: (x * np.exp(-x), x), lambda dy, x: (dy * (1 - x) * np.exp(-x),))
    cases = [Case((torch.tensor([0.5, -1.0]),), torch.tensor([1.0, 2.0])), Case((X,), DY)]
    assert compare(candidate, curved, cases=cases, diagnose=0).passed
    late = from_functions(lambda x: (x * np.exp(-x), x), lambda dy, x: (dy * (2 - x) * np.exp(-x),))
    assert {m.argument for m in compare(late, curved, cases=cases, diagnose=0).mismatches} == {"dx"}


class Curved(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return curved(x)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return dy * (1 - x) * torch.exp(-x)


def test_a_function_of_autograd_is_a_candidate():
    assert compare(torch_ref.vjp(Curved.apply), curved, cases=[Case((X,), DY)], diagnose=0).passed


@pytest.mark.parametrize(
    ("reference", "cases", "words"),
    [
        (gained, [], "one at least where inputs= is not given"),
        (gained, [Case((X, WEIGHT, X, X), DY, {"scale": 2.0})], "takes 3 inputs"),
        (gained, [Case((X, WEIGHT), DY)], "nothing is said of its parameter scale"),
        (nn.Linear(3, 2), [Case((X,), DY)], "pass inputs= by name"),
    ],
)
def test_cases_that_tell_too_little(reference, cases, words):
    with pytest.raises(ValueError, match=words):
        compare(None, reference, cases=cases)
