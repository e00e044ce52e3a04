"""The same case in another precision, or with other numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from manual_bp.oracle.calling.memory import copy, whole
from manual_bp.oracle.case import Case
from manual_bp.rule import Rule

VARIED = 1 / 2


def in_precision(case: Case, dtype: torch.dtype) -> Case:
    """The case in another precision, in the same layout."""
    return case.with_tensors(copy(x, dtype) if x.is_floating_point() else x for x in case.tensors)


def wide(x: Tensor) -> Tensor:
    """In float64 on the CPU, unless it is a mask or an index."""
    x = x.detach().cpu()
    return x.to(torch.float64) if x.is_floating_point() else x


def wide_case(case: Case) -> tuple[tuple[Any, ...], Any]:
    """The inputs and dy in float64 on the CPU."""
    own = case.with_tensors(map(wide, case.tensors))
    return own.inputs, own.dy


def varied(rule: Rule, case: Case, generator: torch.Generator, by: float = VARIED) -> Case:
    """The case with every number moved by up to such a part of it, in the same layout; masks, 0 and NaN stay."""

    def moved(x: Tensor) -> Tensor:
        same = copy(x)
        numbers = whole(same)  # what shares memory stays alike
        noise = 2 * torch.rand(numbers.shape, generator=generator, dtype=torch.float64) - 1
        numbers.mul_((1 + by * noise).to(x.device, x.dtype))
        return same

    named = case.named(rule).items()
    return case.with_tensors(moved(x) if name not in rule.inputs or rule.is_number(name) else x for name, x in named)
