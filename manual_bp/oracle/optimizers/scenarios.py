"""What happens to an optimiser: runs of a few steps, in each of which something is done that programs get wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from manual_bp.oracle.optimizers.driven import FLAGS, Driven
from manual_bp.rule import Rule

STEPS = 6
SHAPES = ((3, 4), (5,), (5,))
"""Of the parameters, two alike; the last is in a group of its own where there are groups."""
HUGE, TINY = 1e4, 1e-4
# A parameter of 1 in 16 bits has places of 2^-7 or 2^-10: steps of a quarter of one are each lost, and are 10 in all.
QUARTER, LOST_STEPS = 0.25, 40


@dataclass(frozen=True)
class Moment:
    """One step: the gradients, the rates of the groups, and whether the state was saved and loaded before."""

    grads: tuple[Tensor | None, ...]
    lrs: tuple[float, ...]
    loaded: bool = False


@dataclass(frozen=True)
class Scenario:
    """A run.  hyper: of each group, all hyperparameters of the page but `step` and lr.  groups: how many parameters
    each has.  options: optional parts of the state that are asked for.  may_lose: whether it is about updates that are
    below half a place."""

    name: str
    params: tuple[Tensor, ...]
    groups: tuple[int, ...]
    hyper: tuple[Mapping[str, Any], ...]
    moments: tuple[Moment, ...]
    options: frozenset[str] = field(default_factory=frozenset)
    may_lose: bool = False

    def group_of(self, position: int) -> int:
        """In which group a parameter is."""
        return next(i for i in range(len(self.groups)) if position < sum(self.groups[: i + 1]))


def scenarios(rule: Rule, driven: Driven, dtype: torch.dtype) -> tuple[list[Scenario], list[str]]:
    """The runs of an optimiser, and what cannot be tried with it, in words."""
    generator = torch.Generator().manual_seed(0)
    untried: list[str] = []
    ordinary = {name: value for name, value in rule.ordinary.items() if name not in ("step", "lr")}
    lr = rule.ordinary["lr"]

    def drawn(scale: float = 1.0) -> tuple[Tensor, ...]:
        return tuple((scale * torch.randn(shape, generator=generator)).to(dtype) for shape in SHAPES)

    def steady(number: int = STEPS, rate: float = lr) -> list[Moment]:
        return [Moment(drawn(), (rate,)) for _ in range(number)]

    def run(name: str, moments: Sequence[Moment], given: Mapping[str, Any] | None = None, **more: Any) -> Scenario:
        hyper = ({**ordinary, **(given or {})},)
        return Scenario(name, drawn(), (len(SHAPES),), hyper, tuple(moments), **more)

    found = [run("ordinary", steady())]
    for hyper in _options(rule):
        rate = hyper.get("lr", lr)
        own = {name: value for name, value in hyper.items() if name != "lr"}
        if lacking := [n for n, v in own.items() if not driven.takes(n) and v != rule.ordinary.get(n)]:
            untried += [f"{name}: it takes none" for name in lacking]
            # Of what it does take, several together may be wrong that are right one by one.
            own = {n: v for n, v in own.items() if n not in lacking}
            hyper = {n: v for n, v in hyper.items() if n not in lacking}
        name = f"with {', '.join(f'{n} = {v}' for n, v in hyper.items())}"
        if own and name not in [scenario.name for scenario in found]:
            found.append(run(name, steady(rate=rate), own))
    strong = max((s for s in found), key=lambda s: sum(s.hyper[0][n] != ordinary[n] for n in ordinary))
    given, rate = strong.hyper[0], strong.moments[0].lrs[0]
    for name in sorted(rule.absentable):
        if name in FLAGS and driven.takes(name):
            found.append(run(f"with {name}", steady(rate=rate), given, options=frozenset({name})))
        elif name in FLAGS:
            untried.append(f"{name}: there is no option for it")
    rates = [rate * factor for factor in (1.0, 1.0, 0.25, 0.25, 2.0, 0.5)]
    found.append(run("lr changes", [Moment(drawn(), (each,)) for each in rates], given))
    found.append(run("saved and loaded", _with(steady(rate=rate), 3, loaded=True), given))
    zero = tuple(torch.zeros(shape, dtype=dtype) for shape in SHAPES)
    found.append(
        run("gradients of 0", [Moment(zero if k in (0, 3) else drawn(), (rate,)) for k in range(STEPS)], given)
    )
    sizes = (1.0, HUGE, TINY, 1.0, TINY, HUGE)
    found.append(run("gradients huge and tiny", [Moment(drawn(size), (rate,)) for size in sizes], given))
    if getattr(driven, "sparse", False):
        found.append(run("rows without a gradient", [Moment(_in_rows(drawn(), k), (rate,)) for k in range(STEPS)]))
        return found, list(dict.fromkeys(untried))
    transposed = run("a parameter that is transposed", [])
    params = (transposed.params[0].t(), *transposed.params[1:])
    moments = [Moment((g[0].t(), *g[1:]), (rate,)) for g in (drawn() for _ in range(STEPS))]
    found.append(replace(transposed, params=params, hyper=(given,), moments=tuple(moments)))
    if driven.has_groups:
        found += _in_groups(found[-1].params, drawn, ordinary, given, rate)
    else:
        untried.append("parameters in groups, and without a gradient: it has neither")
    # Beside a decay that is part of the gradient 0 is none, and of an eps that is ignored large gradients tell little.
    found.append(run("a first gradient of 0, as usual", [Moment(zero, (lr,)), *steady(1)]))
    if dtype in (torch.float16, torch.bfloat16):
        found.append(_losing(rule, dtype, ordinary))
    return found, list(dict.fromkeys(untried))


def _options(rule: Rule) -> Iterator[dict[str, Any]]:
    """Sets of hyperparameters: every usual value, each choice, and those of the page's edges."""
    seen: list[dict[str, Any]] = []
    usual = getattr(rule.page, "USUAL", {})
    singles = [{name: value} for name, values in usual.items() for value in values]
    edges = [{n: v for n, v in e.given.items() if n in rule.hyper} for e in rule.edges if not e.raises]
    for hyper in (*singles, *edges):
        own = {name: value for name, value in hyper.items() if name != "step"}
        if own and own not in seen:
            seen.append(own)
            yield own


