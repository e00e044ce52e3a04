"""Wrong updates: what the parameters would be after a step if its update were wrong in one way, and the words for it.

All are made of the gradients that an engine shows, so that what is wrong in these is not told as the update's.  Each is
a function of where a step begins; what it returns as the optimiser's state may be where its next step begins
(`manual_bp.training.seeking`), and may hold what it has to remember beside.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from manual_bp.chain import Tensors
from manual_bp.oracle.optimizers.driven import FLAGS
from manual_bp.outputs import parts
from manual_bp.registry import RULES
from manual_bp.rule import Rule
from manual_bp.training.optimizers import MAKERS, Optimizer
from manual_bp.training.step import Step, TrainingState

After = tuple[Mapping[str, Tensor], Mapping[str, Tensor]]
"""Parameters and the optimiser's state."""


@dataclass(frozen=True)
class Updating:
    """Where one update begins: its step, the state before it, and gradients by name; all in float64.

    former: the gradients of the step before, if there was one.  is_own: whether the optimiser's state is the one that
    this wrong update has itself left, and none before its first step.
    """

    step: Step
    state: TrainingState
    gradients: Tensors
    former: Tensors | None = None
    is_own: bool = False

    def after(
        self, step: Step | None = None, state: TrainingState | None = None, gradients: Tensors | None = None
    ) -> After:
        found = (step or self.step).update(state or self.state, gradients or self.gradients, {})
        return found.params, found.optimizer

    @property
    def optimizer(self) -> Optimizer:
        """Of this step: with its learning rate."""
        step = self.step
        return step.schedule.at(step.optimizer, self.state.steps) if step.schedule else step.optimizer


WrongUpdate = tuple[str, Callable[[Updating], After]]
# A loop that makes its update seldom makes it this often at most.
MOST_SELDOM = 4


def wrong_updates(step: Step, names: list[str]) -> Iterator[WrongUpdate]:
    """From the usual to the rare.  names: of all parameters."""
    keeps = bool(step.optimizer.init({"w": torch.zeros(1)}))
    if keeps:
        lost = "the optimiser's state is lost: it begins anew in every step"
        momentum = step.optimizer.config.get("momentum")
        lost += f" (or momentum is 0, where {momentum!r} is due)" if momentum else ""
        yield lost, lambda of: of.after(state=_anew(of))
    yield from _of_the_rate(step)
    yield from _of_clipping(step)
    words = "the update is made of the gradients of the step before"
    yield words, lambda of: of.after(gradients=_former(of, of.gradients))
    nothing = "; of 0 in the first step"
    yield words + nothing, lambda of: of.after(gradients=_former(of, _zeros(of.gradients)))
    yield "the gradients of all steps so far are added up: they are not set to zero", _added_up
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
    yield from _of_decay(step, names)
    yield from _of_options(step)
    if keeps:
        yield from _of_the_count(step)
        yield "parameters of one shape share their state: it is kept by shape", _shared
    if step.max_norm is not None:
        yield "max-norm is left out", lambda of: of.after(replace(of.step, max_norm=None))


def wrong_formulas(step: Step) -> Iterator[WrongUpdate]:
    """What pages say: wrong formulas of the update that is due, and the updates of others."""
    page = f"{step.optimizer.name}_update"
    if page in RULES:
        yield from _of_page(RULES[page])
    yield from _others(step)


def _anew(of: Updating) -> TrainingState:
    return replace(of.state, optimizer=of.step.optimizer.init(dict(of.state.params)))


def _zeros(tensors: Tensors) -> dict[str, Tensor]:
    return {name: torch.zeros_like(t) for name, t in tensors.items()}


def _former(of: Updating, first: Tensors) -> Tensors:
    if of.former is None or not of.former.keys() >= of.gradients.keys():
        return first
    return {name: of.former[name] for name in of.gradients}


def _added_up(of: Updating) -> After:
    """The sum is kept in the optimiser's state, under names of its own."""
    total = {n: g + of.state.optimizer.get(f"total.{n}", 0.0) for n, g in of.gradients.items()}
    kept = {n: t for n, t in of.state.optimizer.items() if not n.startswith("total.")}
    params, optimizer = of.after(state=replace(of.state, optimizer=kept), gradients=total)
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
    yield "the schedule of the learning rate is left out", lambda of: of.after(replace(of.step, schedule=None))


