"""What is tried beside the cases: orders of forward and backward, subsets that require grad, own defaults,
and shapes that the rule refuses.  Candidates are tried at the ordinary case alone: milliseconds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd.function import once_differentiable

import manual_bp as bp
from manual_bp.arithmetic.bounded import contract_of
from manual_bp.inputs import Edge
from manual_bp.oracle import compare, from_functions
from manual_bp.oracle.calling.calls import call
from manual_bp.oracle.case import Case, in_dtype
from manual_bp.oracle.cases.declared import NOTHING
from manual_bp.oracle.cases.drawing import draw
from manual_bp.oracle.diagnosis import Record
from manual_bp.oracle.refusals import refusals
from manual_bp.oracle.trials import trials
from manual_bp.oracle.truth.evidence import evidence
from torch_ref import twin, vjp


def ordinary(rule):
    """As `generated` makes it, without the others."""
    inputs, dy, hyper = draw(rule, Edge("ordinary"), torch.Generator().manual_seed(0))
    return in_dtype(Case(inputs, dy, hyper, "ordinary"), torch.float32, "cpu")


def faults(candidate, name):
    """What is found at the ordinary case, where the candidate is right, as {text: whether it is an error}."""
    rule = bp.RULES[name]
    case = ordinary(rule)
    results = call(candidate, rule, case).results
    record = Record(evidence(rule, case, contract_of(torch.float32)), results)
    found = trials(candidate, rule, torch.float32, "cpu", [record], NOTHING)
    return {fault.text: fault.is_error for fault in found}


# ----------------------------------------------------------------------------------------------------------- state


def keeping(keep, fetch, module=torch):
    """elu by two functions.  keep: what forward does with x and alpha to make its cache; fetch: gets them back."""

    def forward(x, *, alpha=1.0):
        return module.where(x > 0, x, alpha * module.expm1(x)), keep(x, alpha)

    def backward(dy, cache):
        x, alpha = fetch(cache)
        return module.where(x > 0, dy, dy * alpha * module.exp(x))

    return from_functions(forward, backward, arrays="numpy" if module is np else "torch")


def last(module=torch):
    kept = {}
    return keeping(lambda *values: kept.update(last=values), lambda cache: kept["last"], module)


def last_alpha():
    kept = {}
    return keeping(lambda x, alpha: kept.update(alpha=alpha) or x, lambda x: (x, kept["alpha"]))


def stack():
    kept = []
    return keeping(lambda *values: kept.append(values), lambda cache: kept[-1])


def queue():
    kept = []
    return keeping(lambda *values: kept.append(values), lambda cache: kept.pop(0) if len(kept) > 1 else kept[0])


def overwritten(module=torch):
    """Backward leaves something else in its cache."""

    def fetch(cache):
        x, alpha = cache
        cache[0] = x / 3
        return x, alpha

    return keeping(lambda x, alpha: [x, alpha], fetch, module)


def overwritten_in_place():
    def fetch(cache):
        x = cache[0].clone()
        cache[0].mul_(-1)
        return x, cache[1]

    return keeping(lambda x, alpha: (x.clone(), alpha), fetch)


LAST = "backward(a) after forward(b) gives b's gradient (dx): the state of the last forward is used"
EARLIER = "backward(a) after forward(b) and forward(a) does not give a's gradient (dx)"
TWICE = "the second backward after one forward gives another dx than the first: the first backward overwrites"


@pytest.mark.parametrize(
    ("candidate", "words"),
    [
        (last(), LAST),
        (last(np), LAST),
        (last_alpha(), "backward(a) after forward(b) does not give a's gradient (dx)"),
        (stack(), LAST),
        (queue(), EARLIER),
        (overwritten(), TWICE),
        (overwritten(np), TWICE),
        (overwritten_in_place(), TWICE),
    ],
    ids=["last", "last in NumPy", "last alpha", "stack", "queue", "overwritten", "overwritten in NumPy", "in place"],
)
def test_state_between_forward_and_backward(candidate, words):
    found = faults(candidate, "elu")
    assert any(text.startswith(words) and is_error for text, is_error in found.items()), found


def test_the_report_says_it_first():
    report = compare(last(), "elu")
    assert not report.passed
    assert report.diagnoses == [LAST]
    assert [m.kind for m in report.mismatches] == ["trap"]


@pytest.mark.parametrize(
    "candidate",
    [
        keeping(lambda *values: values, lambda cache: cache),
        keeping(lambda *values: values, lambda cache: cache, np),
    ],
    ids=["a cache", "a cache in NumPy"],
)
def test_right_programs_are_right_in_every_order(candidate):
    assert faults(candidate, "elu") == {}


# ------------------------------------------------------------------------------------------------ autograd.Function


def linear_function(guard, keep=None):
    """linear whose backward computes what `guard(needs_input_grad)` says, one bool per input."""

    class Linear(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight, bias):
            if bias.ndim != 1 or len(bias) != len(weight):
                raise ValueError("bias")
            ctx.save_for_backward(x, weight)
            if keep is not None:
                keep[:] = [x.detach()]
            return x @ weight.mT + bias

        @staticmethod
        @once_differentiable
        def backward(ctx, dy):
            x, weight = ctx.saved_tensors
            x = keep[0] if keep else x
            rows, x_rows = dy.flatten(0, -2), x.flatten(0, -2)
            wanted = guard(ctx.needs_input_grad)
            return (
                dy @ weight if wanted[0] else None,
                rows.mT @ x_rows if wanted[1] else None,
                rows.sum(0) if wanted[2] else None,
            )

    return vjp(Linear.apply)


@pytest.mark.parametrize(
    ("guard", "words"),
    [
        (lambda needs: (needs[0],) * 3, "dweight is None where x requires no grad"),
        (lambda needs: (needs[0], needs[1], needs[1]), "dbias is None where weight requires no grad"),
        (lambda needs: (all(needs),) * 3, "dx is None where bias requires no grad"),
        (lambda needs: (needs[0] and sum(needs) > 1, *needs[1:]), "dx is None where only x requires grad"),
        (lambda needs: {}[needs] if not needs[2] else needs, "KeyError: (True, True, False) is raised where bias"),
    ],
    ids=["x guards all", "weight guards bias", "all or nothing", "alone", "raises"],
)
def test_a_backward_that_asks_for_another_input(guard, words):
    found = faults(linear_function(guard), "linear")
    assert any(text.startswith(words) and is_error for text, is_error in found.items()), found


@pytest.mark.parametrize("guard", [lambda needs: needs, lambda needs: (True,) * 3], ids=["each by its own", "none"])
def test_a_right_function(guard):
    assert {text for text in faults(linear_function(guard), "linear") if "refuses" not in text} == set()


def test_a_function_that_keeps_its_last_input():
    assert any("b's gradient (dweight)" in text for text in faults(linear_function(lambda needs: needs, [0]), "linear"))


def test_hyperparameters_of_a_function_go_by_the_names_of_its_forward():
    class Elu(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, alpha=1.0):
            ctx.save_for_backward(x)
            ctx.alpha = alpha
            return torch.where(x > 0, x, alpha * torch.expm1(x))

        @staticmethod
        def backward(ctx, dy):
            (x,) = ctx.saved_tensors
            return torch.where(x > 0, dy, dy * ctx.alpha * torch.exp(x)), None

    report = compare(vjp(Elu.apply), "elu")
    assert report.passed
    assert not report.not_tested


# --------------------------------------------------------------------------------------------------- own defaults


def elu_named(inputs, dy, alpha=0.3):
    return bp.elu.vjp(inputs, dy, alpha=alpha)


def elu_unnamed(inputs, dy, **hyper):
    return bp.elu.vjp(inputs, dy, **{"alpha": 0.3, **hyper})


@pytest.mark.parametrize(
    ("candidate", "words"),
    [(elu_named, "alpha=0.3 differs from the rule's 1.0"), (elu_unnamed, "for alpha differs from the rule's")],
    ids=["in the signature", "inside"],
)
def test_a_default_of_its_own_is_named_first(candidate, words):
    report = compare(candidate, "elu")
    assert not report.passed
    assert report.diagnoses == [f"its own default {words}: called without it, it is another function"]
    assert not report.patterns


def test_what_has_gone_wrong_meanwhile_is_no_default():
    """As a candidate that is wrong from some call on, which may be the first that leaves alpha to it."""
    gone = False

    def worn(inputs, dy, **hyper):
        nonlocal gone
        gone = gone or "alpha" not in hyper
        y, (dx,) = bp.elu.vjp(inputs, dy, **hyper)
        return y, (2 * dx if gone else dx,)

    report = compare(worn, "elu", diagnose=0.1)
    assert report.mismatches
    assert not any("own default" in sentence for sentence in report.diagnoses), str(report)


def test_the_default_of_a_declared_hyperparameter_is_never_taken():
    assert compare(elu_named, "elu", hyper={"alpha": 2.0}).passed


# -------------------------------------------------------------------------------------------------------- refusals


def broadcasting_loss(inputs, dy):
    x, target = inputs
    d, n = x - target, x.shape[0]
    return (d * d).sum() / (2 * n), (dy * d / n, -dy * d / n)


def test_every_refusal_is_one_of_the_rule():
    for rule in bp.RULES.values():
        cases = refusals(rule, torch.float64, "cpu", NOTHING)
        for case in cases:
            with pytest.raises(ValueError, match=rule.name):
                rule.forward(*case.inputs, **case.hyper)
        if len(rule.inputs) > 1:  # every input has its turn
            shapes = {tuple(None if x is None else tuple(x.shape) for x in case.inputs) for case in cases}
            assert all(len({s[i] for s in shapes}) > 1 for i in range(len(rule.inputs))), rule.name


@pytest.mark.parametrize("shapes", [((4, 1), (4,)), ((4, 3), (3,)), ((4, 3), (1, 3)), ((3, 1), (1, 3))], ids=str)
def test_shapes_that_broadcast_are_among_them(shapes):
    cases = refusals(bp.square_loss, torch.float32, "cpu", NOTHING)
    assert shapes in {tuple(tuple(x.shape) for x in case.inputs) for case in cases}


def test_a_candidate_that_answers_is_told():
    (text,) = faults(broadcasting_loss, "square_loss")
    assert text.startswith("it answers where the rule refuses, 17 of 28 times: a target that would broadcast; x (1, 3)")
    report = compare(broadcasting_loss, "square_loss")
    assert report.passed
    assert report.findings == [text]
    assert [m.detail for m in compare(broadcasting_loss, "square_loss", strict=True).mismatches] == [text]


@pytest.mark.parametrize("name", sorted(bp.RULES))
def test_the_rules_themselves_refuse_and_keep_nothing(name):
    assert faults(bp.RULES[name].vjp, name) == {}
    assert {text: error for text, error in faults(twin(name), name).items() if error} == {}
