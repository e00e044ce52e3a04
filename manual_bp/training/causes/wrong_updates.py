"""Wrong updates: what the parameters would be after a step if its update were wrong in one way, and the words for it.

All are made of the gradients that an engine shows, so that what is wrong in these is not told as the update's.  Each is
a function of where a step begins; what it returns as the optimiser's state may be where its next step begins
(`manual_bp.training.causes.seeking`), and may hold what it has to remember beside.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from manual_bp.chain import Tensors
from manual_bp.training.causes.updating import MOST_PAST, After, Updating, WrongUpdate
from manual_bp.training.causes.wrong_clippings import wrong_clippings
from manual_bp.training.causes.wrong_gradients import ROUNDED, named
from manual_bp.training.clipping import clip_by_norm
from manual_bp.training.optimizers import MAKERS, Optimizer
from manual_bp.training.step import Step, TrainingState

# A loop that makes its update seldom makes it this often at most.
MOST_SELDOM = 4


def wrong_updates(step: Step) -> Iterator[WrongUpdate]:
    """From the usual to the rare."""
    keeps = bool(step.optimizer.init({"w": torch.zeros(1)}))
    if keeps:
        lost = "the optimiser's state is lost: it begins anew in every step"
        momentum = step.optimizer.config.get("momentum")
        lost += f" (or momentum is 0, where {momentum!r} is due)" if momentum else ""
        yield lost, lambda of: of.after(state=_anew(of))
    yield from _of_the_rate(step)
    yield from wrong_clippings(step)
    yield from _of_the_past()
    yield "the gradients of all steps so far are added up: they are not set to zero", _added_up
    if step.clip_norm is not None:
        words = "the gradients are not set to zero: those of each step are added to what clipping has left of the sum"
        yield words, lambda of: _added_up(of, clipped=True)
    for every in range(2, MOST_SELDOM + 1):
        for by, how in (
            (0, "gradients as they are then"),
            (1, "sum of the gradients since"),
            (every, "mean of the gradients since"),
        ):
            nth = f"{every}{'nd' if every == 2 else 'rd' if every == 3 else 'th'}"
            words = f"the update is made in every {nth} step alone, of the {how}"
            yield words, lambda of, every=every, by=by: _seldom(of, every, by)  # type: ignore[misc]
    doubled = "" if keeps else ", or the learning rate is twice what is due"
    yield f"the parameters are updated twice{doubled}", lambda of: of.after(state=_stepped(of))
    yield "the sign of the update is wrong: it goes uphill", _uphill
    yield from _of_changed_gradients()
    yield from _of_options(step)
    if keeps:
        for dtype in ROUNDED:
            words = f"the optimiser's state is rounded to {named(dtype)} behind each step"
            yield words, lambda of, dtype=dtype: _rounded(of, dtype)  # type: ignore[misc]
        yield from _of_the_count(step)
        yield "parameters of one shape share their state: it is kept by shape", _shared
    if step.max_norm is not None:
        yield "max-norm is left out", lambda of: of.after(replace(of.step, max_norm=None))


def _anew(of: Updating) -> TrainingState:
    return replace(of.state, optimizer=of.step.optimizer.init(dict(of.state.params)))


def _zeros(tensors: Tensors) -> dict[str, Tensor]:
    return {name: torch.zeros_like(t) for name, t in tensors.items()}


def _of_the_past() -> Iterator[WrongUpdate]:
    """Gradients that are late, as where they are computed beside the updates; and what is done until they are there."""
    for late in range(1, MOST_PAST + 1):
        words = f"the update is made of the gradients of {'the step' if late == 1 else f'{late} steps'} before"
        till = "till then" if late > 1 else "in the first step"
        yield words, lambda of, late=late: of.after(gradients=_late(of, late))  # type: ignore[misc]
        yield (
            f"{words}; of 0 {till}",
            lambda of, late=late: of.after(gradients=_late(of, late) if len(of.past) >= late else _zeros(of.gradients)),  # type: ignore[misc]
        )
        yield (
            f"{words}; none is made {till}",
            lambda of, late=late: (  # type: ignore[misc]
                of.after(gradients=_late(of, late)) if len(of.past) >= late else (of.state.params, of.state.optimizer)
            ),
        )


def _late(of: Updating, late: int) -> Tensors:
    """The gradients of so many steps before, or of the first."""
    return (of.gradients, *of.past)[min(late, len(of.past))]


def _of_changed_gradients() -> Iterator[WrongUpdate]:
    """What methods do to gradients that nobody declared here."""
    changes: dict[str, Callable[[Tensor], Tensor]] = {
        "the signs of the gradients go into the update, and not their sizes": torch.sign,
        "the gradient of each weight is centred: the mean of each row is taken off": lambda g: (
            g - g.flatten(1).mean(1).view(-1, *[1] * (g.ndim - 1)) if g.ndim > 1 else g
        ),
        "the gradient of each tensor is divided by its own norm": lambda g: g / g.norm(),
    }
    for words, change in changes.items():
        yield (
            words,
            lambda of, change=change: of.after(gradients={n: change(g) for n, g in of.gradients.items()}),  # type: ignore[misc]
        )


def sometimes(step: Step) -> Iterator[WrongUpdate]:
    """What may be wrong in some steps, and not in the others."""
    if step.optimizer.init({"w": torch.zeros(1)}):
        yield "the optimiser's state is lost: it begins anew", lambda of: of.after(state=_anew(of))
    yield "no update is made", lambda of: (of.state.params, of.state.optimizer)
    if step.clip_norm is not None:
        yield "clipping is left out", lambda of: of.after(replace(of.step, clip_norm=None))
    yield "the parameters are updated twice", lambda of: of.after(state=_stepped(of))
    yield "the gradients are those of the step before", lambda of: of.after(gradients=_late(of, 1))
    yield "the sign of the update is wrong: it goes uphill", _uphill


def _added_up(of: Updating, clipped: bool = False) -> After:
    """The sum is kept in the optimiser's state, under names of its own; clipped: as clipping in place leaves it."""
    total = {n: g + of.state.optimizer.get(f"total.{n}", 0.0) for n, g in of.gradients.items()}
    kept = {n: t for n, t in of.state.optimizer.items() if not n.startswith("total.")}
    params, optimizer = of.after(state=replace(of.state, optimizer=kept), gradients=total)
    if clipped and of.step.clip_norm is not None:
        total, _ = clip_by_norm(total, of.step.clip_norm)
    return params, {**optimizer, **{f"total.{n}": g for n, g in total.items()}}


