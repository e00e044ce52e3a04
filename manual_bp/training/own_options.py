"""What the optimiser of an engine says of itself, where that is not what was declared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from manual_bp.training.step import Step

FLAGS = ("amsgrad", "maximize")
"""Options of torch.optim that no optimiser of this package has."""


def otherwise(engine: object, step: Step) -> str:
    """Of an engine that shows its optimiser, by torch.optim's `param_groups`: which options there are not those that
    were declared, in words; "" if none.

    They are read behind a step, when a scheduler may have gone on: a learning rate is compared where there is none, and
    else the groups' with one another.
    """
    optimizer = getattr(engine, "optimizer", None)
    groups = getattr(optimizer, "param_groups", None)
    if not isinstance(groups, list) or not all(isinstance(group, Mapping) for group in groups):
        return ""
    own, found = step.optimizer, list[str]()
    kind = type(optimizer).__name__
    if type(optimizer).__module__.startswith("torch.optim.") and kind.lower() != own.name:
        found.append(f"it is {kind}, where {own.name} is due")
    for name, due in own.config.items():
        values = list(dict.fromkeys(_plain(group[name]) for group in groups if name in group))
        allowed = {_plain(due)} | ({0.0} if name == "weight_decay" and step.decayed is not None else set())
        if name == "lr" and step.schedule is not None:
            if len(values) > 1:
                found.append(f"its groups' learning rates are {_listed(values)} behind the last step")
        elif not set(values) <= allowed:
            found.append(f"its {name} is {_listed(values)}, where {due!r} is declared")
    found += [f"its {flag} is on" for flag in FLAGS if any(group.get(flag) is True for group in groups)]
    return f"the optimiser that it shows says otherwise: {'; '.join(found)}" if found else ""


def _plain(value: Any) -> Any:
    """A number as it is said: one that is held in a tensor of float32 is not the one that was typed."""
    if isinstance(value, tuple | list):
        return tuple(map(_plain, value))
    is_number = isinstance(value, Tensor | float) and not isinstance(value, bool)
    return float(f"{float(value):.6g}") if is_number else value


def _listed(values: list[Any]) -> str:
    return " and ".join(map(repr, values))
