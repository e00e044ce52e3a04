"""The diagnosis takes every page of the contract: it names the page's mistakes, never raises, and keeps its time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from manual_bp.oracle.diagnosis import Diagnosis, diagnose
from manual_bp.oracle.diagnosis.deadline import Deadline
from manual_bp.outputs import parts, whole
from manual_bp.rule import Rule, Vjp
from tests.oracle.few import few_records
from tests.pages import PAGES

SECONDS = 3.0
# Of computing: one call of the candidate, or one case of an edit, may take a search beyond its time.
BEYOND = 2.0

MISTAKES = [(rule, m) for rule in PAGES.values() for m in rule.mistakes if m.name != "x divided out"]


def diagnosed(rule: Rule, candidate: Vjp) -> Diagnosis:
    records, wrong = few_records(rule, candidate)
    assert wrong
    start = time.thread_time()
    found = diagnose(rule, candidate, records, wrong, deadline=Deadline(SECONDS))
    assert time.thread_time() - start < SECONDS + BEYOND
    assert "failed" not in found.search
    return found


@pytest.mark.parametrize(("rule", "mistake"), MISTAKES, ids=[f"{rule.name}-{m.name}" for rule, m in MISTAKES])
def test_mistake_is_named_first(rule, mistake):
    found = diagnosed(rule, rule.mistaken(mistake.backward))
    assert f"'{mistake.name}'" in found.sentences[0]


def with_every(rule: Rule, change: Callable[[Tensor], Any]) -> Vjp:
    """A page with every number of a result changed, y's too if it has no backward."""

    def candidate(inputs: Any, dy: Any = None, **hyper: Any) -> Any:
        y, grads = rule.vjp(inputs, dy, **hyper)
        if not rule.has_backward:
            return whole([change(part) for part in parts(y)], like=y)
        return y, tuple(None if g is None else change(g) for g in grads)

    return candidate


CHANGES: dict[str, Callable[[Tensor], Any]] = {
    "doubled": lambda g: 2 * g,
    "reversed": lambda g: g.flatten().flip(0).reshape(g.shape),
    "another shape": lambda g: g[None],
    "at random": lambda g: torch.randint(9, g.shape, generator=torch.Generator().manual_seed(g.numel())).to(g.dtype),
    "NaN": lambda g: g * torch.nan if g.is_floating_point() else g + 1,
}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(name, marks=[] if name in ("doubled", "another shape") else pytest.mark.exhaustive)
        for name in CHANGES
    ],
)
@pytest.mark.parametrize("name", PAGES)
def test_whatever_is_wrong_the_search_ends(name, change):
    found = diagnosed(PAGES[name], with_every(PAGES[name], CHANGES[change]))
    assert found.sentences or change != "doubled"


def test_arguments_are_named_as_the_report_names_them():
    """Of several outputs the one that is wrong, and the cotangent that was ignored."""
    rule = PAGES["three_outputs"]

    def wrong_mean(inputs: Any, dy: Any, **hyper: Any) -> Any:
        y, grads = rule.vjp(inputs, dy, **hyper)
        return y._replace(mean=2 * y.mean), grads

    def without_mean(inputs: Any, dy: Any, **hyper: Any) -> Any:
        y, residuals = rule.forward(*inputs, **hyper)
        return y, rule.backward(residuals, whole([dy[0], torch.zeros_like(dy[1]), dy[2]], like=y))

    found = diagnosed(rule, wrong_mean)
    assert found.explained | set(found.shared) <= {"y.mean"}
    assert "dy.mean is ignored: dx is that of dy.mean = 0" in diagnosed(rule, without_mean).sentences[0]


def test_what_is_wrong_without_an_input_is_said_of_that():
    rule = PAGES["optional_inputs"]

    def candidate(inputs: Any, dy: Any) -> Any:
        y, (dx, *others) = rule.vjp(inputs, dy)
        return y, (2 * dx if inputs[1] is None else dx, *others)

    (sentence,) = diagnosed(rule, candidate).sentences
    assert sentence.startswith("dx is 2 times what it should be, where gain is absent; ")
