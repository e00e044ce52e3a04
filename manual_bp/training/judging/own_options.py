"""What the optimiser of an engine says of itself, where that is not what was declared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from manual_bp.chain import Tensors
from manual_bp.training.causes.wrong_gradients import ROUNDED, named
from manual_bp.training.optimizers import decay_of
from manual_bp.training.step import Step

FLAGS = ("amsgrad", "maximize")
"""Options of torch.optim that no optimiser of this package has."""
SCHEDULED = ("lr", "betas", "momentum")
"""Options that torch's schedulers change; each writes `initial_lr` into the groups."""
OF_GROUPS = "; groups with a learning rate of their own cannot be declared"
# Parameters in one sentence.
MOST_NAMED = 5


class OwnOptions:
    """The options of an engine that shows its optimiser, by torch.optim's `param_groups`, read before and behind every
    step: what a step was made with is known where both are the same."""

    def __init__(self, step: Step) -> None:
        self.training = step
        self.kind = ""
        self.first: list[dict[str, Any]] | None = None
        self.last: list[dict[str, Any]] | None = None
        self.read_before = True
        self.changing: set[str] = set()
        self.shapes: list[list[tuple[int, ...]]] = []
        self.kept = ""

    def read(self, engine: object) -> None:
        """Note what the engine's optimiser has now, if it shows one."""
        try:
            optimizer = getattr(engine, "optimizer", None)
            groups = getattr(optimizer, "param_groups", None)
            if not isinstance(groups, list) or not all(isinstance(group, Mapping) for group in groups):
                raise ValueError("it shows none")
            names = (*self.training.optimizer.config, *FLAGS, "initial_lr")
            now = [{name: _plain(group[name]) for name in names if name in group} for group in groups]
            self.shapes = [[tuple(p.shape) for p in group["params"] if p.requires_grad] for group in groups]
            self.kept = _kept_in(getattr(optimizer, "state", {}))
        except Exception:  # a stranger's, which may not be made before the first step
            self.read_before &= self.first is not None
            return
        if type(optimizer).__module__.startswith("torch.optim."):
            self.kind = type(optimizer).__name__
        self.first = now if self.first is None else self.first
        self.changing |= {n for n in self.training.optimizer.config if _of(n, now) != _of(n, self.first)}
        self.last = now

    def otherwise(self, params: Tensors) -> str:
        """Which options are not those that were declared, in words; "" if none.

        params: the model's.
        """
        step, groups = self.training, self.last
        if groups is None:
            return ""
        own, found = step.optimizer, list[str]()
        if self.kind and self.kind.lower() != own.name:
            found.append(f"it is {self.kind}, where {own.name} is due")
        for name, due in own.config.items():
            values = list(dict.fromkeys(_of(name, groups)))
            if name == "lr" and step.schedule is not None:
                if len(values) > 1:
                    found.append(f"its groups' learning rates are {_listed(values)} behind the last step{OF_GROUPS}")
            elif name in self.changing:
                cycled = name in ("betas", "momentum")
                remedy = "; a cycle of it cannot be declared: OneCycleLR(..., cycle_momentum=False)" if cycled else ""
                found.append(f"its {name} is not the same in every step, where {due!r} is declared for all{remedy}")
            elif name in SCHEDULED and not self.read_before and any("initial_lr" in group for group in groups):
                continue  # the first step may have been made with another
            elif name == "weight_decay" and step.decayed is not None:
                found += self._decay_otherwise(float(due), groups, params)  # type: ignore[arg-type]
            elif not set(values) <= {_plain(due)}:
                of_groups = OF_GROUPS if name == "lr" and len(values) > 1 else ""
                found.append(f"its {name} is {_listed(values)}, where {due!r} is declared{of_groups}")
        if self.kept:
            found.append(f"its state is kept in numbers of {self.kept}")
        found += [f"its {flag} is on" for flag in FLAGS if any(group.get(flag) is True for group in groups)]
        return f"the optimiser that it shows says otherwise: {'; '.join(found)}" if found else ""

    def _decay_otherwise(self, decay: float, groups: list[dict[str, Any]], params: Tensors) -> Iterator[str]:
        """Of the parameters in each group, which are known by their shapes alone."""
        step = self.training
        wrong: dict[tuple[Any, float], list[str]] = {}
        for group, shapes in zip(groups, self.shapes, strict=True):
            for shape in shapes if "weight_decay" in group else ():
                named = [
                    n for n, p in params.items() if tuple(p.shape) in (shape, shape[::-1]) and n not in step.frozen
                ]
                dues = {decay_of(n, decay, step.decayed) for n in named}
                if len(dues) == 1 and group["weight_decay"] != _plain(due := dues.pop()):
                    there = wrong.setdefault((group["weight_decay"], due), [])
                    there += [n for n in named if n not in there]
        for (value, due), names in wrong.items():
            more = [f"{len(names) - MOST_NAMED} more"] if len(names) > MOST_NAMED else []
            listed = " and ".join([*names[:MOST_NAMED], *more])
            yield f"its weight_decay is {value!r} in a group where {due!r} is declared (for {listed})"


def _of(name: str, groups: list[dict[str, Any]]) -> list[Any]:
    return [group[name] for group in groups if name in group]


def _kept_in(state: Mapping[Tensor, Mapping[str, Any]]) -> str:
    """The dtype of 16 bits of which all moments of all parameters of more bits are numbers; "" if there is none."""
    moments = [
        t
        for p, kept in state.items()
        if p.element_size() > 2
        for t in kept.values()
        if isinstance(t, Tensor) and t.shape == p.shape and t.is_floating_point() and t.any()
    ]
    held = [dtype for dtype in ROUNDED if moments and all(torch.equal(t.to(dtype).to(t.dtype), t) for t in moments)]
    return named(held[0]) if held else ""


def _plain(value: Any) -> Any:
    """A number as it is said: one that is held in a tensor of float32 is not the one that was typed."""
    if isinstance(value, tuple | list):
        return tuple(map(_plain, value))
    is_number = isinstance(value, Tensor | float) and not isinstance(value, bool)
    return float(f"{float(value):.6g}") if is_number else value


def _listed(values: list[Any]) -> str:
    return " and ".join(map(repr, values))
