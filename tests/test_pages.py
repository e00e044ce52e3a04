"""What every page must have, and how pages are found."""

from __future__ import annotations

import inspect
import pkgutil
import sys
import textwrap
import types
from typing import get_args

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

import manual_bp as bp
from manual_bp.outputs import parts
from manual_bp.pages import PARTS
from manual_bp.registry import Rules, UnknownRuleError
from manual_bp.rule import Rule
from tests.judging import ordinary
from tests.pages import PAGES


def test_page_tells_its_mathematics(rule):
    assert rule.summary.endswith("."), f"{rule.name}: begin the page with a sentence that says what y is"
    assert len((rule.page.__doc__ or "").splitlines()) > 3, (
        f"{rule.name}: write how backward is derived, and from where"
    )
    if rule.has_backward:
        assert rule.page.Residuals.__doc__, f"{rule.name}: say what backward needs, and why that and not something else"


def test_page_has_edges_and_mistakes(rule):
    assert rule.edges, f"{rule.name} has no edges. Write {PARTS['EDGES']}"
    assert rule.mistakes, f"{rule.name} has no mistakes. Write {PARTS['MISTAKES']}"
    assert all(m.forgets and m.shows for m in rule.mistakes)
    assert all(m.seen is None or m.seen.startswith("https://") for m in rule.mistakes)


def test_names_of_edges_and_mistakes_are_unique(rule):
    for names in ([e.name for e in rule.edges], [m.name for m in rule.mistakes]):
        assert len(names) == len(set(names))


def test_mistakes_give_values_of_the_form_that_is_due(rule):
    """Of a page without backward: what is of another form is rejected whatever its numbers are."""
    case = ordinary(rule)
    y = parts(rule.forward(*case.inputs, **case.hyper)[0])
    for mistake in () if rule.has_backward else rule.mistakes:
        wrong = rule.mistaken(mistake.backward)(case.inputs, **case.hyper)
        assert isinstance(wrong, torch.Tensor) == (len(y) == 1), mistake.name
        assert [x if x is None else x.shape for x in parts(wrong)] == [x if x is None else x.shape for x in y]


def test_ordinary_hyperparameters_are_complete(rule):
    assert rule.ordinary.keys() == set(rule.hyper)


def axes_of(annotation):
    """The axes of a tensor or None, of a tensor, or None."""
    found = [axes_of(kind) for kind in get_args(annotation)] if isinstance(annotation, types.UnionType) else []
    return next((axes for axes in found if axes), None) or getattr(annotation, "dim_str", None)


def test_annotations_name_every_cotangent(rule):
    if not rule.has_backward:
        pytest.skip("values alone are judged")
    returned = get_args(inspect.get_annotations(rule.page.backward, eval_str=True)["return"])
    assert len(returned) == len(rule.inputs)
    for (name, spec), part in zip(rule.inputs.items(), returned, strict=True):
        if spec.cotangent:
            assert axes_of(part) == rule.annotations[name].dim_str, name
        else:
            assert part in (None, type(None)), name


def test_rule_has_a_twin(rule):
    from torch_ref import twin

    assert twin(rule.name) is not None, f"torch has no {rule.name}: write torch_ref/twins/{rule.name}.py"


def test_rule_name_hides_nothing():
    taken = {m.name for m in pkgutil.iter_modules(bp.__path__)} | {"RULES", "Rule", "Vjp", "compile_rule"}
    assert not taken & set(bp.RULES)


def test_a_page_dropped_in_is_found(tmp_path, monkeypatch):
    chapter = tmp_path / "dropped_in" / "activation"
    chapter.mkdir(parents=True)
    (chapter / "square.py").write_text(
        textwrap.dedent(
            '''
            """Square.  Derivation.  Source: none."""
            from typing import NamedTuple
            from jaxtyping import Float
            from torch import Tensor
            from manual_bp.inputs import Input
            class Residuals(NamedTuple):
                x: Float[Tensor, "*shape"]
            def forward(x: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Residuals]:
                return x * x, Residuals(x)
            def backward(residuals: Residuals, dy: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"]]:
                return (2 * residuals.x * dy,)
            INPUTS, EDGES, MISTAKES = {"x": Input()}, (), ()
            '''
        )
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    rules = Rules("dropped_in", tmp_path / "dropped_in")
    assert list(rules) == ["square"]
    _, (dx,) = rules["square"].vjp((torch.tensor([3.0]),), torch.tensor([1.0]))
    assert dx.item() == 6
    assert "torch" in sys.modules


COMPLETE = PAGES["mean_shifted"].page


def page_without(part, **changes):
    """A page without one of its parts, or with others, as a module of somebody's own."""
    page = types.ModuleType("mine", COMPLETE.__doc__)
    page.__dict__.update({name: value for name, value in vars(COMPLETE).items() if not name.startswith("__")})
    page.__dict__.update(changes)
    page.__dict__.pop(part, None)
    return page


@pytest.mark.parametrize("part", PARTS)
def test_a_page_without_a_part_says_what_to_write(part):
    with pytest.raises(ValueError, match=rf"the page of 'mine' \(mine\) must hold {part}\. Write ") as error:
        Rule("mine", page_without(part))
    assert PARTS[part] in str(error.value)


def unannotated(x, *, scale=1.0):
    return COMPLETE.forward(x, scale=scale)


def pieceless(x: Float[Tensor, "*shape"], *, pieces: int) -> tuple[Float[Tensor, "*shape"], COMPLETE.Residuals]:
    raise NotImplementedError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"forward": 1}, "must hold a function forward; came a int"),
        ({"Residuals": dict}, "must hold a NamedTuple Residuals; came <class 'dict'>"),
        ({"EDGES": [1]}, r"must hold EDGES, a tuple of Edge; came \[1\]"),
        ({"MISTAKES": None}, "must hold MISTAKES, a tuple of Mistake; came None"),
        ({"INPUTS": {}}, r'must name every input of forward in INPUTS; x is missing\. Write {"x": Input\(\)}'),
        ({"INPUTS": {"x": "normal"}}, "must hold INPUTS, a mapping of names to Input"),
        ({"forward": unannotated}, "must annotate every parameter of forward; x, scale is bare"),
        ({"forward": pieceless}, r'must give pieces an ordinary value, for its cases\. Write HYPER = {"pieces": 2}'),
        ({"backward": lambda residuals, dy: (dy,)}, "must have a backward whose dy is annotated"),
        ({"ALIKE": ("shape", "kernel")}, "must hold ALIKE, the lists of axes of inputs"),
    ],
)
def test_a_page_with_a_part_of_another_kind(changes, message):
    with pytest.raises(ValueError, match=message):
        Rule("mine", page_without("", **changes))


def test_a_module_of_ones_own_is_a_rule():
    assert Rule("mine", page_without("")).chapter == ""


def test_unknown_rule_is_named_with_the_nearest():
    name = max(bp.RULES, key=len)
    misspelt = name[:-1]
    with pytest.raises(UnknownRuleError, match=f"Did you mean {name}"):
        bp.RULES[misspelt]
    with pytest.raises(ValueError, match=name):
        bp.RULES["nothing of the kind"]
    with pytest.raises(AttributeError, match=f"Did you mean {name}"):
        getattr(bp, misspelt)
