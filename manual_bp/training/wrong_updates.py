"""Wrong updates: what the parameters would be after a step if its update were wrong in one way, and the words for it.

All are made of the gradients that an engine shows, so that what is wrong in these is not told as the update's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from manual_bp.arithmetic.perturbed import wide
from manual_bp.chain import Tensors
from manual_bp.outputs import parts
from manual_bp.registry import RULES
from manual_bp.training.optimizers import MAKERS, Optimizer
from manual_bp.training.step import Step, TrainingState

After = tuple[Mapping[str, Tensor], Mapping[str, Tensor]]
"""Parameters and the optimiser's state."""
WrongUpdate = tuple[str, Callable[[], After]]


@dataclass(frozen=True)
class Updating:
    """One update: its step, the state before it, and gradients by name; all in float64.

    former: the gradients of the step before, if there was one.
    """

    step: Step
    state: TrainingState
    gradients: Tensors
    former: Tensors | None = None

    @classmethod
    def of(cls, step: Step, state: TrainingState, gradients: Tensors, former: Tensors | None) -> Updating:
        state = replace(state, params=wide(state.params), optimizer=wide(state.optimizer))
        return cls(step, state, wide(gradients), None if former is None else wide(former))

    def after(
        self, step: Step | None = None, state: TrainingState | None = None, gradients: Tensors | None = None
    ) -> After:
        found = (step or self.step).update(state or self.state, gradients or self.gradients, {})
        return found.params, found.optimizer


def wrong_updates(of: Updating) -> Iterator[WrongUpdate]:
    """From the usual to the rare."""
    step, state = of.step, of.state
    if state.optimizer:
        lost = replace(state, optimizer=step.optimizer.init(dict(state.params)))
        yield "the optimiser's state is lost: it begins anew in every step", lambda: of.after(state=lost)
    yield from _of_the_rate(of)
    yield from _of_clipping(of)
    if of.former is not None and of.former.keys() >= of.gradients.keys():
        former = {name: of.former[name] for name in of.gradients}
        yield "the update is made of the gradients of the step before", lambda: of.after(gradients=former)
    doubled = "" if state.optimizer else ", or the learning rate is twice what is due"
    yield f"the parameters are updated twice{doubled}", lambda: of.after(state=_stepped(of))
    yield "the sign of the update is wrong: it goes uphill", lambda: _uphill(of)
    yield from _of_decay(of)
    yield from _of_options(of)
    yield from _of_the_count(of)
    page = f"{step.optimizer.name}_update"
    for mistake in RULES[page].mistakes if page in RULES else ():
        words = f"it is the known mistake '{mistake.name}' of {page}, which forgets {mistake.forgets}"
        yield words, lambda mistake=mistake: _mistaken(of, page, mistake.backward)  # type: ignore[misc]
    if step.max_norm is not None:
        yield "max-norm is left out", lambda: of.after(replace(step, max_norm=None))


def _of_the_rate(of: Updating) -> Iterator[WrongUpdate]:
    step, state = of.step, of.state
    if step.schedule is None:
        return
    yield "the learning rate is that of the next step", lambda: of.after(state=replace(state, steps=state.steps + 1))
    if state.steps:
        yield (
            "the learning rate is that of the step before",
            lambda: of.after(state=replace(state, steps=state.steps - 1)),
        )
    yield "the schedule of the learning rate is left out", lambda: of.after(replace(step, schedule=None))


def _of_clipping(of: Updating) -> Iterator[WrongUpdate]:
    step, limit = of.step, of.step.clip_norm
    if limit is None:
        return
    plain = replace(step, clip_norm=None)
    yield (
        "clipping is left out or comes after the update: the gradients go into it as they are",
        lambda: of.after(plain),
    )

    def each() -> After:
        page = RULES["clip_by_norm"].page
        return of.after(plain, gradients={n: page.clipped([g], limit)[0][0] for n, g in of.gradients.items()})

    yield "clipping is by the norm of each tensor, where that of all gradients together is due", each
    yield (
        f"clipping is by value (to ±{limit:g}), where that by the norm of all gradients is due",
        lambda: of.after(plain, gradients={n: g.clamp(-limit, limit) for n, g in of.gradients.items()}),
    )
    for mistake in RULES["clip_by_norm"].mistakes:

        def clipped(mistake: Any = mistake) -> After:
            flat = torch.cat([g.flatten() for g in of.gradients.values()])
            clipped, *_ = parts(mistake.backward(grad=flat, max_norm=limit, eps=1e-6))
            pieces = torch.split(clipped, [g.numel() for g in of.gradients.values()])
            named = zip(of.gradients.items(), pieces, strict=True)
            return of.after(plain, gradients={n: piece.view_as(g) for (n, g), piece in named})

        yield f"clipping is the known mistake '{mistake.name}', which forgets {mistake.forgets}", clipped


def _stepped(of: Updating) -> TrainingState:
    params, optimizer = of.after()
    return replace(of.state, params=dict(params), optimizer=dict(optimizer))


