"""Targets and hyperparameters for any loss, and combinations."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor

from manual_bp.hyperparameters import choices
from manual_bp.inputs import Index
from manual_bp.losses import Loss


def targets(loss: str, y: Tensor, generator: torch.Generator, ignored: int = 0) -> Tensor:
    """Right classes or numbers for the outputs y, (n, classes), as the page of the loss would have them drawn.

    ignored: so many examples, the first ones, are left out where the loss knows a number for that.
    """
    rule = Loss(loss).rule
    name = list(rule.inputs)[1]
    spec = rule.inputs[name]
    if not isinstance(spec, Index):
        return spec.draw(tuple(y.shape), generator).to(y.dtype)
    found = torch.randint(y.shape[1], y.shape[:1], generator=generator)
    if spec.unless:
        found[:ignored] = rule.defaults[spec.unless]
    return found


def off_defaults(loss: str) -> list[dict[str, object]]:
    """Hyperparameters of a loss that make it another one: every other choice, and a number beside the default."""
    rule = Loss(loss).rule
    found = []
    for name, default in rule.defaults.items():
        others = [choice for choice in choices(rule.annotations[name]) if choice != default]
        found += [{name: other} for other in others or ([default + 0.25] if isinstance(default, float) else [])]
    return found


def paired(*choices: Iterable[object]) -> list[object]:
    """Rows of one choice each, as parameters: by default some in which every two choices occur together, each time the
    row that adds most pairs; all rows with --exhaustive."""
    rows = list(itertools.product(*choices))
    pairs = {row: set(itertools.combinations(enumerate(row), 2)) for row in rows}
    missing = set().union(*pairs.values())
    chosen = []
    while missing:
        chosen.append(max(rows, key=lambda row: len(pairs[row] & missing)))
        missing -= pairs[chosen[-1]]
    return [*chosen, *(pytest.param(*row, marks=pytest.mark.exhaustive) for row in rows if row not in chosen)]