def _in_rows(grads: Sequence[Tensor], step: int) -> tuple[Tensor, ...]:
    """Gradients with a row of zeros, another in each step; of one axis, a number."""
    return tuple(
        torch.where((torch.arange(len(g)) == step % len(g)).reshape(-1, *(1,) * (g.ndim - 1)), 0, g) for g in grads
    )


def _with(moments: Sequence[Moment], position: int, **change: Any) -> list[Moment]:
    return [Moment(m.grads, m.lrs, **change) if k == position else m for k, m in enumerate(moments)]


def _in_groups(
    params: tuple[Tensor, ...], drawn: Any, ordinary: Mapping[str, Any], given: Mapping[str, Any], rate: float
) -> Iterator[Scenario]:
    """Two groups, the second of the ordinary hyperparameters and another lr; and parameters that have no gradient in
    some steps, or in none."""
    groups = (len(SHAPES) - 1, 1)
    hyper = (given, ordinary)
    moments = [Moment(drawn(), (rate, rate / 2)) for _ in range(STEPS)]
    yield Scenario("in groups", drawn(), groups, hyper, tuple(moments))
    # In one group, whoever gives every group the options of the first when the state is loaded is right.
    loaded = _with(moments, 3, loaded=True)
    yield Scenario("saved and loaded in groups", drawn(), groups, hyper, tuple(loaded))
    absent = [
        Moment((m.grads[0], None if k in (1, 2) else m.grads[1], None), (rate, rate / 2)) for k, m in enumerate(moments)
    ]
    yield Scenario("some without a gradient", drawn(), groups, (given, given), tuple(absent))
    without = {1: (0, 1), 2: (1,), 4: (2,)}  # by step: where those behind have one, and their state is not another's
    in_turn = [
        replace(m, grads=tuple(None if i in without.get(k, ()) else g for i, g in enumerate(m.grads)))
        for k, m in enumerate(Moment(drawn(), (rate,)) for _ in range(STEPS))
    ]
    yield Scenario("in turn without a gradient", drawn(), (len(SHAPES),), (given,), tuple(in_turn))


def _losing(rule: Rule, dtype: torch.dtype, ordinary: Mapping[str, Any]) -> Scenario:
    """Parameters of 1 and a constant gradient, whose updates are a quarter of the parameter's last place."""
    params = tuple(torch.ones(shape, dtype=dtype) for shape in SHAPES)
    grads = tuple(torch.ones(shape, dtype=dtype) for shape in SHAPES)
    lr = QUARTER * torch.finfo(dtype).eps / 2  # below 1 the places are half as wide
    plain = {**ordinary, **({"weight_decay": 0.0} if "weight_decay" in ordinary else {})}
    moments = tuple(Moment(grads, (lr,)) for _ in range(LOST_STEPS))
    return Scenario("updates below half a place", params, (len(SHAPES),), (plain,), moments, may_lose=True)
