"""Wrong losses: a cost of another scale, another rule, or with a backward that is one of the page's mistakes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from manual_bp.arithmetic.perturbed import wide
from manual_bp.chain import fits_activation
from manual_bp.hyperparameters import choices
from manual_bp.inputs import Mistake
from manual_bp.losses import Loss, RuleVjp, names, one_hot
from manual_bp.registry import RULES
from manual_bp.rule import Rule
from manual_bp.training.causes.moment import Hypothesis, Moment
from manual_bp.training.causes.nearest import DIGITS, nearest
from manual_bp.training.causes.wrong_terms import losses_by_a_number
from manual_bp.training.engine import StepRecord
from manual_bp.training.step import Step
from manual_bp.wording import counted

# A term with a smaller factor is none: what is found for one that is not there is 0 up to rounding.
NONE = 1e-6


def outputs_of(step: Step, now: Moment) -> int:
    """How many outputs there are for each target."""
    y, _, _ = step.model.forward(now.state.params, now.state.buffers, now.x)
    return int(y.shape[-1])


def wrong_losses(step: Step, now: Moment, run: Callable[..., StepRecord]) -> Iterator[Hypothesis]:
    n, classes = len(now.x), outputs_of(step, now)
    rows = now.target.numel() if step.loss.takes_classes else n
    factors = {
        float(n): f"the loss is the sum over the batch of {n}, where its mean is due",
        float(rows): f"the loss is the sum over {counted(rows, 'target')}, where their mean is due",
        1 / n: f"the loss is divided by the batch's size, {n}, twice",
        1 / classes: f"the loss is the mean over the {classes} outputs too, where their sum is due",
        2.0: "the loss is twice what is due (½ forgotten, or the means of two pieces, or workers, are added up)",
        0.5: "the loss is half of what is due (a ½ too many)",
    }
    for factor, words in factors.items():
        if factor == 1:
            continue
        scaled = replace(step, loss=_Scaled(step.loss.name, step.loss.hyper, factor))
        yield words, lambda own=scaled: run(own)  # type: ignore[misc]
        hidden = replace(step, loss=_Scaled(step.loss.name, step.loss.hyper, factor, value=False))
        words = words.replace("the loss is", "the loss that is shown is right, and its gradient is that of", 1)
        yield words, lambda own=hidden: run(own)  # type: ignore[misc]
    if now.shown.params.keys() >= now.state.params.keys():
        after = replace(now.state, params={n: now.shown.params[n].detach() for n in now.state.params})
        yield (
            "the loss that is shown is that after the update, where that before it is due",
            lambda: replace(now.due, loss=run(state=after).loss),
        )
    yield from _scaled_by_any(step, now, run)
    if step.loss.takes_classes:
        bare = replace(step, loss=_Unnormalised(step.loss.name, step.loss.hyper))
        yield (
            "log_softmax is left out: the loss is −x of the right class, as nll_loss makes it of logits",
            lambda: run(bare),
        )
    yield from _of_a_number(step, now, run)
    for words, loss in _others(step.loss):
        other = replace(step, loss=loss)
        yield words, lambda own=other: run(own)  # type: ignore[misc]
    yield from _of_other_losses(step, now, run)


def _scaled_by_any(step: Step, now: Moment, run: Callable[..., StepRecord]) -> Iterator[Hypothesis]:
    """By the factor that the loss tells."""
    due, came = float(now.due.loss), float(now.shown.loss)
    if not due or not came:
        return
    penalised = bool(step.l2 or step.l1)
    c = came / due
    both = replace(step, loss=_Scaled(step.loss.name, step.loss.hyper, c), l2=c * step.l2, l1=c * step.l1)
    what = "cost and penalty together are" if penalised else "the loss is"
    yield f"{what} {c:.6g} times what is due: {'the sum' if penalised else 'it'} is scaled", lambda: run(both)
    cost = float(run(replace(step, l2=0.0, l1=0.0)).loss) if penalised else 0.0
    if cost and (c := (came - due + cost) / cost):
        own = replace(step, loss=_Scaled(step.loss.name, step.loss.hyper, c))
        yield f"the cost is {c:.6g} times what is due, and the penalty is not scaled", lambda: run(own)


def _others(loss: Loss) -> Iterator[tuple[str, Loss]]:
    rule = loss.rule
    usual = {n: choices(rule.annotations[n]) for n in rule.hyper} | getattr(rule.page, "USUAL", {})
    for name, values in usual.items():
        own = {**rule.defaults, **loss.hyper}[name]
        for value in dict.fromkeys((*(rule.defaults[n] for n in (name,) if n in rule.defaults), *values)):
            if value != own:
                yield (
                    f"{name} of the loss is {value!r}, where {own!r} is due",
                    Loss(loss.name, {**loss.hyper, name: value}),
                )
    for mistake in rule.mistakes:
        words = f"the backward of the loss is the known mistake '{mistake.name}' of {rule.name}, which forgets "
        yield f"{words}{mistake.forgets}", _Mistaken(loss.name, loss.hyper, mistake)
    for name, before in RULES.items():
        if fits_activation(before) and before.chapter == "activation" and not set(before.hyper) - set(before.defaults):
            yield (
                f"the output passes {name} before the loss, which takes it as it is",
                _Behind(loss.name, loss.hyper, name),
            )


def _of_a_number(step: Step, now: Moment, run: Callable[..., StepRecord]) -> Iterator[Hypothesis]:
    """A penalty, or a hyperparameter of the loss, of another size: which, what is shown tells."""
    names = [n for n in now.due.gradients if n in now.shown.gradients]
    loss, rule = step.loss, step.loss.rule
    ways: list[tuple[str, Any, Callable[[float], Step]]] = [
        (f"the penalty ({name})", getattr(step, name), lambda c, name=name: replace(step, **{name: c}))  # type: ignore[misc]
        for name in ("l2", "l1")
    ]
    for name in rule.hyper:
        own = {**rule.defaults, **loss.hyper}.get(name)
        if isinstance(own, float):
            ways.append(
                (
                    f"{name} of the loss",
                    own,
                    lambda c, name=name: replace(step, loss=Loss(loss.name, {**loss.hyper, name: c})),  # type: ignore[misc]
                )
            )
    ways.append(("the factor by which the output is multiplied before the loss", 1.0, lambda c: _multiplied(step, c)))

    def flat(record: StepRecord) -> Tensor:
        gradients = wide({n: record.gradients[n] for n in names})
        return torch.cat([wide({"": record.loss})[""][None], *(g.flatten() for g in gradients.values())])

    def numbers(of: Callable[[float], Step], own: float) -> Iterator[float]:
        found = None
        with suppress(ValueError):  # a number that the loss refuses
            found = nearest(lambda c: flat(run(of(c))), flat(now.shown), own)
        yield from () if found is None else dict.fromkeys((float(f"{found:.{DIGITS}g}"), found))

    for what, own, of in ways:
        for number in numbers(of, float(own)):
            if number > NONE * own:  # what is 0 is told so, as one of the usual numbers
                meant = "" if own else f"; if that is meant, declare it: {what[-3:-1]}={number:.6g}"
                words = f"{what} is {number:.6g}, where {f'{own:g}' if own else 'none'} is due"
                yield words + (meant if what.endswith(")") else ""), lambda c=number, of=of: run(of(c))  # type: ignore[misc]
    for words, loss_of in losses_by_a_number(loss):

        def with_loss(c: float, loss_of: Callable[[float], Loss] = loss_of) -> Step:
            return replace(step, loss=loss_of(c))

        for number in numbers(with_loss, 0.0):
            if abs(number) > NONE:
                yield f"{words} {number:.6g}", lambda c=number, of=with_loss: run(of(c))  # type: ignore[misc]


def _of_other_losses(step: Step, now: Moment, run: Callable[..., StepRecord]) -> Iterator[Hypothesis]:
    """The loss of another page, of its own kind of targets, of the output or of what makes shares of it; and of any
    scale, as programs take the mean over the outputs too, or no half.  Those with the fewest options come first: a loss
    with more may be the same here."""
    y, _, _ = step.model.forward(now.state.params, now.state.buffers, now.x)
    bare = replace(step, l2=0.0, l1=0.0)
    penalty = float(now.due.loss) - float(run(bare).loss)
    for name in sorted(names(), key=lambda name: len(RULES[name].hyper)):
        if name == step.loss.name or set(RULES[name].hyper) - set(RULES[name].defaults):
            continue
        targets = ""
        if (takes_classes := Loss(name).takes_classes) != step.loss.takes_classes:
            targets = f" of {'the class of the largest target' if takes_classes else '1 for the right class, else 0'}"
        for before in ("", *_making_shares(y)):
            behind = f", behind {before}" if before else ""
            words = f"the loss is {name}{targets}{behind}, where {step.loss.name} is due"
            own = _Another(name, {}, before)
            yield words, lambda own=own: run(replace(step, loss=own))  # type: ignore[misc]
            with suppress(ValueError, RuntimeError):  # targets that are none of it
                cost = float(run(replace(bare, loss=own)).loss)
                if cost and (c := (float(now.shown.loss) - penalty) / cost):
                    scaled = replace(step, loss=replace(own, factor=c))
                    yield f"{words}; times {c:.6g}", lambda own=scaled: run(own)  # type: ignore[misc]


def _making_shares(y: Tensor) -> Iterator[str]:
    """The activations of which every value is between 0 and 1."""
    for name, rule in RULES.items():
        if fits_activation(rule) and rule.chapter == "activation" and not set(rule.hyper) - set(rule.defaults):
            a, _ = rule.forward(y)
            if bool(((a >= 0) & (a <= 1)).all()):
                yield name


@dataclass(frozen=True)
class _Mistaken(Loss):
    """A loss with one of the page's mistakes for its backward."""

    mistake: Mistake | None = None

    def vjp(self, y: Tensor, target: Tensor, vjp: RuleVjp = Rule.vjp) -> tuple[Tensor, Tensor]:
        cost, _ = super().vjp(y, target, vjp)
        assert self.mistake is not None
        inputs = dict.fromkeys(self.rule.inputs) | dict(zip(self.rule.inputs, (y, target), strict=False))
        one = torch.ones((), dtype=y.dtype)
        dy, *_ = self.mistake.backward(**inputs, dy=one, **{**self.rule.defaults, **self.hyper})
        return cost, dy


