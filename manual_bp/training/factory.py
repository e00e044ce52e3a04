"""A training step, uncompiled or compiled, made of its options."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from types import MappingProxyType
from typing import Any

from manual_bp.arguments import check_bool, check_not_negative, is_finite
from manual_bp.chain import leaves
from manual_bp.losses import Loss
from manual_bp.models.model import Model
from manual_bp.training.optimizers import MAKERS, Optimizer
from manual_bp.training.schedules import Schedule
from manual_bp.training.step import Step


def training_step(
    model: Model,
    loss: str = "square_loss",
    *,
    optimizer: Optimizer,
    l2: float = 0.0,
    l1: float = 0.0,
    max_norm: float | None = None,
    clip_norm: float | None = None,
    compiled: bool = False,
    donate: bool = False,
    loss_hyper: Mapping[str, Any] = MappingProxyType({}),
    schedule: Schedule | None = None,
    frozen: Collection[str] = (),
    decayed: Collection[str] | None = None,
) -> Step:
    """A step that trains `model` by hand-derived gradients.

    loss, loss_hyper: name of a rule of the chapter loss, and its hyperparameters off their defaults (manual_bp.losses).
        The target of a step is what that rule takes: numbers, for square_loss shaped like the output, or the number of
        each right class, int, without the classes' axis.
    l2, l1: add l2/2 Σ W² and l1 Σ |W| to the mean cost, weights only, never biases.
    max_norm: after each update, the incoming weights of a unit that are longer than this are shortened to it.
    clip_norm: gradients (penalties included) whose common norm exceeds this are shortened to it before the update.
    schedule: by which the optimiser's learning rate is multiplied in each step (training.schedules).
    frozen: names of parameters that are not to move, nor to count where gradients are clipped (`step.init` refuses
        others than the model's).
    decayed: names of parameters that the optimiser's weight decay is about (checked as `frozen` is); "weights" stands
        for matrices and filters, `Step.weights`. None for all, as torch.optim has them in one parameter group.
    compiled: the step is one compiled program for each shape of batch (training.compiled_step).
    donate: a compiled step updates the state in place, and the old state is emptied.
    Raises ValueError for an unknown loss, a negative penalty, a limit that is not positive, an argument of another
    type, donate without compiled, a schedule of an optimiser that is not this package's, or `decayed` where nothing
    decays.
    """
    if not isinstance(model, Model):
        raise ValueError(f"model must be a Model, such as mlp([784, 64, 10]); came {_kind(model)}.")
    if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))):
        raise ValueError(f"optimizer must be an Optimizer, such as sgd(lr=0.01); came {_kind(optimizer)}.")
    cost = Loss(loss, loss_hyper)
    cost.require_in_range()
    check_not_negative("", l2=l2, l1=l1)
    for name, limit in (("max_norm", max_norm), ("clip_norm", clip_norm)):
        if limit is not None and not (is_finite(limit) and limit > 0):
            raise ValueError(f"{name} must be a finite number above 0, or None for no limit; came {limit!r}.")
    check_bool("", compiled=compiled, donate=donate)
    if donate and not compiled:
        raise ValueError(
            "donate must come with compiled=True; came donate=True alone. Only a compiled step reuses memory."
        )
    if schedule is not None:
        if not isinstance(schedule, Schedule):
            raise ValueError(f"schedule must be a Schedule, such as Schedule(warmup=100); came {_kind(schedule)}.")
        if optimizer.name not in MAKERS:
            raise ValueError(f"a schedule is for {list(MAKERS)}; came the optimiser {optimizer.name!r}. Leave it out.")
    made = Step(model, cost, optimizer, l2, l1, max_norm, clip_norm, schedule, frozenset(frozen))
    if decayed is not None:
        made = replace(made, decayed=_decayed(decayed, made))
    if not compiled:
        return made
    from manual_bp.training.compiled_step import CompiledStep  # whoever compiles nothing need not wait for it

    return CompiledStep(**{each.name: getattr(made, each.name) for each in fields(Step)}, donate=donate)


WEIGHTS = "weights"
"""Among the names of `decayed`: all of `Step.weights`."""


def _decayed(names: Collection[str], step: Step) -> frozenset[str]:
    config = step.optimizer.config
    given = {names} if isinstance(names, str) else set(names)
    known = {name for leaf in leaves(step.model).values() for name in leaf.names.values()} - set(step.model.masks)
    if unknown := sorted(given - known - {WEIGHTS}):
        raise ValueError(f"decayed must be {WEIGHTS!r} or names of {sorted(known)}; came {unknown}.")
    if step.optimizer.name not in MAKERS or not config.get("weight_decay"):
        raise ValueError(
            f"decayed is for one of {list(MAKERS)} with a weight_decay above 0; came {step.optimizer.name} with "
            f"{config.get('weight_decay', 'none')}. Leave it out, or take one that decays: adamw(lr=0.001), "
            "--optimizer adamw on the command line, or sgd and adam with a weight_decay=."
        )
    return frozenset(given - {WEIGHTS} | set(step.weights) if WEIGHTS in given else given)


def _kind(value: object) -> str:
    """A value by its type, or a function or class by its name: its repr may be as long as a network."""
    return repr(value) if isinstance(value, str | float | None) else f"a {type(value).__name__}"
