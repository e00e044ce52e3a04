"""Every rule against its reference, at every edge, in every dtype.  All of it is generated from the registry."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import manual_bp as bp
from manual_bp.arithmetic.bounded import contract_of, widths
from manual_bp.inputs import Edge
from manual_bp.oracle import Case, compare
from manual_bp.oracle.cases import draw
from manual_bp.oracle.checking import rejects

EDGES = [(name, edge) for name, rule in bp.RULES.items() for edge in rule.edges]
MISTAKES = [(name, mistake) for name, rule in bp.RULES.items() for mistake in rule.mistakes]
WIDE = (torch.float64, torch.float32)
VALUES = [(name, value) for name, rule in bp.RULES.items() for value in rule.values]
LOSING = [(name, mistake) for name, mistake in MISTAKES if mistake.loses_digits]


def ids(pairs):
    return [f"{name}-{item.name}" for name, item in pairs]


def test_rule_agrees_with_its_reference(rule, dtype, device):
    """At every generated case."""
    report = compare(rule.vjp, rule.name, dtype=dtype, device=device, strict=True)
    assert report.passed, str(report)
    assert not [text for text in report.not_tested if text.startswith("case")]


def in_float32(vjp):
    """Torch on 16-bit numbers as rules compute with them: its own arithmetic in 16 bits may overflow, leave no digit or
    fall on the other side of a kink."""

    def candidate(inputs, dy, **hyper):
        wide = tuple(x.float() if x is not None and x.is_floating_point() else x for x in inputs)
        y, grads = vjp(wide, dy.float(), **hyper)
        return y.to(dy.dtype), tuple(None if g is None else g.to(dy.dtype) for g in grads)

    return candidate


def test_torch_agrees_up_to_lost_digits(rule, dtype, device):
    from torch_ref import twin

    candidate = twin(rule.name) if dtype in WIDE else in_float32(twin(rule.name))
    report = compare(candidate, rule.name, dtype=dtype, device=device)
    assert report.passed, str(report)


@pytest.mark.parametrize(("name", "mistake"), MISTAKES, ids=ids(MISTAKES))
def test_mistake_is_rejected(name, mistake, dtype):
    if mistake.loses_digits and dtype not in WIDE:
        pytest.skip("computed in float32 and rounded to 16 bits the formula may be right")
    rule = bp.RULES[name]
    noticed = rejects(rule.mistaken(mistake.backward), rule, dtype)
    assert noticed, f"the comparison did not notice {mistake.name}: {mistake.forgets}"


@pytest.mark.parametrize(("name", "mistake"), LOSING, ids=ids(LOSING))
def test_lost_digits_are_a_note_unless_strict(name, mistake):
    rule = bp.RULES[name]
    report = compare(rule.mistaken(mistake.backward), name, dtype=torch.float32)
    assert report.passed, str(report)
    assert any(mistake.name in note for note in report.notes)


@pytest.mark.parametrize(("name", "value"), VALUES, ids=ids(VALUES))
def test_lost_digits_of_a_value_are_a_note_unless_strict(name, value):
    rule = bp.RULES[name]

    def candidate(inputs, dy, **hyper):
        given = dict(zip(rule.inputs, inputs, strict=True))
        return value.forward(**given, **rule.check_hyper(hyper)), rule.vjp(inputs, dy, **hyper)[1]

    report = compare(candidate, name, dtype=torch.float32)
    assert report.passed, str(report)
    assert any(value.name in note for note in report.notes)
    assert not compare(candidate, name, dtype=torch.float32, strict=True, diagnose=0).passed


@pytest.mark.parametrize(
    ("name", "edge"), [p for p in EDGES if p[1].raises], ids=ids([p for p in EDGES if p[1].raises])
)
def test_edge_raises(name, edge):
    rule = bp.RULES[name]
    inputs, _, hyper = draw(rule, edge, torch.Generator().manual_seed(0))
    with pytest.raises(edge.raises, match=name):
        rule.forward(*inputs, **hyper)


def ordinary(rule, dtype=torch.float64, device="cpu"):
    inputs, dy, hyper = draw(rule, Edge("ordinary"), torch.Generator().manual_seed(1))
    cast = [x.to(device, dtype if x.is_floating_point() else x.dtype) for x in (*inputs, dy)]
    return tuple(cast[:-1]), cast[-1], hyper


def test_inputs_and_cotangent_are_left_alone(rule, dtype, device):
    inputs, dy, hyper = ordinary(rule, dtype, device)
    before = [x.clone() for x in (*inputs, dy)]
    rule.vjp(inputs, dy, **hyper)
    assert all(torch.equal(x, copy) for x, copy in zip((*inputs, dy), before, strict=True))


def test_two_runs_are_equal_bit_for_bit(rule, dtype, device):
    inputs, dy, hyper = ordinary(rule, dtype, device)
    (y1, first), (y2, second) = rule.vjp(inputs, dy, **hyper), rule.vjp(inputs, dy, **hyper)
    assert torch.equal(y1, y2)
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_terms_sum_to_the_cotangents(rule):
    inputs, dy, hyper = ordinary(rule)
    _, residuals = rule.forward(*inputs, **hyper)
    grads = {f"d{name}": g for name, g in zip(rule.inputs, rule.backward(residuals, dy), strict=True) if g is not None}
    allowed = widths(rule, inputs, dy, contract_of(dy.dtype), **hyper).grads
    width = {f"d{name}": w for name, w in zip(rule.inputs, allowed, strict=True)}
    terms = rule.terms(residuals, dy)
    assert terms.keys() == grads.keys()
    for name, grad in grads.items():
        assert ((sum(terms[name].values()) - grad).abs() <= width[name]).all(), name


@settings(max_examples=40, deadline=None)
@pytest.mark.parametrize("name", list(bp.RULES))
@given(data=st.data())
def test_any_shape_and_values(name, data):
    """Axes of 0 to 5, values of all sizes that float32 multiplies without overflow."""
    rule = bp.RULES[name]
    lengths = {
        name: tuple(data.draw(st.lists(st.integers(0, 4), max_size=3))) if variadic else (data.draw(st.integers(0, 5)),)
        for name, variadic in rule.axis_names.items()
    }
    scale = 10.0 ** data.draw(st.integers(-6, 3))
    seed = data.draw(st.integers(0, 2**31))
    inputs, dy, hyper = draw(rule, Edge("any", sizes=lengths), torch.Generator().manual_seed(seed))
    inputs = tuple(
        (x * scale if rule.inputs[name].cotangent else x).float() if x.is_floating_point() else x
        for name, x in zip(rule.inputs, inputs, strict=True)
    )
    try:
        rule.forward(*inputs, **hyper)
    except ValueError:
        return  # outside the rule's domain; which points these are is tested above
    report = compare(rule.vjp, rule.name, cases=[Case(inputs, dy.float(), hyper, f"{lengths} x {scale}")])
    assert not report.mismatches, str(report)
