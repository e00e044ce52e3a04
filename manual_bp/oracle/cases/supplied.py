"""Cases that a user supplies, as tensors, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from manual_bp.oracle.case import Case
from manual_bp.outputs import parts
from manual_bp.rule import Rule


def supplied(rule: Rule, case: Case, dtype: torch.dtype, device: str) -> Case:
    """A user's case as tensors on the device, checked.  Inputs at the end that may be absent may be left out, and so
    may the cotangents of some of several outputs (None), which are 0 then."""
    if not isinstance(case, Case):
        raise ValueError(f"cases must be Case(inputs, dy, ...); came a {type(case).__name__}.")
    try:
        given = dict(zip(rule.inputs, case.inputs, strict=False))
        named = {name: None if x is None else tensor_of(x, dtype, device, rule.kind(name)) for name, x in given.items()}
        several = tuple(case.dy) if len(rule.outputs) > 1 and isinstance(case.dy, tuple | list) else (case.dy,)
        some_absent = len(several) > 1 or not rule.has_backward
        cotangents = [None if d is None and some_absent else tensor_of(d, dtype, device) for d in several]
        hyper = dict(case.hyper)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"case {case.name!r}: inputs must be a tuple of tensors, arrays or lists of numbers, dy one of these, and "
            f"hyper a mapping; {error}"
        ) from error
    numbers = [x for name, x in named.items() if rule.is_number(name)]
    wrong = [str(x.dtype) for x in (*numbers, *cotangents) if x is not None and x.dtype != dtype]
    if wrong:
        raise ValueError(
            f"case {case.name!r}: floating-point inputs and dy must have dtype {dtype}; came {wrong[0]}. "
            "Pass that dtype to compare, or cast the case."
        )
    y, _ = rule.forward(*named.values(), *case.inputs[len(named) :], **hyper)  # which says if there are too many
    inputs = tuple(named.get(name) for name in rule.inputs)
    if case.grads is not None and len(case.grads) != len(rule.inputs):
        raise ValueError(
            f"case {case.name!r}: grads must hold one entry per input {list(rule.inputs)}; came {len(case.grads)}. "
            "Put NOT_RECORDED for a missing one."
        )
    return replace(case, inputs=inputs, dy=_fitted(rule, case, cotangents, parts(y)) if rule.has_backward else None)


def _fitted(rule: Rule, case: Case, cotangents: Sequence[Tensor | None], y: tuple[Tensor, ...]) -> Any:
    """The cotangents, shaped like the outputs."""
    if len(cotangents) != len(y):
        raise ValueError(
            f"case {case.name!r}: dy must be a tuple, one for each of {list(rule.outputs)}; came {case.dy!r:.60}."
        )
    found = [torch.zeros_like(part) if d is None else d for d, part in zip(cotangents, y, strict=True)]
    for name, d, part in zip(rule.cotangents, found, y, strict=True):
        if d.shape != part.shape:
            of = name.replace("dy", "y", 1)
            must = f"case {case.name!r}: {name} must be shaped like {of}, {tuple(part.shape)}"
            raise ValueError(f"{must}; came {tuple(d.shape)}.")
    return found[0] if len(found) == 1 else tuple(found)


def tensor_of(x: Any, dtype: torch.dtype, device: str, kind: torch.dtype | None = None) -> Tensor:
    """A tensor or an array as it is, and a list of numbers in `dtype`, or in the kind of a mask or an index."""
    if hasattr(x, "dtype"):
        found = torch.as_tensor(x, device=device)
        return found.clone() if found.is_inference() else found  # autograd refuses what an inference mode made
    plain = torch.tensor(x)
    if kind is not None or plain.dtype == torch.bool:
        return plain.to(device, kind or torch.bool)
    return torch.tensor(x, dtype=torch.float64).to(device, dtype)
