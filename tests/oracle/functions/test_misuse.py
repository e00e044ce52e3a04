"""What shapes and parameters alone tell of a candidate that cannot be right is said in words."""

import inspect

import numpy as np
import pytest
import torch

from manual_bp.arithmetic.bounded import widths
from manual_bp.arithmetic.certified import truth
from manual_bp.arithmetic.sides import between
from manual_bp.arithmetic.subgradients import passes_as_subgradient
from manual_bp.inputs import Input
from manual_bp.oracle import Case, compare
from manual_bp.rule import Rule


def scaled(x, weight):
    return x * weight


def summed(inputs, dy):
    x, weight = inputs
    return x * weight, (dy * weight, (dy * x).sum(0))


def not_summed(inputs, dy):
    x, weight = inputs
    return x * weight, (dy * weight, dy * x)


def exchanged(inputs, dy):
    y, (dx, dweight) = summed(inputs, dy)
    return y, (dweight, dx)


def squared(x, target):
    return ((x - target) ** 2).mean()


def squared_by_hand(inputs, dy):
    x, target = inputs
    dx = 2 * (x - target) * dy / x.numel()
    return squared(x, target), (dx, -dx)


def one_by_one(x, weight, dy):
    return summed((x, weight), dy)


def in_numpy(x, weight):
    return np.multiply(x, weight), (x, weight)


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        return x * weight


def told(candidate, function, *shapes):
    inputs = tuple(torch.randn(shape) for shape in shapes)
    names = function.__code__.co_varnames[: len(shapes)]
    case = Case(inputs, torch.ones_like(function(*inputs)))
    given = dict(zip(names, shapes, strict=True))
    return compare(candidate, function, inputs=given, cases=[case], diagnose=0)


@pytest.mark.parametrize(
    ("candidate", "function", "shapes", "words"),
    [
        (summed, scaled, [(4, 3), (1, 3)], "scaled takes either, and broadcasts it"),
        (not_summed, scaled, [(4, 3), (3,)], "sum it over the axes along which weight is repeated"),
        (exchanged, scaled, [(4, 3), (3,)], "they are due in the order (dx, dweight)"),
        (squared_by_hand, squared, [(4, 1), (4,)], "x (4, 1) and target (4,) are broadcast against each other"),
        (one_by_one, scaled, [(4, 3), (3,)], "one_by_one wants x, weight, dy one by one"),
        (Scaled.apply, scaled, [(4, 3), (3,)], "torch_ref.vjp(Scaled.apply) is one"),
        (scaled, scaled, [(4, 3), (3,)], "torch_ref.vjp(scaled) makes one of it"),
        (in_numpy, scaled, [(4, 3), (3,)], "is of numpy; from_functions(in_numpy, backward)"),
    ],
    ids=[
        "another shape",
        "not summed",
        "exchanged",
        "broadcast",
        "one by one",
        "apply",
        "the function itself",
        "NumPy",
    ],
)
def test_a_diagnosis_says_what_was_done(candidate, function, shapes, words) -> None:
    report = told(candidate, function, *shapes)
    assert words in " ".join(report.diagnoses), report.text(verbose=True)


@pytest.mark.parametrize(("shapes", "is_said"), [([(4, 1), (4,)], True), ([(4, 3), (3,)], False)])
def test_inputs_that_are_broadcast_against_each_other_are_told_of_who_is_right_too(shapes, is_said) -> None:
    def right(inputs, dy):
        x, target = inputs
        each = 2 * (x - target) * dy / torch.broadcast_tensors(x, target)[0].numel()
        return squared(x, target), (each.sum_to_size(x.shape), -each.sum_to_size(target.shape))

    notes = " ".join(told(right, squared, *shapes).notes)
    assert ("broadcast against each other, to (4, 4)" in notes) is is_said


