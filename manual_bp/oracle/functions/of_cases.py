"""What somebody's own cases say of a function: the inputs that they hold, and hyperparameters that have no default."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from manual_bp import axes
from manual_bp.hyperparameters import kinds
from manual_bp.oracle.case import Case
from manual_bp.oracle.cases.supplied import tensor_of
from manual_bp.oracle.functions.page import name_of
from manual_bp.oracle.functions.spoken import Spoken, of_values
from manual_bp.rule import Rule


def inputs_of_cases(
    function: Callable[..., Any],
    parameters: Mapping[str, inspect.Parameter],
    hints: Mapping[str, Any],
    cases: Sequence[Case],
    hyper: Mapping[str, Any],
) -> dict[str, Spoken | None]:
    """What the inputs are like, by parameter: those without a number, in their order.  None where every case has None.

    Raises ValueError if the function has not so many parameters, or the cases tell nothing.
    """
    if not cases or not all(isinstance(case, Case) for case in cases):
        raise ValueError("cases must be a list of Case(inputs, dy, ...), and one at least where inputs= is not given.")
    numbers = {*hyper, *(name for case in cases for name in case.hyper)}
    takes = [
        name
        for name, p in parameters.items()
        if p.kind is not p.KEYWORD_ONLY and name not in numbers and (name not in hints or _is_tensor(hints[name]))
    ]
    most = max(len(case.inputs) for case in cases)
    if most > len(takes):
        raise ValueError(
            f"{name_of(function)} takes {len(takes)} inputs ({', '.join(takes)}); came a case of {most}. Pass inputs= "
            "to name them."
        )
    found: dict[str, Spoken | None] = {}
    for position, name in enumerate(takes[:most]):
        some = (case.inputs[position] for case in cases if position < len(case.inputs))
        value = next((x for x in some if x is not None), None)
        found[name] = None if value is None else of_values(tensor_of(value, torch.float64, "cpu").detach().cpu())
    return found


def hyper_of_cases(parameters: Mapping[str, inspect.Parameter], cases: Sequence[Case]) -> dict[str, Any]:
    """A value of every hyperparameter that has no default, from the first case that has one."""
    needed = [name for name, p in parameters.items() if p.default is p.empty]
    return {name: case.hyper[name] for case in reversed(cases) for name in needed if name in case.hyper}


def are_described(rule: Rule, cases: Sequence[Case]) -> bool:
    """Whether the inputs of every case have the axes of the rule."""
    for case in cases:
        shapes = {
            name: tuple(tensor_of(x, torch.float64, "cpu").shape)
            for name, x in zip(rule.inputs, case.inputs, strict=False)
            if x is not None
        }
        if axes.bind(rule.annotations, shapes, {}, {**rule.ordinary, **case.hyper}):
            return False
    return True


def of_any_shape(said: Mapping[str, Spoken | None]) -> dict[str, Spoken | None]:
    """The same inputs, each of any number of axes of its own."""
    return {name: x and replace(x, axes=f"*{name}", is_fixed=True) for name, x in said.items()}


def _is_tensor(hint: Any) -> bool:
    return any(isinstance(kind, type) and issubclass(kind, torch.Tensor) for kind in kinds(hint)) or any(
        hasattr(kind, "dim_str") for kind in kinds(hint)
    )
