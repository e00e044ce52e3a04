"""What a page makes of a run, step by step: the number that is due, and how far off a right program may be.

Each step begins at the parameters that the candidate itself had before it; the state is the page's own, from the first
step on.  The page's text is run on numbers that carry a bound (arithmetic/bounded.py), and so does its state from step
to step, stored in between as the contract says: the rounding errors of six steps are added up as those of one are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import Bounded, Contract, Paging, enter, leave
from manual_bp.arithmetic.bounded_tensor import converted
from manual_bp.oracle.optimizers.scenarios import Scenario
from manual_bp.outputs import parts
from manual_bp.rule import Rule

Formula = Callable[..., Any]
"""inputs and hyperparameters by name -> outputs."""


@dataclass
class Call:
    """One call of an update: what a wrong loop around it may change.

    index: of the tensor.  t: how many steps this tensor has made with this one.  t_moved: and how many of a gradient
    that is not 0.  steps: how many there were in all.  lr_before, lr_next, lr_first: rates of other steps.
    loaded: whether this is the first step after the state was loaded.  since_load: how many there were since.
    forgets: whether the state is lost before it.
    """

    index: int
    tensors: int
    t: int
    t_moved: int
    steps: int
    grad: Tensor | None
    hyper: dict[str, Any]
    lr_before: float
    lr_next: float
    lr_first: float
    first_group: Mapping[str, Any]
    loaded: bool
    since_load: int
    forgets: bool = False


Change = Callable[[Call], None]


def calls(scenario: Scenario, position: int) -> list[Call]:
    """The calls of the update for one parameter, one for each step."""
    group = scenario.group_of(position)
    found, t, moved, since = [], 0, 0, 0
    rates = [moment.lrs for moment in scenario.moments]
    for k, moment in enumerate(scenario.moments):
        grad = moment.grads[position]
        since = 1 if moment.loaded else since + 1
        t += grad is not None
        moved += grad is not None and bool(grad.any())
        hyper = {**scenario.hyper[group], "lr": rates[k][group]}
        found.append(
            Call(
                index=position,
                tensors=len(scenario.params),
                t=t,
                t_moved=moved,
                steps=k + 1,
                grad=grad,
                hyper=hyper,
                lr_before=rates[max(k - 1, 0)][group],
                lr_next=rates[min(k + 1, len(rates) - 1)][group],
                lr_first=rates[0][group],
                first_group={**scenario.hyper[0], "lr": rates[k][0]},
                loaded=moment.loaded,
                since_load=since,
            )
        )
    return found


def expected(
    rule: Rule,
    scenario: Scenario,
    position: int,
    before: Sequence[Tensor],
    formula: Formula,
    change: Change | None = None,
) -> list[Tensor]:
    """The parameter after each step, in float64, from those before."""
    state = _first(rule, scenario, before[0].double())
    due = []
    for param, call in zip(before, calls(scenario, position), strict=True):
        if change:
            change(call)
        if call.forgets:
            state = _first(rule, scenario, before[0].double())
        param = param.double()
        if call.grad is not None:
            param, state = _stepped(rule, formula, param, call.grad.double(), state, call)
        due.append(param)
    return due


def allowances(
    rule: Rule,
    scenario: Scenario,
    position: int,
    before: Sequence[Tensor],
    formula: Formula,
    contract: Contract,
    change: Change | None = None,
) -> list[Tensor]:
    """How far off each may be."""
    state, found = _entered(_first(rule, scenario, before[0].double()), contract), []
    for param, call in zip(before, calls(scenario, position), strict=True):
        if change:
            change(call)
        if call.forgets:
            state = _entered(_first(rule, scenario, before[0].double()), contract)
        if call.grad is None:
            found.append(torch.zeros(param.shape, dtype=torch.float64))
            continue
        with torch.no_grad(), Paging():
            stands_for = _hidden(enter(param, contract), contract)
            grad = enter(call.grad, contract)
            after, state = _stepped(rule, formula, stands_for, grad, state, call)
        state = {name: _stored(x, contract) for name, x in state.items()}
        found.append(leave(after, contract))
    return found


def _first(rule: Rule, scenario: Scenario, like: Tensor) -> dict[str, Tensor | None]:
    """The state before the first step: 0, or none."""
    names = [name for name in rule.inputs if name not in ("param", "grad")]
    there = [name for name in names if name not in rule.absentable or name in scenario.options]
    return {name: torch.zeros_like(like) if name in there else None for name in names}


def _stepped(
    rule: Rule, formula: Formula, param: Tensor, grad: Tensor, state: Mapping[str, Tensor | None], call: Call
) -> tuple[Tensor, dict[str, Tensor | None]]:
    counted = {"step": call.t} if "step" in rule.hyper else {}
    hyper = {name: value for name, value in {**rule.ordinary, **call.hyper, **counted}.items() if name in rule.hyper}
    results = dict(zip(rule.outputs, parts(formula(param=param, grad=grad, **state, **hyper)), strict=True))
    return results["param"], {name: results[name] for name in state}


def _entered(state: Mapping[str, Tensor | None], contract: Contract) -> dict[str, Tensor | None]:
    return {name: None if x is None else enter(x, contract) for name, x in state.items()}


def _stored(x: Tensor | None, contract: Contract) -> Tensor | None:
    """A part of the state in between: stored, and read again."""
    if x is None:
        return None
    assert isinstance(x, Bounded)
    stored = converted(x, dtype=contract.storage)
    assert isinstance(stored, Bounded)
    return converted(stored, dtype=contract.compute)


def _hidden(param: Tensor, contract: Contract) -> Tensor:
    """A parameter of 16 bits may stand for a number half a place away: a float32 master, or what was left over and is
    added later."""
    if contract.storage not in (torch.float16, torch.bfloat16):
        return param
    assert isinstance(param, Bounded)
    half = torch.finfo(contract.storage).eps / 2 * param.value.abs()
    return Bounded(param.value, torch.maximum(param.error, half), param.dtype)
