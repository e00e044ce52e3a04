"""The same again with other contents: what shows who looks up, by shape or by address, what was asked before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from manual_bp import axes
from manual_bp.inputs import Edge
from manual_bp.oracle.case import Case, WellConditioned, in_dtype
from manual_bp.oracle.cases.drawing import draw
from manual_bp.oracle.grading.untrusted import Asked
from manual_bp.rule import Rule

# A case of at most so many elements is repeated: a larger one shows nothing more, and takes time.
LARGEST = 2**15


def chosen(cases: Sequence[Case]) -> list[Case]:
    """The cases to repeat: the first, and the largest that is not too large, for whoever remembers only what is."""
    others = [case for case in cases[1:] if case.elements <= LARGEST and case.elements > cases[0].elements]
    return [cases[0], *([max(others, key=lambda case: case.elements)] if others else [])]


def repeated(rule: Rule, case: Case, generator: torch.Generator) -> Iterator[Asked]:
    """What to ask after a case: the same shape with other numbers at another address, the same case, other numbers in
    the very tensors of it, and other numbers in one of these tensors alone."""
    others = redrawn(rule, case, generator)
    yield Asked(replace(others, name="the same shape again with other numbers"), elsewhere=True)
    yield Asked(replace(_like(case), name="the first numbers again"))
    yield Asked(replace(others, name="the same tensors again with other numbers"), again=True)
    named = redrawn(rule, case, generator).named(rule)
    for name, x in named.items():
        tensors = {**others.named(rule), name: x}
        changed = others.with_tensors(tensors.values())
        yield Asked(replace(changed, name=f"the same tensors again with another {name}"), again=True)


def redrawn(rule: Rule, case: Case, generator: torch.Generator) -> Case:
    """A case of the same shapes and hyperparameters, with other numbers, as the page draws them."""
    sizes: axes.Sizes = {}
    present = zip(rule.inputs, case.inputs, strict=True)
    shapes = {name: tuple(x.shape) for name, x in present if x is not None}
    axes.bind(rule.annotations, shapes, sizes, case.hyper)
    absent = {name: None for name in rule.inputs if name not in shapes}
    drawn = draw(rule, Edge(case.name, {**case.hyper, **absent}, dict(sizes)), generator)
    like = case.tensors[0]
    return in_dtype(WellConditioned(*drawn, case.name), dtype_of(case), str(like.device))


def dtype_of(case: Case) -> torch.dtype:
    """Of the numbers of a case."""
    return next(x.dtype for x in case.tensors if x.is_floating_point())


def _like(case: Case) -> Case:
    return WellConditioned(**vars(case))
