"""What a page makes of a run, step by step: the number that is due, and how far off a right program may be.

Each step begins at the parameters that the candidate itself had before it; the state is the page's own, from the first
step on.  The page's text is run on numbers that carry a bound (arithmetic/bounded.py), and so does its state from step
to step, stored in between as the contract says: the rounding errors of six steps are added up as those of one are.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
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
    last_group, defaults: hyperparameters of the last group, and those of the first group in the first step.
    forgets: whether the state is lost before it.  begins: parts of the state that begin elsewhere than at 0.
    lost, exchanged: parts of the state that are.
    axes: how many the tensor has.  grads: of all tensors.  total: the sum of this and all gradients before;
    grad_before: that of the step before, 0 in the first.
    enters: (param, grad) -> what the update is given in place of them.  is_lazy: whether rows (of one axis: numbers)
    without a gradient are left alone.  stored: in which precision the state is kept;
    saved: and was saved, before it.
    decays_without: whether a parameter decays that has no gradient.
    loads: how often the state was loaded so far.  key: under which the state is kept, where several tensors may share
    one; counts_by_key: whether t is counted there too.
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
    last_group: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    forgets: bool = False
    begins: Mapping[str, float] = field(default_factory=dict)
    lost: tuple[str, ...] = ()
    exchanged: tuple[str, ...] = ()
    axes: int = 1
    grads: tuple[Tensor | None, ...] = ()
    total: Tensor | None = None
    grad_before: Tensor | None = None
    enters: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
    is_lazy: bool = False
    stored: torch.dtype | None = None
    saved: torch.dtype | None = None
    loads: int = 0
    key: Hashable = None
    counts_by_key: bool = True
    decays_without: bool = False


Change = Callable[[Call], None]


def all_of(changes: Sequence[Change]) -> Change | None:
    """Several changes as one, in this order."""

    def change(call: Call) -> None:
        for each in changes:
            each(call)

    return change if changes else None


def calls(scenario: Scenario, position: int) -> list[Call]:
    """The calls of the update for one parameter, one for each step."""
    group = scenario.group_of(position)
    found, t, moved, since, loads = [], 0, 0, 0, 0
    rates = [moment.lrs for moment in scenario.moments]
    total = torch.zeros(scenario.params[position].shape, dtype=torch.float64)
    before = total
    for k, moment in enumerate(scenario.moments):
        grad = moment.grads[position]
        since = 1 if moment.loaded else since + 1
        loads += moment.loaded
        t += grad is not None
        moved += grad is not None and bool(grad.any())
        hyper = {**scenario.hyper[group], "lr": rates[k][group]}
        total = total if grad is None else total + grad.double()
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
                last_group={**scenario.hyper[-1], "lr": rates[k][-1]},
                defaults={**scenario.hyper[0], "lr": rates[0][0]},
                loaded=moment.loaded,
                since_load=since,
                axes=scenario.params[position].ndim,
                grads=moment.grads,
                total=total,
                grad_before=before,
                loads=loads,
            )
        )
        before = before if grad is None else grad
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
    first = _first(rule, scenario, before[0].double())
    state, due = first, []
    for param, call in zip(before, calls(scenario, position), strict=True):
        if change:
            change(call)
        state = _found(state, first, call)
        if call.saved is not None:
            state = _rounded(state, call.saved)
        param = param.double()
        if call.grad is None and call.decays_without:
            param = _decayed(param, call)
        elif call.grad is not None:
            after, new = _stepped(rule, formula, param, call.grad.double(), state, call)
            param, state = _kept(call, param, after), _kept_all(call, state, new)
            if call.stored is not None:
                state = _rounded(state, call.stored)
        due.append(param)
    return due


def of_all(
    rule: Rule,
    scenario: Scenario,
    before: Sequence[Sequence[Tensor]],
    formula: Formula,
    change: Change,
    contract: Contract | None = None,
) -> list[list[Tensor]]:
    """Every parameter after each step, where several may share one state: `change` sets the `key` under which each
    call finds it, and what it leaves there; with a contract, how far off each may be.

    before: of each parameter, its numbers before each step.
    """
    kept: dict[Hashable, tuple[dict[str, Tensor | None], int]] = {}
    of_each = [calls(scenario, position) for position in range(len(before))]
    found: list[list[Tensor]] = [[] for _ in before]
    for k in range(len(scenario.moments)):
        for position, own in enumerate(of_each):
            call, param = own[k], before[position][k]
            if call.grad is None:
                found[position].append(torch.zeros(param.shape) if contract else param.double())
                continue
            change(call)
            first = _first(rule, scenario, param.double())
            state, t = kept.get(call.key) or (_entered(first, contract) if contract else first, 0)
            call.t = t + 1 if call.counts_by_key else call.t
            if contract is None:
                after, new = _stepped(rule, formula, param.double(), call.grad.double(), state, call)
                found[position].append(after)
            else:
                with torch.no_grad(), Paging():
                    stands_for = _hidden(enter(param, contract), contract)
                    after, new = _stepped(rule, formula, stands_for, enter(call.grad, contract), state, call)
                new = {name: _stored(x, contract, 0.0) for name, x in new.items()}
                found[position].append(leave(after, contract))
            kept[call.key] = new, t + 1
    return found


def allowances(
    rule: Rule,
    scenario: Scenario,
    position: int,
    before: Sequence[Tensor],
    formula: Formula,
    contract: Contract,
    change: Change | None = None,
    state_error: StateError = 0.0,
) -> list[Tensor]:
    """How far off each may be.  state_error: how far off the state may be read again."""
    first = _entered(_first(rule, scenario, before[0].double()), contract)
    state, found = first, []
    exact = expected(rule, scenario, position, before, formula, change) if state_error else []
    for k, (param, call) in enumerate(zip(before, calls(scenario, position), strict=True)):
        if change:
            change(call)
        state = _found(state, first, call)
        if call.grad is None:
            found.append(_width_without(param, call, contract))
            continue
        with torch.no_grad(), Paging():
            stands_for = _hidden(enter(param, contract), contract)
            grad = enter(call.grad, contract)
            after, new = _stepped(rule, formula, stands_for, grad, state, call)
            after, new = _kept(call, stands_for, after), _kept_all(call, state, new)
        state = {name: _stored(x, contract, state_error) for name, x in new.items()}
        width = leave(after, contract)
        if state_error:
            assert isinstance(after, Bounded)
            width = width + (after.value - exact[k]).abs().nan_to_num(torch.inf, torch.inf)
        found.append(width)
    return found


def _decayed(param: Tensor, call: Call) -> Tensor:
    """Of lr and weight_decay, coupled or not, without a gradient and a state."""
    after: Tensor = param - call.hyper["lr"] * call.hyper["weight_decay"] * param
    return after


def _width_without(param: Tensor, call: Call, contract: Contract) -> Tensor:
    """How far off a parameter may be that has no gradient."""
    if not call.decays_without:
        return torch.zeros(param.shape, dtype=torch.float64)
    with torch.no_grad(), Paging():
        after = _decayed(_hidden(enter(param, contract), contract), call)
    width: Tensor = leave(after, contract)
    return width


StateError = float | torch.dtype
"""How far off a part of the state may be when it is read again: a share of the largest number of its tensor, or half a
place of each number in a dtype."""


def _found(state: dict[str, Tensor | None], first: dict[str, Tensor | None], call: Call) -> dict[str, Tensor | None]:
    """The state before a step, as a wrong loop may leave it."""
    if call.forgets:
        return first
    if call.begins and call.t == 1:
        begins = call.begins
        state = {name: _begun(x, begins[name]) if x is not None and name in begins else x for name, x in state.items()}
    state = {name: first[name] if name in call.lost else x for name, x in state.items()}
    if call.exchanged and all(state.get(name) is not None for name in call.exchanged):
        a, b = call.exchanged
        state = {**state, a: state[b], b: state[a]}
    return state


def _begun(x: Tensor, at: float) -> Tensor:
    """A part of the state, which is 0, as it begins elsewhere."""
    return Bounded(x.value + at, x.error, x.dtype) if isinstance(x, Bounded) else x + at


def _kept_all(
    call: Call, old: Mapping[str, Tensor | None], new: Mapping[str, Tensor | None]
) -> dict[str, Tensor | None]:
    return {
        name: x if x is None or (before := old[name]) is None else _kept(call, before, x) for name, x in new.items()
    }


def _kept(call: Call, old: Tensor, new: Tensor) -> Tensor:
    """What is left of a step where rows without a gradient are left alone."""
    if not call.is_lazy or call.grad is None:
        return new
    there = call.grad != 0
    rows = there.reshape(len(there), -1).any(1).reshape(-1, *(1,) * (there.ndim - 1)) if there.ndim > 1 else there
    return torch.where(rows.expand(there.shape), new, old)


def _first(rule: Rule, scenario: Scenario, like: Tensor) -> dict[str, Tensor | None]:
    """The state before the first step: 0, or none."""
    names = [name for name in rule.inputs if name not in ("param", "grad")]
    there = [name for name in names if name not in rule.absentable or name in scenario.options]
    return {name: torch.zeros_like(like) if name in there else None for name in names}


def _stepped(
    rule: Rule, formula: Formula, param: Tensor, grad: Tensor, state: Mapping[str, Tensor | None], call: Call
) -> tuple[Tensor, dict[str, Tensor | None]]:
    if call.enters:
        param, grad = call.enters(param, grad)
    counted = {"step": call.t} if "step" in rule.hyper else {}
    hyper = {name: value for name, value in {**rule.ordinary, **call.hyper, **counted}.items() if name in rule.hyper}
    results = dict(zip(rule.outputs, parts(formula(param=param, grad=grad, **state, **hyper)), strict=True))
    return results["param"], {name: results[name] for name in state}


def _entered(state: Mapping[str, Tensor | None], contract: Contract) -> dict[str, Tensor | None]:
    return {name: None if x is None else enter(x, contract) for name, x in state.items()}


def _rounded(state: Mapping[str, Tensor | None], dtype: torch.dtype) -> dict[str, Tensor | None]:
    return {name: None if x is None else x.to(dtype).double() for name, x in state.items()}


def _stored(x: Tensor | None, contract: Contract, state_error: StateError) -> Tensor | None:
    """A part of the state in between: stored, and read again."""
    if x is None:
        return None
    assert isinstance(x, Bounded)
    stored = converted(x, dtype=contract.storage)
    assert isinstance(stored, Bounded)
    if state_error and stored.numel():
        stored = _quantised(stored, state_error)
    return converted(stored, dtype=contract.compute)


def _hidden(param: Tensor, contract: Contract) -> Tensor:
    """A parameter of 16 bits may stand for a number half a place away: a float32 master, or what was left over and is
    added later."""
    if contract.storage not in (torch.float16, torch.bfloat16):
        return param
    assert isinstance(param, Bounded)
    half = torch.finfo(contract.storage).eps / 2 * param.value.abs()
    return Bounded(param.value, torch.maximum(param.error, half), param.dtype)


def _quantised(x: Bounded, state_error: StateError) -> Bounded:
    """A part of the state that is as far off as was declared; a mean of squares is not below 0 for that."""
    if isinstance(state_error, torch.dtype):
        share = torch.finfo(state_error)
        off = share.eps / 2 * (x.value.abs() + x.error) + share.smallest_normal * share.eps / 2
    else:
        off = state_error * (x.value.abs() + x.error).max().expand(x.shape)
    low, high = x.value - x.error - off, x.value + x.error + off
    if bool((x.value >= 0).all()):
        low = low.clamp(min=0)
    return Bounded((low + high) / 2, (high - low) / 2, x.dtype)
