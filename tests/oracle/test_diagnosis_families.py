"""Families of edits: what people write in a function's backward is told as that."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from manual_bp.arithmetic.bounded import contract_of
from manual_bp.inputs import Edge
from manual_bp.oracle.case import Case, in_dtype
from manual_bp.oracle.cases.drawing import draw
from manual_bp.oracle.diagnosis import diagnose
from manual_bp.oracle.diagnosis.quantities import OF_A_COUNT, OF_A_HYPERPARAMETER, UNDEFINED
from manual_bp.oracle.diagnosis.tracing import traced
from manual_bp.oracle.diagnosis.words import name_of
from manual_bp.oracle.functions import reference
from manual_bp.oracle.truth.evidence import evidence
from manual_bp.program import Ref
from manual_bp.registry import RULES
from tests.oracle.few import few_cases, few_records, judged


def first(function: Any, candidate: Any, **options: Any) -> str:
    """What is said first of a wrong backward of a function, or of a page, at a few cases."""
    rule = reference(function, **options) if callable(function) else RULES[function]
    found = diagnose(rule, candidate, *few_records(rule, candidate))
    assert found.sentences, found
    return found.sentences[0]


# -------------------------------------------------------------------------------------------------------------- borders


def blurred(x):
    p = F.pad(x[:, None], (1, 1), mode="replicate")[:, 0]
    return (p[:, :-2] + 2 * p[:, 1:-1] + p[:, 2:]) ** 2


def _moved(d, by):
    """With 0 where nothing is moved to."""
    return F.pad(d, (by, 0))[:, : d.shape[1]] if by > 0 else F.pad(d, (0, -by))[:, -by:]


@pytest.mark.parametrize(
    ("moved", "words"), [(_moved, "left out"), (lambda d, by: d.roll(by, 1), "taken from the other end")]
)
def test_what_a_border_gave_is_lost(moved, words):
    def candidate(inputs, dy):
        (x,) = inputs
        p = F.pad(x[:, None], (1, 1), mode="replicate")[:, 0]
        d = 2 * dy * (p[:, :-2] + 2 * x + p[:, 2:])
        return blurred(x), (2 * d + moved(d, 1) + moved(d, -1),)

    said = first(blurred, candidate, inputs={"x": (4, 9)})
    assert f"what lies beyond the ends of its axis {words} in" in said, said


# ---------------------------------------------------------------------------------------------------------------- loops


def test_constants_of_the_page_are_no_steps_of_a_loop():
    """Torch adds up what a reflected border gives back as what the rounds of a loop give."""

    def reflected(x):
        p = F.pad(x[:, None], (2, 2), mode="reflect")[:, 0]
        return p[:, :-4] * 0.5 + p[:, 4:] * 0.25

    def candidate(inputs, dy):
        (x,) = inputs
        return reflected(x), (0.5 * F.pad(dy, (0, 2))[:, 2:] + 0.25 * F.pad(dy, (2, 0))[:, : dy.shape[1]],)

    rule = reference(reflected, inputs={"x": (4, 9)})
    found = diagnose(rule, candidate, *few_records(rule, candidate))
    assert not any("step after" in said for said in found.sentences), found


# -------------------------------------------------------------------------------------------------------------- numbers


def softened(x, beta: float = 1.0, threshold: float = 20.0):
    t = beta * x
    return torch.where(t > threshold, x, torch.log1p(torch.exp(t.clamp(max=threshold))) / beta)


def shrunk(x, scale: float = 2.0, least: float = 0.5):
    z = scale * x
    return torch.where(z.abs() > least, z, 0.0)


def softened_wrongly(inputs, dy, beta=1.0, threshold=20.0):
    (x,) = inputs
    return softened(x, beta, threshold), (torch.where(x > threshold, dy, dy * torch.sigmoid(beta * x)),)


def shrunk_wrongly(inputs, dy, scale=2.0, least=0.5):
    (x,) = inputs
    return shrunk(x, scale, least), (torch.where(x.abs() > least, dy * scale, 0.0),)


@pytest.mark.parametrize(
    ("function", "candidate", "hyper", "words"),
    [
        # threshold=1 would give the same wherever beta is 0.5
        (softened, softened_wrongly, {"beta": 0.5, "threshold": 2.0}, "`x` in place of `x·0.5`"),
        (shrunk, shrunk_wrongly, {"scale": 3.0, "least": 0.7}, "`1` in place of `scale` in `x·scale`"),
    ],
)
def test_a_threshold_of_another_number(function, candidate, hyper, words):
    x = 3 * torch.randn(4, 33, generator=torch.Generator().manual_seed(0))
    said = first(function, candidate, inputs={"x": x}, hyper=hyper)
    assert words in said, said


def test_a_number_is_told_from_what_it_is_made_of():
    """All cases are called with one gain, of which the factor, 1/4, is the inverse square."""

    def gained(x, gain: float = 2.0):
        return torch.sin(gain * x)

    def candidate(inputs, dy, gain=2.0):
        return gained(inputs[0], gain), (dy * torch.cos(gain * inputs[0]) / gain,)

    said = first(gained, candidate, inputs={"x": (4, 9)}, hyper={"gain": 2.0})
    assert "dx is 1/gain² times what it should be" in said, said


def test_a_number_is_told_from_a_length_that_is_the_same_in_all_cases():
    """Of three classes a factor of 3/2 is n/(n - 1)."""
    rule = RULES["softmax_cross_entropy"]

    def candidate(inputs, dy, **hyper):
        y, kept = rule.forward(*inputs, **hyper)
        terms, classes = rule.terms(kept, dy)["dx"], inputs[0].shape[1]
        return y, (terms["target"] + terms["smoothing"] * classes / max(classes - 1, 1), None, None)

    generator = torch.Generator().manual_seed(0)
    of_three = [Case(*draw(rule, Edge("", {"label_smoothing": 0.1}, {"classes": 3}), generator)) for _ in range(8)]
    found = [evidence(rule, in_dtype(case, torch.float32, "cpu"), contract_of(torch.float32)) for case in of_three]
    (said,) = diagnose(rule, candidate, *judged(rule, candidate, found, torch.float32)).sentences
    assert "multiplied by classes/(classes - 1)" in said, said


def test_values_that_differ_by_an_axis_have_names_that_differ():
    def contrastive(a, b):
        s = 2 * a @ b.T
        return torch.log_softmax(s, 1).diagonal() + torch.log_softmax(s, 0).diagonal()

    rule = reference(contrastive, inputs={"a": (4, 3), "b": (4, 3)})
    program = traced(rule, next(few_cases(rule)))
    names = [name_of(program, Ref(p)) for p, node in enumerate(program.nodes) if node.name == "_log_softmax"]
    assert names == ["`log_softmax(a·2 @ bᵀ)`", "`log_softmax(a·2 @ bᵀ along axis 0)`"]


@pytest.mark.parametrize("number", [-1.0, 0.0, 1.0, 0.3])
def test_a_number_of_another_is_real_or_undefined(number):
    """A root of a negative one is none."""
    for function in (*OF_A_COUNT.values(), *OF_A_HYPERPARAMETER.values()):
        with suppress(*UNDEFINED):
            assert isinstance(function(number), float)