def _seldom(of: Updating, every: int, by: int) -> After:
    """What waits is kept in the optimiser's state, under names of its own."""
    waiting = {n: g + of.state.optimizer.get(f"waiting.{n}", 0.0) for n, g in of.gradients.items()}
    kept = {n: t for n, t in of.state.optimizer.items() if not n.startswith("waiting.")}
    if (of.state.steps + 1) % every:
        return of.state.params, {**kept, **{f"waiting.{n}": g for n, g in waiting.items()}}
    own = {n: g / by for n, g in waiting.items()} if by else of.gradients
    return of.after(state=replace(of.state, optimizer=kept), gradients=own)


def _of_the_rate(step: Step) -> Iterator[WrongUpdate]:
    if step.schedule is None:
        return

    def at(of: Updating, made: int) -> After:
        return of.after(state=replace(of.state, steps=made))

    yield "the learning rate is that of the next step", lambda of: at(of, of.state.steps + 1)
    before = "the learning rate is that of the step before"
    # A warm-up is 0 there.
    yield f"{before}: the schedule is one step late, and begins at 0", lambda of: at(of, of.state.steps - 1)
    yield before, lambda of: at(of, max(of.state.steps - 1, 0))
    yield "the learning rate is that of the first step in every step", lambda of: at(of, 0)
    yield "the schedule goes twice as fast: it is stepped twice in each step", lambda of: at(of, 2 * of.state.steps)
    yield "the schedule of the learning rate is left out", lambda of: of.after(replace(of.step, schedule=None))


def _stepped(of: Updating) -> TrainingState:
    params, optimizer = of.after()
    return replace(of.state, params=dict(params), optimizer=dict(optimizer))


def _uphill(of: Updating) -> After:
    params, optimizer = of.after()
    return {name: 2 * of.state.params[name] - p for name, p in params.items()}, optimizer


def mixed(first: After, other: After, names: list[str]) -> After:
    """The other's for these parameters and their state."""
    params, optimizer = (
        {n: theirs[n] if n in names or n.partition(".")[2] in names else x for n, x in ours.items()}
        for ours, theirs in zip(first, other, strict=True)
    )
    return params, optimizer


