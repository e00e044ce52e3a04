"""Every rule against its reference, at every edge, in every dtype.  All of it is generated from the registry.

What is judged of a rule in one dtype is one test, whose failure names the cases or mistakes.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import manual_bp as bp
from manual_bp.arithmetic.bounded import contract_of, widths
from manual_bp.inputs import Edge
from manual_bp.oracle import Case, compare
from manual_bp.oracle.case import Sized, in_dtype
from manual_bp.oracle.cases.drawing import draw
from manual_bp.oracle.checking import compare_page, rejects
from manual_bp.oracle.comparison import Comparison
from manual_bp.oracle.truth.conventions import Conventions
from manual_bp.oracle.truth.kept import generated_evidence
from manual_bp.outputs import parts
from manual_bp.signature import DTYPES
from manual_bp.verification import tells_of_sizes
from tests.conftest import COSTLY, short
from tests.judging import WIDE, as_candidate, by_default, judged, ordinary


def by_turns(names, always, others):
    """Each rule in these dtypes by default, and in one of the others, the next one for the next rule."""

    def marks(position, dtype):
        return () if dtype in always or dtype is others[position % len(others)] else pytest.mark.exhaustive

    return [
        pytest.param(name, dtype, marks=marks(position, dtype), id=f"{name}-{short(dtype)}")
        for position, name in enumerate(names)
        for dtype in DTYPES
    ]


# A page never meets 16 bits: `Rule` computes them in float32, and rounds.
SELDOM = (torch.bfloat16, None, None)


@pytest.mark.parametrize(("name", "dtype"), by_turns(bp.RULES, WIDE, SELDOM))
def test_rule_agrees_with_its_reference(name, dtype, device):
    """At every generated case (but for sizes, of which float32 tells); that it leaves its arguments alone and gives the
    same bits twice is part of it."""
    rule = bp.RULES[name]
    if tells_of_sizes(dtype, DTYPES):
        report = compare(rule.candidate, rule.name, dtype=dtype, device=device, strict=True)
    else:
        report = compare_page(rule, dtype, device, lambda case: not isinstance(case, Sized))
    assert report.passed, str(report)
    assert not [text for text in report.not_tested if text.startswith("case")]


@pytest.mark.parametrize(("name", "dtype"), by_turns(COSTLY, (torch.float64,), SELDOM))
def test_costly_rule_agrees_in_other_dtypes(name, dtype):
    """Where the formula is seen: of a page in plain torch what long axes show is shown by them in float32."""
    report = judged(bp.RULES[name].candidate, bp.RULES[name], dtype)
    assert report.cases
    assert not report.mismatches, str(report)


def test_rule_agrees_in_float16(rule):
    """Where its range is seen, which is all that it has beside bfloat16."""
    names = ("ordinary", "inputs times", "cotangent times")
    report = judged(rule.candidate, rule, torch.float16, lambda case: case.name.startswith(names))
    assert report.cases
    assert not report.mismatches, str(report)


def in_float32(vjp):
    """Torch on 16-bit numbers as rules compute with them: its own arithmetic in 16 bits may overflow, leave no digit or
    fall on the other side of a kink."""

    def as_float32(x):
        if isinstance(x, tuple):
            return tuple(map(as_float32, x))
        return x.float() if isinstance(x, torch.Tensor) and x.is_floating_point() else x

    def candidate(inputs, *dy, **hyper):  # none of a page without backward
        numbers = (x for x in (*inputs, *(part for each in dy for part in parts(each))) if x is not None)
        dtype = next(x.dtype for x in numbers if x.is_floating_point())

        def rounded(x):
            if isinstance(x, tuple):
                return tuple(map(rounded, x))
            return x.to(dtype) if isinstance(x, torch.Tensor) and x.is_floating_point() else x

        results = vjp(as_float32(inputs), *as_float32(dy), **hyper)
        return rounded(tuple(results) if isinstance(results, tuple | list) else results)

    return candidate


def is_finite(case):
    """What 16 bits cannot hold came as infinity, and torch's formula may then meet 0 times infinity."""
    return all(bool(x.isfinite().all()) for x in case.tensors)


@pytest.mark.parametrize("dtype", by_default(torch.float32), ids=short)
def test_torch_agrees_up_to_lost_digits(rule, dtype, device):
    from torch_ref import twin

    candidate = twin(rule.name) if dtype in WIDE else in_float32(twin(rule.name))
    report = judged(candidate, rule, dtype, lambda case: dtype in WIDE or is_finite(case), strict=False)
    assert report.cases
    assert not report.mismatches, str(report)


def just_beyond(x, wide, dtype):
    """The first number of a dtype that is further above x than that."""
    number = (x + wide).to(dtype)
    return torch.where(number.double() - x > wide, number, number.nextafter(torch.full_like(number, torch.inf)))


