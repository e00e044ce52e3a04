"""What is declared of a candidate: which cases are made then, and what is said of the others."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch

import manual_bp as bp
from manual_bp.inputs import Edge
from manual_bp.oracle import Case, compare, from_functions
from manual_bp.oracle.calling.raising import where_raised
from manual_bp.oracle.cases.declared import Declared
from manual_bp.oracle.cases.drawing import draw, sizes_of
from manual_bp.oracle.cases.generated import generated
from manual_bp.rule import Rule

LAYOUTS = ("everything sliced", "NaN in one row")


def made(name, **options):
    rule = bp.RULES[name]
    declared = Declared.from_options(rule, options)
    return declared.rule(rule), generated(declared.rule(rule), torch.float64, declared=declared)


def declarations():
    for rule in bp.RULES.values():
        for ndim in range(5):
            for min_size in (0, 2, 7) if ndim == 2 else (1,):
                try:
                    declared = Declared.from_options(rule, {"ndim": ndim, "min_size": min_size})
                    (ordinary,) = declared.edges(rule, [Edge("ordinary")], sizes_of(rule))
                    inputs, _, hyper = draw(rule, ordinary, torch.Generator())
                    rule.forward(*inputs, **hyper)  # a page may be defined for some ranks alone
                except ValueError:
                    continue
                yield rule.name, ndim, min_size


@pytest.mark.thinned(3)
@pytest.mark.parametrize("name", sorted(bp.RULES))
def test_every_rule_keeps_its_ordinary_case_its_layouts_and_its_edges(name):
    rule = bp.RULES[name]
    about_values = {edge.name for edge in rule.edges if edge.given and not edge.sizes and not edge.raises}
    if getattr(rule.page, "AXES", {}):
        about_values = set()  # a window of so many axes, or as large as x, is none of other axes
    for _, ndim, min_size in (d for d in declarations() if d[0] == name):
        _, cases = made(name, ndim=ndim, min_size=min_size)
        names = [case.name for case in cases]
        assert names[0] == "ordinary"
        first = rule.cotangents[0] if rule.has_backward else next(iter(rule.inputs))
        assert {*LAYOUTS, *(f"{first} {layout}" for layout in ("transposed", "misaligned", "stride 0"))} <= set(names)
        for case in cases:
            assert case.inputs[0].ndim == ndim, case.name
            assert all(length >= min_size for x in case.inputs if x is not None for length in x.shape), case.name
            rule.forward(*case.inputs, **case.hyper)
        if min_size <= 1:
            assert about_values <= set(names), (ndim, about_values - set(names))


def test_edges_keep_their_values_on_other_axes():
    _, cases = made("elu", ndim=3, min_size=4)
    (kink,) = (case for case in cases if case.name == "kink")
    assert kink.inputs[0].shape == (4, 4, 4)
    assert set(kink.inputs[0].unique().tolist()) == {0.0}
    assert bool((kink.inputs[0] == 0).logical_and(kink.inputs[0].signbit()).any())
    _, cases = made("maxout", ndim=1)
    assert next(case for case in cases if case.name == "tie").inputs[0].tolist() == [1, 1, 0, 2, 0, 2, 3, 3, 3]


def test_sizes_that_have_too_few_axes_get_more():
    _, cases = made("relu", ndim=(3,))
    assert {(1, 1, 1017), (1, 33, 5), (2, 1, 3)} <= {tuple(case.inputs[0].shape) for case in cases}


def test_only_cases_with_the_declared_value_are_made():
    rule, cases = made("elu", hyper={"alpha": 2})
    assert {case.hyper["alpha"] for case in cases} == {2.0}
    assert "alpha above 1" in {case.name for case in cases}  # its alpha is 2
    assert "negative alpha" not in {case.name for case in cases}
    assert rule.defaults == {"alpha": 2.0}
    assert bp.elu.defaults == {"alpha": 1.0}


def test_what_can_never_be_is_refused():
    for options, words in (
        ({"ndim": 1}, "x of batch_norm has at least 2 axes .batch channels .space.; came 1"),
        ({"ndim": ()}, "numbers of axes"),
        ({"ndim": 99}, "at most 60 axes .*; came 99"),
        ({"ndim": 40, "min_size": 2}, "at most 16777216 numbers; came 2 on each of 40 axes"),
        ({"ndim": "2"}, "numbers of axes"),
        ({"min_size": -1}, "min_size must be an integer of 0 or more"),
        ({"hyper": {"epsilon": 1}}, "Check the spelling"),
        ({"hyper": {"eps": "a"}}, "eps must be a real number"),
    ):
        with pytest.raises(ValueError, match=words):
            compare(bp.batch_norm.vjp, "batch_norm", **options)
    with pytest.raises(ValueError, match="p must be"):
        compare(bp.dropout.vjp, "dropout", hyper={"p": 1.5})


def elu_at(alpha):
    return lambda inputs, dy: bp.elu.vjp(inputs, dy, alpha=alpha)


def test_a_value_that_is_declared_need_not_be_taken():
    report = compare(elu_at(2.0), "elu", hyper={"alpha": 2})
    assert report.passed, str(report)
    assert report.untested_hyper == []
    assert report.not_tested == [
        "as declared, only cases with alpha = 2.0 were made; so the edges 'large alpha', 'negative alpha', 'alpha 0' "
        "were left out"
    ]


def test_a_hyperparameter_without_default_is_needed():
    candidate = lambda inputs, dy: bp.dropout.vjp(inputs, dy, p=0.25)  # noqa: E731
    report = compare(candidate, "dropout")
    assert not report.passed
    assert any("takes no p, which the rule needs" in text for text in report.not_tested)
    assert compare(candidate, "dropout", hyper={"p": 0.25}).passed


def test_declarations_choose_among_supplied_cases_too():
    x = torch.tensor([[1.0, -2.0]])
    cases = [Case((x,), torch.ones(1, 2), name="matrix"), Case((x[0],), torch.ones(2), {"alpha": 2.0}, name="vector")]
    assert compare(elu_at(1.0), "elu", cases=cases).untested_hyper == ["alpha"]
    assert compare(lambda inputs, dy, alpha: elu_at(alpha)(inputs, dy), "elu", cases=cases).cases == 2
    assert compare(elu_at(1.0), "elu", cases=cases, ndim=2).cases == 1
    assert compare(elu_at(2.0), "elu", cases=cases, hyper={"alpha": 2}).cases == 2  # what is not said is the declared
    assert compare(elu_at(3.0), "elu", cases=cases, hyper={"alpha": 3}).cases == 1


# ------------------------------------------------------------------------------------------------- where it raises


def numpy_linear():
    def forward(x, weight, bias):
        return np.dot(x, weight.T) + bias, (x, weight)

    def backward(dy, cache):
        x, weight = cache
        return dy @ weight, dy.T @ x, dy.sum(0)

    return from_functions(forward, backward)


def test_what_raises_is_said_once_and_with_what_to_declare():
    report = compare(numpy_linear(), "linear")
    assert not report.passed
    assert report.diagnoses[0].endswith("x does not have 2 axes; if it is not meant for these, declare ndim=(2,)")
    assert sum("Traceback" in text for text in report.findings) <= 3
    assert compare(numpy_linear(), "linear", ndim=(2,)).passed


def test_empty_batches():
    def candidate(inputs, dy):
        if not inputs[0].numel():
            raise RuntimeError("no kernel")
        return bp.relu.vjp(inputs, dy)

    report = compare(candidate, "relu")
    assert report.diagnoses[0] == (
        "it raises in 1 case, in which an axis is empty; if it is not meant for these, declare min_size=1"
    )
    assert compare(candidate, "relu", min_size=1).passed


def cases_of(*shapes):
    return [Case((torch.zeros(shape),), torch.zeros(shape), name=str(shape)) for shape in shapes]


@pytest.mark.parametrize(
    ("raised", "right", "words"),
    [
        ([(0, 3)], [(2, 3)], "declare min_size=1"),
        ([(1, 3), (0, 3)], [(2, 3)], "declare min_size=2"),
        ([(1, 3)], [(2, 3), (1, 2)], "such as '(1, 3)', and answers in 2"),
        ([(3,), (0, 3)], [(2, 3)], "declare ndim=(2,), min_size=1"),
        ([(3,), (2, 3, 4, 5)], [(2, 3), (2, 3, 4)], "declare ndim=(2, 3)"),
        ([(3,)], [], "answers in none; it is called as candidate(inputs, dy), inputs being (x,)"),
    ],
    ids=str,
)
def test_what_the_raising_cases_have_in_common(raised, right, words):
    (sentence,) = where_raised([("", case) for case in cases_of(*raised)], cases_of(*right), bp.relu)
    assert sentence.endswith(words)


# ------------------------------------------------------------------------------------------- a page without a twin


def page_without_twin():
    """|x| as max(x, -x), whose corner this page gives 0; torch has no function of that name."""
    page = ModuleType("pages.testing.corner")
    source = bp.relu.page

    def forward(x):
        return torch.where(x > 0, x, -x), source.Residuals(x)

    forward.__annotations__ = {"x": bp.relu.annotations["x"], "return": tuple[bp.relu.y_annotation, source.Residuals]}

    def backward(residuals, dy):
        (x,) = residuals
        return (dy * torch.sign(x),)

    backward.__annotations__ = {"dy": bp.relu.y_annotation}
    page.forward, page.backward, page.Residuals = forward, backward, source.Residuals
    page.INPUTS, page.MISTAKES = source.INPUTS, ()
    page.EDGES = (Edge("corner", {"x": [0.0, -1.0, 2.0]}),)
    return Rule("corner", page)


def test_a_rule_without_a_twin_is_judged_at_every_size():
    rule = page_without_twin()
    report = compare(rule.vjp, rule)
    assert report.passed, str(report)
    assert report.not_tested == []

    def last_ones(inputs, dy):
        y, (dx,) = rule.vjp(inputs, dy)
        return y, (torch.where(torch.arange(dx.numel()).reshape(dx.shape) < 900, dx, 2 * dx),)

    kinks = Case((torch.zeros(600),), torch.ones(600))
    assert compare(rule.vjp, rule, cases=[kinks]).mismatches == []
    (mismatch, *_) = compare(last_ones, rule, cases=[Case((torch.linspace(1, 2, 1000),), torch.ones(1000))]).mismatches
    assert mismatch.argument == "dx"


def test_without_autograd_of_the_page_it_is_said_once(monkeypatch):
    monkeypatch.setattr("manual_bp.oracle.truth.by_torch.candidate", lambda name: lambda rule: None)
    rule = page_without_twin()
    report = compare(rule.vjp, rule)
    assert report.passed
    assert sum("no twin" in text for text in report.not_tested) == 1


def kernel_with_weight(rule):
    """A kernel that always has its optional inputs, as most have."""

    def vjp(inputs, dy, **hyper):
        for x in inputs:
            x.shape  # noqa: B018 (None has none)
        return rule.vjp(inputs, dy, **hyper)

    return vjp


OPTIONAL = min(
    (rule for rule in bp.RULES.values() if rule.absentable and rule.has_backward and not rule.elementwise),
    key=lambda rule: (len(rule.axis_names), len(rule.edges)),
)


def test_inputs_that_are_always_there_are_declared():
    (name, *_) = names = [name for name in OPTIONAL.inputs if name in OPTIONAL.absentable]
    kernel = kernel_with_weight(OPTIONAL)
    report = compare(kernel, OPTIONAL, diagnose=0)
    assert not report.passed
    declared = f"declare given=({', '.join(map(repr, names))},)"
    assert declared in report.diagnoses[0], report.diagnoses
    passed = compare(kernel, OPTIONAL, diagnose=0, given=names)
    assert passed.passed, str(passed)
    assert any(f"{name} given" in text for text in passed.not_tested)
    assert all(x is not None for case in made(OPTIONAL.name, given=names)[1] for x in case.inputs)
    with pytest.raises(ValueError, match=r"given: .* takes .*; came 'no_such'"):
        compare(kernel, OPTIONAL, given="no_such")


def test_a_pair_of_functions_is_called_without_what_it_does_not_take():
    """In other orders too."""
    rule = next(r for r in bp.RULES.values() if r.elementwise and len(r.inputs) == 1 and r.defaults)
    (hyper, value), *_ = rule.defaults.items()

    def forward(x):
        return rule.forward(x, **{hyper: value})

    candidate = from_functions(forward, lambda dy, kept: rule.backward(kept, dy), arrays="torch")
    report = compare(candidate, rule, hyper=rule.defaults, diagnose=0)
    assert report.passed, str(report)
    assert not [text for text in report.findings if "raises" in text]
