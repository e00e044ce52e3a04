"""Wrong updates by pages: the mistakes that they list, options that are on, and the updates of other optimisers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from manual_bp.chain import Tensors
from manual_bp.oracle.optimizers.driven import FLAGS
from manual_bp.outputs import parts
from manual_bp.registry import RULES
from manual_bp.rule import Rule
from manual_bp.training.causes.updating import After, Updating, WrongUpdate
from manual_bp.training.optimizers import Optimizer, decay_of
from manual_bp.training.step import Step


def wrong_formulas(step: Step) -> Iterator[WrongUpdate]:
    """What pages say: wrong formulas of the update that is due, and the updates of others."""
    page = f"{step.optimizer.name}_update"
    if page in RULES:
        yield from _of_page(RULES[page])
    yield from _others(step)


def _of_page(rule: Rule) -> Iterator[WrongUpdate]:
    """The page's mistakes, and the optional parts of its state that are off."""
    for name in sorted(rule.absentable):
        for flag in FLAGS.get(name, ()):
            yield f"{flag} is on", lambda of, name=name: _by_page(of, rule, {}, rule.pure, {name})  # type: ignore[misc]
    for mistake in rule.mistakes:
        words = f"it is the known mistake '{mistake.name}' of {rule.name}, which forgets {mistake.forgets}"
        yield words, lambda of, mistake=mistake: _by_page(of, rule, {}, mistake.backward)  # type: ignore[misc]


def _others(step: Step) -> Iterator[WrongUpdate]:
    """Another optimiser, by its page: with the options of the one that is due, or its own usual ones."""
    own = step.optimizer.name
    for name, rule in RULES.items():
        is_update = list(rule.inputs)[:2] == ["param", "grad"] and rule.outputs[:1] == ("param",)
        if not is_update or name == f"{own}_update" or "lr" not in rule.hyper:
            continue
        kind = name.removesuffix("_update")
        usual = {n: v for n, v in rule.defaults.items() if n != "lr"}
        for hyper, said in (({}, "with the options that are given"), (usual, "with its usual options")):
            words = f"it is {kind} {said}, where {own} is due"
            yield words, lambda of, rule=rule, hyper=hyper: _by_page(of, rule, hyper, rule.pure)  # type: ignore[misc]
        if "momentum" in rule.hyper and not step.optimizer.config.get("momentum"):
            words = f"it is {kind} with a momentum of 0.9, where {own} is due"
            hyper = {**usual, "momentum": 0.9}
            yield words, lambda of, rule=rule, hyper=hyper: _by_page(of, rule, hyper, rule.pure)  # type: ignore[misc]


def _by_page(
    of: Updating,
    rule: Rule,
    options: Mapping[str, Any],
    formula: Callable[..., Any],
    asked: Collection[str] = (),
) -> After:
    """The update of each tensor by a page's formula.

    options: in place of those that are given.  asked: optional parts of the state that there are to be.
    """

    def update(
        gradients: Tensors, state: Tensors, params: Tensors, decayed: Collection[str] | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        own: dict[str, Any] = {**of.optimizer.config}
        if "betas" in own:
            own["beta1"], own["beta2"] = own.pop("betas")
        made = of.state.steps
        hyper = {name: value for name, value in {**rule.defaults, **own, **options}.items() if name in rule.hyper}
        if "step" in rule.hyper:
            hyper["step"] = made + 1
        after: dict[str, Tensor] = {}
        kept = {"step": state["step"] + 1} if "step" in state else {}
        names = [name for name in rule.inputs if name not in ("param", "grad")]
        for name, param in params.items():
            moments: dict[str, Tensor | None] = {}
            for kind in names:
                there = state.get(f"{kind}.{name}")
                is_first = of.is_own and not made
                if kind not in rule.absentable or kind in asked:
                    moments[kind] = torch.zeros_like(param) if there is None else there
                else:
                    moments[kind] = None if is_first else there
            given = {"param": param, "grad": gradients[name], **moments}
            own = {**hyper, "weight_decay": decay_of(name, hyper["weight_decay"], decayed)}
            results = parts(formula(*given.values(), **own)[0] if formula == rule.pure else formula(**given, **own))
            found = dict(zip(rule.outputs, results, strict=True))
            after[name] = found["param"]
            kept |= {f"{kind}.{name}": found[kind] for kind in names if found[kind] is not None}
        return after, kept

    own = of.step.optimizer
    changed = Optimizer(own.name, own.config, own.init, update)
    return of.after(replace(of.step, optimizer=changed, schedule=None))