@pytest.mark.parametrize(
    ("function", "given", "words"),
    [
        (lambda x: 2 * x, torch.arange(6), "an input of real numbers.*came x of int64"),
        (lambda x: x.argmax(-1), (2, 3), "must return real numbers.*came int64"),
        (lambda x: x.detach() * 2, (2, 3), "depend on x .*detach"),
    ],
    ids=["integers", "an index", "detached"],
)
def test_what_has_no_derivative_is_refused_in_words(function, given, words) -> None:
    with pytest.raises(ValueError, match=words):
        compare(summed, function, inputs={"x": given})


def test_a_number_among_the_inputs_is_told_to_be_a_hyperparameter() -> None:
    with pytest.raises(ValueError, match=r'hyper=\{"weight": 2.0\}'):
        compare(summed, scaled, inputs={"x": (4, 3), "weight": 2.0})


@pytest.mark.parametrize("has_cotangent", [True, False])
def test_who_gives_none_for_an_input_without_a_cotangent_is_told_how_to_say_so(has_cotangent) -> None:
    def poisson(x, counts):
        return (x.exp() - counts * x).mean()

    def without_counts(inputs, dy):
        x, counts = inputs
        return poisson(x, counts), (dy * (x.exp() - counts) / x.numel(), None)

    def some(shape, generator):
        return torch.randint(9, shape, generator=generator).double()

    counts = ((4, 5), Input(some, cotangent=has_cotangent))
    report = compare(without_counts, poisson, inputs={"x": (4, 5), "counts": counts}, diagnose=0)
    assert report.passed is not has_cotangent
    assert ("pass it as Input(draw, cotangent=False)" in str(report)) is has_cotangent


def named(kind, name):
    """A function of which an input or a hyperparameter has this name, and a candidate for it."""
    text = f"def function(x, {'*, ' if kind == 'hyperparameter' else ''}{name}): return torch.relu(x) * {name}"
    function = vars_of(text)["function"]

    def candidate(inputs, dy, **hyper):
        x, *others = inputs
        factor = others[0] if others else hyper[name]
        dx = dy * factor * (x > 0)
        return torch.relu(x) * factor, (dx, dy * torch.relu(x)) if others else (dx,)

    return function, candidate


def vars_of(text):
    found = {"torch": torch}
    exec(text, found)
    return found


def names_beside_hyperparameters():
    """Those of all parameters beside which hyperparameters are passed by name."""
    functions = [Rule.vjp, Rule.forward, between, truth, passes_as_subgradient, widths]
    return sorted({name for f in functions for name in inspect.signature(f).parameters} - {"hyper", "given"})


OTHERS = ("y", "dx", "ddy", "shape", "case", "name", "index", "generator", "hyper", "residuals", "y0")


def judged(kind, name):
    function, candidate = named(kind, name)
    inputs = {"x": (4, 5), **({name: (4, 5)} if kind == "input" else {})}
    hyper = {} if kind == "input" else {name: 2.0}
    numbers = torch.linspace(-1, 1.5, 20).reshape(4, 5)
    case = Case(tuple(numbers.clone() for _ in inputs), 2 - numbers)
    return compare(candidate, function, inputs=inputs, hyper=hyper, cases=[case], diagnose=0)


@pytest.mark.parametrize("name", names_beside_hyperparameters())
def test_a_hyperparameter_that_is_named_as_what_stands_beside_it_is_refused(name):
    with pytest.raises(ValueError, match=f"calls a hyperparameter {name}, .* gives it another name"):
        judged("hyperparameter", name)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("kind", ["input", "hyperparameter"])
def test_other_names_do_no_harm(kind, name):
    report = judged(kind, name)
    assert report.passed, report


def test_an_input_that_is_named_as_the_cotangent_is_refused():
    with pytest.raises(ValueError, match=r"calls an input dy, .* lambda x, dy_: function\(x, dy=dy_\), say"):
        judged("input", "dy")
    assert judged("input", "inputs").passed
