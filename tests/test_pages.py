"""What every page must have, and how pages are found."""

from __future__ import annotations

import inspect
import pkgutil
import sys
import textwrap
import types

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

import manual_bp as bp
from manual_bp.pages import PARTS
from manual_bp.registry import Rules, UnknownRuleError
from manual_bp.rule import Rule


def test_page_tells_its_mathematics(rule):
    text = rule.page.__doc__
    assert "Derivation." in text
    assert "Source:" in text
    assert rule.page.Residuals.__doc__ is not None


def test_page_has_edges_and_mistakes(rule):
    assert rule.edges
    assert rule.mistakes
    assert all(m.forgets and m.shows for m in rule.mistakes)
    assert all(m.seen is None or m.seen.startswith("https://") for m in rule.mistakes)


def test_names_of_edges_and_mistakes_are_unique(rule):
    for names in ([e.name for e in rule.edges], [m.name for m in rule.mistakes]):
        assert len(names) == len(set(names))


def test_ordinary_hyperparameters_are_complete(rule):
    assert rule.ordinary.keys() == set(rule.hyper)


def test_annotations_name_every_cotangent(rule):
    returned = inspect.get_annotations(rule.page.backward, eval_str=True)["return"]
    parts = returned.__args__
    assert len(parts) == len(rule.inputs)
    for (name, spec), part in zip(rule.inputs.items(), parts, strict=True):
        if spec.cotangent:
            assert part.dim_str == rule.annotations[name].dim_str
        else:
            assert part in (None, type(None))


def test_rule_has_a_twin(rule):
    from torch_ref import twin

    assert twin(rule.name) is not None


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


def page_without(part, **changes):
    """elu's page without one of its parts, or with others, as a module of somebody's own."""
    page = types.ModuleType("mine", bp.elu.page.__doc__)
    page.__dict__.update({name: value for name, value in vars(bp.elu.page).items() if not name.startswith("__")})
    page.__dict__.update(changes)
    page.__dict__.pop(part, None)
    return page


@pytest.mark.parametrize("part", PARTS)
def test_a_page_without_a_part_says_what_to_write(part):
    with pytest.raises(ValueError, match=rf"the page of 'mine' \(mine\) must hold {part}\. Write ") as error:
        Rule("mine", page_without(part))
    assert PARTS[part] in str(error.value)


def unannotated(x, *, alpha=1.0):
    return bp.elu.page.forward(x, alpha=alpha)


def pieceless(x: Float[Tensor, "*shape"], *, pieces: int) -> tuple[Float[Tensor, "*shape"], bp.elu.page.Residuals]:
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
        ({"forward": unannotated}, "must annotate every parameter of forward; x, alpha is bare"),
        ({"forward": pieceless}, r'must give pieces an ordinary value, for its cases\. Write HYPER = {"pieces": 2}'),
        ({"backward": lambda residuals, dy: (dy,)}, "must have a backward whose dy is annotated"),
    ],
)
def test_a_page_with_a_part_of_another_kind(changes, message):
    with pytest.raises(ValueError, match=message):
        Rule("mine", page_without("", **changes))


def test_a_module_of_ones_own_is_a_rule():
    assert Rule("mine", page_without("")).chapter == ""


def test_unknown_rule_is_named_with_the_nearest():
    with pytest.raises(UnknownRuleError, match="Did you mean elu"):
        bp.RULES["elo"]
    with pytest.raises(ValueError, match="sigmoid"):
        bp.RULES["wavelet"]
    with pytest.raises(AttributeError, match="Did you mean elu"):
        _ = bp.elo
