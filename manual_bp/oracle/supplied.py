"""Cases that a user supplies, as tensors, checked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from manual_bp.oracle.cases import Case
from manual_bp.rule import Rule


def supplied(rule: Rule, case: Case, dtype: torch.dtype, device: str) -> Case:
    """A user's case as tensors on the device, checked."""
    if not isinstance(case, Case):
        raise ValueError(f"cases must be Case(inputs, dy, ...); came a {type(case).__name__}.")
    try:
        inputs = tuple(tensor_of(x, dtype, device) for x in case.inputs)
        dy = tensor_of(case.dy, dtype, device)
        hyper = dict(case.hyper)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"case {case.name!r}: inputs must be a tuple of tensors, arrays or lists of numbers, dy one of these, and "
            f"hyper a mapping; {error}"
        ) from error
    numbers = [x for x, name in zip(inputs, rule.inputs, strict=False) if rule.is_number(name)]
    wrong = [str(x.dtype) for x in (*numbers, dy) if x.dtype != dtype]
    if wrong:
        raise ValueError(
            f"case {case.name!r}: floating-point inputs and dy must have dtype {dtype}; came {wrong[0]}. "
            "Pass that dtype to compare, or cast the case."
        )
    y, _ = rule.forward(*inputs, **hyper)
    if dy.shape != y.shape:
        raise ValueError(f"case {case.name!r}: dy must be shaped like y, {tuple(y.shape)}; came {tuple(dy.shape)}.")
    if case.grads is not None and len(case.grads) != len(rule.inputs):
        raise ValueError(
            f"case {case.name!r}: grads must hold one entry per input {list(rule.inputs)}; came {len(case.grads)}. "
            "Put NOT_RECORDED for a missing one."
        )
    return replace(case, inputs=inputs, dy=dy)


def tensor_of(x: Any, dtype: torch.dtype, device: str) -> Tensor:
    """A tensor or an array as it is, and a list of numbers in `dtype`."""
    if hasattr(x, "dtype"):
        found = torch.as_tensor(x, device=device)
        return found.clone() if found.is_inference() else found  # autograd refuses what an inference mode made
    plain = torch.tensor(x)
    return plain.to(device) if plain.dtype == torch.bool else torch.tensor(x, dtype=torch.float64).to(device, dtype)
