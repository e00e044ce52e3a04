"""The grammar of shape annotations: bound to shapes, and filled in from lengths."""

from __future__ import annotations

import pytest
from jaxtyping import Float
from torch import Tensor

from manual_bp import axes

HYPER = {"groups": 2}
# Axes of the arguments, their shapes, and the lengths that follow.
FITTING = {
    "a list": ({"x": "*batch in"}, [(2, 3, 4)], {"batch": (2, 3), "in": (4,)}),
    "an empty list": ({"x": "*batch in"}, [(4,)], {"batch": (), "in": (4,)}),
    "a whole number times a name": ({"w": "4*hidden in"}, [(12, 5)], {"hidden": (3,), "in": (5,)}),
    "a hyperparameter times a name": ({"x": "groups*channels"}, [(6,)], {"channels": (3,)}),
    "a name known by its product": ({"w": "4*hidden", "h": "hidden"}, [(12,), (3,)], {"hidden": (3,)}),
    "a sum of known names": ({"a": "left", "b": "right", "c": "left+right"}, [(2,), (3,), (5,)], {"left": (2,)}),
    "a sum with one unknown": ({"a": "left", "c": "left+right"}, [(2,), (5,)], {"right": (3,)}),
    "a sum that waits": ({"c": "left+right", "a": "left", "b": "right"}, [(5,), (2,), (3,)], {"right": (3,)}),
    "a number added": ({"c": "steps+1"}, [(5,)], {"steps": (4,)}),
    "a number alone": ({"x": "batch 3"}, [(2, 3)], {"batch": (2,)}),
}
BROKEN = {
    "too few axes": ({"x": "a b"}, [(2,)], r"x must have 2 axes \(a, b\)"),
    "too few beside a list": ({"x": "*a b"}, [()], r"x must have at least 1 axis \(\*a, b\)"),
    "two lengths of one name": ({"x": "a", "y": "a"}, [(2,), (3,)], "and a is 2 in the arguments before it"),
    "no multiple": ({"w": "4*hidden"}, [(10,)], "its axis 4.hidden must be a multiple of 4$"),
    "no multiple of a hyperparameter": ({"x": "groups*c"}, [(5,)], "must be a multiple of groups = 2$"),
    "another product": ({"h": "hidden", "w": "4*hidden"}, [(3,), (11,)], "must be 12 .hidden is 3., not 11"),
    "another sum": ({"c": "left+right", "a": "left", "b": "right"}, [(6,), (2,), (3,)], "must be 5 .*, not 6"),
    "less than what is added": ({"c": "steps+3"}, [(2,)], "above 3"),
    "another number": ({"x": "3"}, [(2,)], "must be 3, not 2"),
}


def bound(annotations, shapes):
    sizes = {}
    of = {name: Float[Tensor, text] for name, text in annotations.items()}
    return axes.bind(of, dict(zip(of, shapes, strict=True)), sizes, HYPER), sizes, of


@pytest.mark.parametrize(("annotations", "shapes", "lengths"), FITTING.values(), ids=FITTING)
def test_what_fits_binds_its_names_and_is_made_of_them(annotations, shapes, lengths):
    problem, sizes, of = bound(annotations, shapes)
    assert problem is None
    assert sizes.items() >= lengths.items()
    assert [axes.shape_of(annotation, sizes, HYPER) for annotation in of.values()] == shapes


@pytest.mark.parametrize(("annotations", "shapes", "words"), BROKEN.values(), ids=BROKEN)
def test_what_does_not_fit_is_said(annotations, shapes, words):
    problem, _, _ = bound(annotations, shapes)
    with pytest.raises(ValueError, match=words):
        raise ValueError(problem or "it fits")


ALIKE = ("space", "kernel")


@pytest.mark.parametrize(
    ("given", "kernel"),
    [(["space"], (2,)), (["space", "kernel"], (2, 3)), ([], (2, 3)), (["batch"], (2, 3))],
    ids=["cut", "given as well", "none given", "another given"],
)
def test_lists_that_are_alike_take_the_rank_of_the_one_that_is_given(given, kernel):
    sizes = {"batch": (4,), "space": (7,), "kernel": (2, 3)}
    assert axes.with_ranks(sizes, given, ALIKE) == {**sizes, "kernel": kernel}


def test_lists_that_are_alike_are_begun_anew_where_they_are_too_short():
    sizes = {"space": (7, 8, 9), "kernel": (2, 3)}
    assert axes.with_ranks(sizes, ["space"], ALIKE)["kernel"] == (2, 3, 2)


def test_lists_that_are_alike_must_have_as_many_axes_as_each_other():
    assert axes.unlike({"space": (7, 8), "kernel": (2, 3)}, ALIKE) is None
    assert axes.unlike({"space": (7, 8)}, ALIKE) is None
    assert "*space and *kernel must have as many axes" in axes.unlike({"space": (7, 8), "kernel": (2,)}, ALIKE)