def _uphill(of: Updating) -> After:
    params, optimizer = of.after()
    return {name: 2 * of.state.params[name] - p for name, p in params.items()}, optimizer


def _of_decay(of: Updating) -> Iterator[WrongUpdate]:
    own = of.step.optimizer
    if not own.config.get("weight_decay"):
        return
    plain = _optimizer(of, weight_decay=0.0)
    weights, biases = of.step.weights, [name for name in of.state.params if name not in of.step.weights]
    yield "weight decay is left out", lambda: of.after(plain)
    for words, spared in (
        ("weight decay is on weights alone, and leaves biases out, where this optimiser decays all", biases),
        ("weight decay is on biases alone, and leaves weights out", weights),
    ):
        yield words, lambda spared=spared: _mixed(of.after(), of.after(plain), spared)  # type: ignore[misc]
    coupled = {"adam": "adamw", "adamw": "adam"}.get(own.name)
    if coupled:
        words = "is part of the gradient (coupled, as Adam's L2)" if coupled == "adam" else "is decoupled, as AdamW's"
        made = MAKERS[coupled](**own.config)
        yield f"weight decay {words}", lambda: of.after(replace(of.step, optimizer=made))


def _mixed(first: After, other: After, names: list[str]) -> After:
    """The other's for these parameters and their state."""
    params, optimizer = (
        {n: theirs[n] if n in names or n.partition(".")[2] in names else x for n, x in ours.items()}
        for ours, theirs in zip(first, other, strict=True)
    )
    return params, optimizer


def _of_options(of: Updating) -> Iterator[WrongUpdate]:
    """The optimiser with another choice of each option, and those that are off."""
    own = of.step.optimizer
    if own.name not in MAKERS:
        return
    defaults = {n: p.default for n, p in inspect.signature(MAKERS[own.name]).parameters.items()}
    for name, value in own.config.items():
        others: list[Any] = []
        if isinstance(value, bool):
            others = [not value]
        elif isinstance(value, tuple):
            others = [value[::-1], defaults[name], (0.9, 0.99), (0.9, 0.95)]
        elif name == "dampening":
            others = [0.0, own.config["momentum"]]
        elif name != "lr":
            others = [0.0, defaults[name], *({"eps": (1e-10, 1e-7, 1e-6, 1e-3), "momentum": (0.9,)}.get(name, ()))]
        for other in dict.fromkeys(others):
            if other == value:
                continue
            try:
                changed = _optimizer(of, **{name: other})
            except ValueError:  # of choices that exclude each other
                continue
            words = f"{name} is {other!r}, where {value!r} is due"
            yield words, lambda changed=changed: of.after(changed, state=_suited(of, changed.optimizer))  # type: ignore[misc]


def _suited(of: Updating, optimizer: Optimizer) -> TrainingState:
    """The state, with what another optimiser keeps beside."""
    return replace(of.state, optimizer={**optimizer.init(dict(of.state.params)), **of.state.optimizer})


def _of_the_count(of: Updating) -> Iterator[WrongUpdate]:
    step = of.state.optimizer.get("step")
    if step is None or of.step.optimizer.name == "sgd":
        return
    words = {
        "t counts from 0: it is one too small": step - 1,
        "t is one too large": step + 1,
        "t is that of the first step in every step": torch.zeros_like(step),
        "the moments are not corrected for their beginning at 0": torch.full_like(step, 1e6),
    }
    for said, count in words.items():
        if float(count) >= 0 and not torch.equal(count, step):
            state = replace(of.state, optimizer={**of.state.optimizer, "step": count})
            yield said, lambda state=state: of.after(state=state)  # type: ignore[misc]


def _optimizer(of: Updating, **config: Any) -> Step:
    own = of.step.optimizer
    return replace(of.step, optimizer=MAKERS[own.name](**{**own.config, **config}))


def _mistaken(of: Updating, page: str, formula: Callable[..., Any]) -> After:
    """The update by one of the page's mistakes."""
    rule = RULES[page]

    def update(gradients: Tensors, state: Tensors, params: Tensors) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        own = dict(of.step.optimizer.config)
        if "betas" in own:
            own["beta1"], own["beta2"] = own.pop("betas")  # type: ignore[misc]
        t = state.get("step")
        hyper = {name: value for name, value in {**rule.defaults, **own}.items() if name in rule.hyper}
        if "step" in rule.hyper:
            hyper["step"] = 1 if t is None else int(t) + 1
        after, kept = {}, {} if t is None else {"step": t + 1}
        names = [name for name in rule.inputs if name not in ("param", "grad")]
        for name, param in params.items():
            moments = {kind: state.get(f"{kind}.{name}") for kind in names}
            results = dict(
                zip(
                    rule.outputs,
                    parts(formula(param=param, grad=gradients[name], **moments, **hyper)),
                    strict=True,
                )
            )
            after[name] = results["param"]
            kept |= {f"{kind}.{name}": results[kind] for kind in names if f"{kind}.{name}" in state}
        return after, kept

    own = of.step.optimizer
    changed = Optimizer(own.name, own.config, own.init, update)
    return of.after(replace(of.step, optimizer=changed, schedule=None))