@dataclass(frozen=True)
class _Behind(Loss):
    """A loss of what an activation makes of the output."""

    before: str = ""

    def vjp(self, y: Tensor, target: Tensor, vjp: RuleVjp = Rule.vjp) -> tuple[Tensor, Tensor]:
        rule = RULES[self.before]
        a, _ = rule.forward(y)
        cost, da = super().vjp(a, target, vjp)
        _, (dy,) = rule.vjp((y,), da)
        assert dy is not None
        return cost, dy


def _multiplied(step: Step, factor: float) -> Step:
    return replace(step, loss=_Multiplied(step.loss.name, step.loss.hyper, factor))


@dataclass(frozen=True)
class _Multiplied(Loss):
    """A loss of a multiple of the output."""

    factor: float = 1.0

    def vjp(self, y: Tensor, target: Tensor, vjp: RuleVjp = Rule.vjp) -> tuple[Tensor, Tensor]:
        cost, dy = super().vjp(self.factor * y, target, vjp)
        return cost, self.factor * dy


@dataclass(frozen=True)
class _Another(Loss):
    """A multiple of another loss, whose targets may be of the other kind; before: the activation before it, if any."""

    before: str = ""
    factor: float = 1.0

    def vjp(self, y: Tensor, target: Tensor, vjp: RuleVjp = Rule.vjp) -> tuple[Tensor, Tensor]:
        if self.takes_classes and target.is_floating_point():
            target = target.argmax(1)
        elif not self.takes_classes and not target.is_floating_point():
            target = one_hot(target, y.shape[1], y.dtype)
        loss = _Behind(self.name, self.hyper, self.before) if self.before else Loss(self.name, self.hyper)
        cost, dy = loss.vjp(y, target, vjp)
        return self.factor * cost, self.factor * dy


@dataclass(frozen=True)
class _Unnormalised(Loss):
    """The mean of −x of the right class, over what is not ignored."""

    def vjp(self, y: Tensor, target: Tensor, vjp: RuleVjp = Rule.vjp) -> tuple[Tensor, Tensor]:
        counts = target.ne({**self.rule.defaults, **self.hyper}.get("ignore_index", -1))
        dy = torch.zeros_like(y).scatter_(1, torch.where(counts, target, 0)[:, None].long(), -1.0)
        dy = torch.where(counts[:, None], dy, 0) / counts.sum()
        return (dy * y).sum(), dy


@dataclass(frozen=True)
class _Scaled(Loss):
    """A loss, or its gradient alone, times a factor."""

    factor: float = 1.0
    value: bool = True

    def vjp(self, y: Tensor, target: Tensor, vjp: RuleVjp = Rule.vjp) -> tuple[Tensor, Tensor]:
        cost, dy = super().vjp(y, target, vjp)
        return (self.factor * cost if self.value else cost), self.factor * dy