def _of_options(step: Step) -> Iterator[WrongUpdate]:
    """The optimiser with another choice of each option, and those that are off."""
    own = step.optimizer
    if own.name not in MAKERS:
        return
    defaults = {n: p.default for n, p in inspect.signature(MAKERS[own.name]).parameters.items()}
    for name, value in own.config.items():
        others: list[Any] = []
        if isinstance(value, bool):
            others = [not value]
        elif isinstance(value, tuple):
            others = [value[::-1], defaults[name], (0.9, 0.99), (0.9, 0.95), (0.9, 0.98)]
        elif name == "dampening":
            others = [0.0, own.config["momentum"]]
        elif name == "momentum":
            others = [0.9]  # without any the state is lost
        elif name != "lr":
            others = [0.0, defaults[name], *((1e-10, 1e-7, 1e-6, 1e-3) if name == "eps" else ())]
        for other in dict.fromkeys(others):
            if other == value:
                continue
            try:
                changed = changed_optimizer(step, **{name: other})
            except ValueError:  # of choices that exclude each other
                continue
            words = f"{name} is {other!r}, where {value!r} is due"
            yield words, lambda of, changed=changed: of.after(changed, state=_suited(of, changed.optimizer))  # type: ignore[misc]


def _suited(of: Updating, optimizer: Optimizer) -> TrainingState:
    """The state, with what another optimiser keeps beside."""
    return replace(of.state, optimizer={**optimizer.init(dict(of.state.params)), **of.state.optimizer})


def _of_the_count(step: Step) -> Iterator[WrongUpdate]:
    if step.optimizer.name == "sgd":
        return
    words: dict[str, Callable[[Tensor], Tensor]] = {
        "t counts from 0: it is one too small": lambda t: t - 1,
        "t is one too large": lambda t: t + 1,
        "t is that of the first step in every step": torch.zeros_like,
        "the moments are not corrected for their beginning at 0": lambda t: torch.full_like(t, 1e6),
        "t is 1 in the second step too: it is counted after the step": lambda t: (t - 1).clamp(min=0),
    }
    for times in (2, 3, 4, 8):
        often = "twice" if times == 2 else f"{times} times"
        words[f"t is counted {often} in each step"] = lambda t, times=times: times * (t + 1) - 1  # type: ignore[misc]
        words[f"t is counted {often} in each step, once in the first"] = lambda t, times=times: times * t  # type: ignore[misc]
    for said, count in words.items():
        yield said, lambda of, count=count: _counted(of, count(of.state.optimizer["step"]))  # type: ignore[misc]
    yield "t is counted at each tensor, and not once for each step", _counted_at_each


def _rounded(of: Updating, dtype: torch.dtype) -> After:
    params, optimizer = of.after()
    return params, {n: t if n == "step" else t.to(dtype).to(t.dtype) for n, t in optimizer.items()}


def _counted(of: Updating, made: Tensor) -> After:
    """With another count of the steps made; the right one goes on beside."""
    if float(made) < 0:
        raise ValueError("no step is the one before the first")
    params, optimizer = of.after(state=replace(of.state, optimizer={**of.state.optimizer, "step": made}))
    return params, {**optimizer, "step": of.state.optimizer["step"] + 1}


def _counted_at_each(of: Updating) -> After:
    t, number = of.state.optimizer["step"], len(of.gradients)
    params, optimizer = of.after()
    found = {**params}, {**optimizer}
    for index, name in enumerate(of.gradients):
        found = mixed(found, _counted(of, t * number + index), [name])  # type: ignore[assignment]
    return found


def _shared(of: Updating) -> After:
    """One tensor after another, each from the state that the last one of its shape has left."""
    shapes: dict[torch.Size, list[str]] = {}
    for name, param in of.state.params.items():
        shapes.setdefault(param.shape, []).append(name)
    if all(len(names) == 1 for names in shapes.values()):
        raise ValueError("every shape is another")
    found: After = of.after()
    count = {n: t for n, t in found[1].items() if n == "step"}
    for names in shapes.values():
        state = of.state
        for name in names:
            made = of.after(state=state)
            found = mixed(found, made, [name])
            left = {kind: t for n, t in made[1].items() for kind, _, of_ in (n.partition("."),) if of_ == name}
            shared = {f"{kind}.{each}": t for kind, t in left.items() for each in names}
            state = replace(state, optimizer={**state.optimizer, **shared})
        found = found[0], {**found[1], **{n: state.optimizer[n] for n in found[1] if n.partition(".")[2] in names}}
    return found[0], {**found[1], **count}


def changed_optimizer(step: Step, **config: Any) -> Step:
    """The step with an optimiser of another configuration."""
    own = step.optimizer
    return replace(step, optimizer=MAKERS[own.name](**{**own.config, **config}))