def test_what_is_beyond_the_allowance_is_wrong_and_what_is_due_is_right(rule):
    """By the comparison itself, for one argument at a time."""
    dtype = torch.float32
    found = generated_evidence(rule, dtype, "cpu", contract_of(dtype)).at(0)
    for wrong in (None, *(n for n, x in enumerate(found.expected) if x is not None and x.numel())):
        comparison = Comparison(None, rule, dtype, "cpu", contract_of(dtype), Conventions(), strict=True)
        due = [
            None if x is None else just_beyond(x, wide, dtype) if n == wrong else x.to(dtype)
            for n, (x, wide) in enumerate(zip(found.expected, found.allowance, strict=True))
        ]
        comparison.judge_results(None, found, tuple(due))
        told = {m.argument for m in comparison.report.mismatches}
        assert told == ({rule.arguments[wrong]} if wrong is not None else set())


@pytest.mark.parametrize(
    ("name", "dtype"), by_turns(bp.RULES, (torch.float32,), (torch.float64, torch.bfloat16, torch.float16))
)
def test_mistakes_are_rejected(name, dtype, record_property):
    """Those that only lose digits, where digits are lost: computed in float32 and rounded to 16 bits they may be
    right.  What is seen in float32 and in another dtype the comparison sees in the others too: that it does is tried on
    other rules."""
    rule = bp.RULES[name]
    mistakes = [m for m in rule.mistakes if dtype in WIDE or not m.loses_digits]
    unnoticed = [m for m in mistakes if not rejects(rule.mistaken(m.backward), rule, dtype)]
    record_property("mistakes rejected", (len(mistakes) - len(unnoticed), len(mistakes)))
    assert not unnoticed, "\n".join(f"the comparison did not notice {m.name}: {m.forgets}" for m in unnoticed)


def test_lost_digits_are_a_note_unless_strict(rule):
    losing = [m for m in rule.mistakes if m.loses_digits]
    for mistake in losing:  # the bound of one may cover another
        report = judged(rule.mistaken(mistake.backward), rule, torch.float32, strict=False)
        assert not report.mismatches, f"{mistake.name}: {report}"
        assert any(m.name in note for m in losing for note in report.notes), f"{mistake.name}: {report}"


def test_lost_digits_of_values_are_a_note_unless_strict(rule):
    for value in rule.values:  # the bound of one may cover another

        def candidate(inputs, dy, value=value, **hyper):
            named = dict(zip(rule.inputs, inputs, strict=True))
            return value.forward(**named, **rule.check_hyper(hyper)), rule.vjp(inputs, dy, **hyper)[1]

        candidate = as_candidate(rule, candidate)
        report = judged(candidate, rule, torch.float32, strict=False)
        assert not report.mismatches, f"{value.name}: {report}"
        if report.notes:  # else an input's own rounding may do as much
            assert any(v.name in note for v in rule.values for note in report.notes), f"{value.name}: {report}"
            assert judged(candidate, rule, torch.float32, strict=True, most=1).mismatches, value.name


def test_edges_that_must_raise_do(rule):
    for edge in (edge for edge in rule.edges if edge.raises):
        inputs, _, hyper = draw(rule, edge, torch.Generator().manual_seed(0))
        with pytest.raises(edge.raises) as error:
            rule.forward(*inputs, **hyper)
        assert rule.name in str(error.value), edge.name


def test_terms_sum_to_the_cotangents(rule):
    if not rule.has_backward:
        pytest.skip("values alone are judged")
    case = ordinary(rule)
    _, residuals = rule.forward(*case.inputs, **case.hyper)
    named = zip(rule.inputs, rule.backward(residuals, case.dy), strict=True)
    grads = {f"d{name}": g for name, g in named if g is not None}
    allowed = widths(rule, case.inputs, case.dy, contract_of(torch.float64), **case.hyper).grads
    width = {f"d{name}": w for name, w in zip(rule.inputs, allowed, strict=True)}
    terms = rule.terms(residuals, case.dy)
    assert terms.keys() == grads.keys()
    for name, grad in grads.items():
        assert ((sum(terms[name].values()) - grad).abs() <= width[name]).all(), name


@pytest.mark.parametrize("name", list(bp.RULES))
@given(data=st.data())
def test_any_shape_and_values(name, data):
    """Axes of 0 to 5, values of all sizes that float32 multiplies without overflow, and inputs that are absent."""
    rule = bp.RULES[name]
    lengths = {
        axis: tuple(data.draw(st.lists(st.integers(0, 4), max_size=3))) if variadic else (data.draw(st.integers(0, 5)),)
        for axis, variadic in rule.axis_names.items()
    }
    absent = {absentable: None for absentable in sorted(rule.absentable) if data.draw(st.booleans())}
    scale = 10.0 ** data.draw(st.integers(-6, 3))
    seed = data.draw(st.integers(0, 2**31))
    try:
        drawn = draw(rule, Edge("any", absent, lengths), torch.Generator().manual_seed(seed))
        case = Case(*drawn, f"{lengths} x {scale}, without {list(absent)}")
        scaled = {n: x * scale for n, x in case.named(rule).items() if n in rule.inputs and rule.inputs[n].cotangent}
        case = in_dtype(case.with_tensors({**case.named(rule), **scaled}.values()), torch.float32, "cpu")
        rule.forward(*case.inputs, **case.hyper)
    except ValueError:
        return  # outside the rule's domain; which points these are is tested above
    report = compare(rule.candidate, rule.name, cases=[case])
    assert not report.mismatches, str(report)