def _of_clipping(step: Step) -> Iterator[WrongUpdate]:
    limit = step.clip_norm
    if limit is None:
        return
    plain = replace(step, clip_norm=None)
    yield (
        "clipping is left out or comes after the update: the gradients go into it as they are",
        lambda of: of.after(plain),
    )

    def each(of: Updating) -> After:
        page = RULES["clip_by_norm"].page
        return of.after(plain, gradients={n: page.clipped([g], limit)[0][0] for n, g in of.gradients.items()})

    yield "clipping is by the norm of each tensor, where that of all gradients together is due", each
    yield (
        f"clipping is by value (to ±{limit:g}), where that by the norm of all gradients is due",
        lambda of: of.after(plain, gradients={n: g.clamp(-limit, limit) for n, g in of.gradients.items()}),
    )
    for mistake in RULES["clip_by_norm"].mistakes:

        def clipped(of: Updating, mistake: Any = mistake) -> After:
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


def _of_decay(step: Step, names: list[str]) -> Iterator[WrongUpdate]:
    own = step.optimizer
    if not own.config.get("weight_decay"):
        return
    plain = _optimizer(step, weight_decay=0.0)
    weights, biases = step.weights, [name for name in names if name not in step.weights]
    yield "weight decay is left out", lambda of: of.after(plain)
    for words, spared in (
        ("weight decay is on weights alone, and leaves biases out, where this optimiser decays all", biases),
        ("weight decay is on biases alone, and leaves weights out", weights),
    ):
        yield words, lambda of, spared=spared: _mixed(of.after(), of.after(plain), spared)  # type: ignore[misc]
    coupled = {"adam": "adamw", "adamw": "adam"}.get(own.name)
    if coupled:
        words = "is part of the gradient (coupled, as Adam's L2)" if coupled == "adam" else "is decoupled, as AdamW's"
        made = MAKERS[coupled](**own.config)
        yield f"weight decay {words}", lambda of: of.after(replace(of.step, optimizer=made))
    if step.schedule is not None and own.name == "adamw":
        yield "weight decay is by the learning rate without its schedule", _decayed_unscheduled


def _decayed_unscheduled(of: Updating) -> After:
    params, optimizer = of.after(_optimizer(of.step, weight_decay=0.0))
    lr, decay = of.step.optimizer.config["lr"], of.step.optimizer.config["weight_decay"]
    return {n: p - lr * decay * of.state.params[n] for n, p in params.items()}, optimizer  # type: ignore[operator]


def _mixed(first: After, other: After, names: list[str]) -> After:
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
                changed = _optimizer(step, **{name: other})
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
        "t is counted twice in each step": lambda t: 2 * t + 1,
        "t is 1 in the second step too: it is counted after the step": lambda t: (t - 1).clamp(min=0),
    }
    for said, count in words.items():
        yield said, lambda of, count=count: _counted(of, count(of.state.optimizer["step"]))  # type: ignore[misc]
    yield "t is counted at each tensor, and not once for each step", _counted_at_each


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
        found = _mixed(found, _counted(of, t * number + index), [name])  # type: ignore[assignment]
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
            found = _mixed(found, made, [name])
            left = {kind: t for n, t in made[1].items() for kind, _, of_ in (n.partition("."),) if of_ == name}
            shared = {f"{kind}.{each}": t for kind, t in left.items() for each in names}
            state = replace(state, optimizer={**state.optimizer, **shared})
        found = found[0], {**found[1], **{n: state.optimizer[n] for n in found[1] if n.partition(".")[2] in names}}
    return found[0], {**found[1], **count}


def _optimizer(step: Step, **config: Any) -> Step:
    own = step.optimizer
    return replace(step, optimizer=MAKERS[own.name](**{**own.config, **config}))


# ------------------------------------------------------------------------------------------------------------ by pages


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

    def update(gradients: Tensors, state: Tensors, params: Tensors) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
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
            results = parts(formula(*given.values(), **hyper)[0] if formula == rule.pure else formula(**given, **hyper))
            found = dict(zip(rule.outputs, results, strict=True))
            after[name] = found["param"]
            kept |= {f"{kind}.{name}": found[kind] for kind in names if found[kind] is not None}
        return after, kept

    own = of.step.optimizer
    changed = Optimizer(own.name, own.config, own.init, update)
    return of.after(replace(of.step, optimizer=changed, schedule=None))
