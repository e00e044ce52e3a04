"""Layers as people get them wrong: what may stand in a step where a right layer is due, and the words for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from manual_bp import axes
from manual_bp.chain import (
    WEIGHTED,
    Activation,
    BatchNorm,
    Dropout,
    Identity,
    Layer,
    Leaf,
    Tensors,
    activation,
    fits_activation,
)
from manual_bp.hyperparameters import choices
from manual_bp.inputs import Mistake
from manual_bp.registry import RULES
from manual_bp.rule import Rule

USUAL_P = (0.1, 0.2, 0.25, 0.3, 0.5)
"""Of dropout."""

Variant = tuple[str, Layer]
"""What is wrong, in words, and the layer that is so."""


def variants(leaf: Leaf) -> Iterator[Variant]:
    """Wrong layers in place of one."""
    if isinstance(leaf, Activation):
        yield from _activations(leaf)
    elif isinstance(leaf, Dropout):
        yield from _dropouts(leaf)
    elif isinstance(leaf, BatchNorm):
        yield from _batch_norms(leaf)
    elif leaf.rule.name == "add":
        yield from _sums()
    if "bias" in leaf.names:
        yield "its bias is left out", _Unbiasing(leaf)
    yield from _options(leaf)
    for mistake in leaf.rule.mistakes:
        yield (
            f"its backward is the known mistake '{mistake.name}' of {leaf.rule.name}, which forgets {mistake.forgets}",
            _Mistaken(leaf, mistake),
        )


def followed(leaf: Leaf) -> Iterator[Variant]:
    """A layer with one behind it that is not due.  Asked last: one in place of another may be it."""
    if isinstance(leaf, Activation) or leaf.rule.name in WEIGHTED:
        for name, rule in RULES.items():
            if name != leaf.rule.name and _needs_no_parameters(rule):
                yield f"behind it stands a {name} that is not due", _Followed(leaf, name)


def _needs_no_parameters(rule: Rule) -> bool:
    """Whether a rule takes what a layer gives alone, and gives the same shape: an activation, or a normalisation of
    each row."""
    own = [name for name in rule.inputs if name not in rule.absentable]
    is_alone = own == ["x"] and rule.is_number("x") and set(rule.hyper) == set(rule.defaults)
    return (
        is_alone
        and rule.has_backward
        and rule.outputs == ("y",)
        and axes.tokens(rule.y_annotation) == axes.tokens(rule.annotations["x"])
    )


def _activations(leaf: Activation) -> Iterator[Variant]:
    yield f"{leaf.rule.name} is left out", Identity()
    for name, rule in RULES.items():
        is_other = rule is not leaf.rule and rule.chapter == leaf.rule.chapter
        if is_other and fits_activation(rule) and not set(rule.hyper) - set(rule.defaults):
            yield f"{name} stands in place of {leaf.rule.name}", activation(name)


def _dropouts(leaf: Dropout) -> Iterator[Variant]:
    p = leaf.hyper["p"]
    yield "dropout is off: nothing is dropped, as in evaluation", Identity()
    yield (
        "what is kept is not scaled by 1/(1 − p)",
        _Changed(leaf, hyper=lambda hyper: {**hyper, "p": 0.0}),
    )
    if 0 < p < 1:
        yield "what is kept is scaled by 1/p in place of 1/(1 − p)", _Changed(leaf, lambda h: {**h, "p": 1 - p})
    for other in USUAL_P:
        if other != p and p < 1:
            yield f"what is kept is scaled by 1/(1 − {other:g}), where p is {p:g}", _Changed(leaf, _scaled_for(other))
    (mask,) = leaf.names.values()
    yield "it keeps what is to be dropped", _Changed(leaf, state=lambda state: {**state, mask: ~state[mask].bool()})


def _scaled_for(p: float) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda hyper: {**hyper, "p": p}


def _batch_norms(leaf: BatchNorm) -> Iterator[Variant]:
    yield "it normalises by the running statistics, as in evaluation", _Evaluating(leaf)
    yield "it normalises by the variance with n − 1 (unbiased), where that with n is due", _Unbiased(leaf)
    yield "the running statistics are updated twice", _Updated(leaf, 2)
    yield "the running statistics are not updated", _Updated(leaf, 0)
    if leaf.momentum is not None:
        other = 1 - leaf.momentum
        yield (
            f"momentum is taken for the share of the old statistics: the new ones count {other:g} in place of "
            f"{leaf.momentum:g}",
            replace(leaf, momentum=other),
        )
    yield "the biased variance (with n) goes into the running one, where that with n − 1 is due", _Biased(leaf)


def evaluating(leaf: Leaf) -> Layer:
    """A layer as in evaluation; its running statistics stay."""
    return Identity() if isinstance(leaf, Dropout) else _Evaluating(leaf)


def _sums() -> Iterator[Variant]:
    for keeps, words in ((1, "x is forgotten: y is f(x) alone"), (0, "f(x) is forgotten: y is x alone")):
        yield f"the residual sum is wrong, {words}", _Sum(value=keeps, back=keeps)
    yield "the residual sum is right, and its gradient does not reach x past the branch (the skip)", _Sum(back=1)
    yield "the residual sum is right, and its gradient does not reach the branch", _Sum(back=0)


def _options(leaf: Leaf) -> Iterator[Variant]:
    """Hyperparameters at another choice."""
    own = {**leaf.rule.defaults, **leaf.hyper}
    for name, value in own.items():
        others: list[Any] = []
        if isinstance(value, bool):
            others = [not value]
        elif isinstance(value, str):
            others = [choice for choice in choices(leaf.rule.annotations[name]) if choice != value]
        elif name in leaf.hyper and name in leaf.rule.defaults and leaf.rule.defaults[name] != value:
            others = [leaf.rule.defaults[name]]
        if name == "eps" and isinstance(value, float):
            others += [other for other in (1e-5, 1e-6, 1e-8, 1e-3, 0.0) if other != value]
        for other in others:
            yield f"{name} is {other!r}, where {value!r} is due", replace(leaf, hyper={**leaf.hyper, name: other})


@dataclass(frozen=True)
class Wrapped:
    """A layer of which something is changed."""

    leaf: Leaf

    def forward(self, params: Tensors, state: Tensors, x: Any) -> tuple[Any, Any, Tensors]:
        return self.leaf.forward(params, state, x)

    def backward(self, residuals: Any, dy: Any) -> tuple[Any, dict[str, Tensor]]:
        return self.leaf.backward(residuals, dy)

    def map(self, change: Callable[[str, Leaf], Layer], name: str = "") -> Layer:
        """It stays, and its leaf is seen: its weights are penalised as ever, else each wrong layer would also be one
        without the penalty."""
        change(name, self.leaf)
        return self


@dataclass(frozen=True)
class _Followed(Wrapped):
    """With another rule behind it, which takes it alone."""

    rule: str

    def forward(self, params: Tensors, state: Tensors, x: Any) -> tuple[Any, Any, Tensors]:
        y, residuals, after = self.leaf.forward(params, state, x)
        z, others = RULES[self.rule].forward(y)
        return z, (residuals, others), after

    def backward(self, residuals: Any, dy: Any) -> tuple[Any, dict[str, Tensor]]:
        own, others = residuals
        dz = RULES[self.rule].backward(others, dy)[0]
        assert dz is not None
        return self.leaf.backward(own, dz)


@dataclass(frozen=True)
class Cut(Wrapped):
    """Nothing passes back through it."""

    def backward(self, residuals: Any, dy: Any) -> tuple[Any, dict[str, Tensor]]:
        dx, dparams = self.leaf.backward(residuals, dy)
        each = dx if isinstance(dx, tuple) else (dx,)
        nothing = tuple(d if d is None else torch.zeros_like(d) for d in each)
        return (nothing if isinstance(dx, tuple) else nothing[0]), dparams


@dataclass(frozen=True)
class _Changed(Wrapped):
    """With other hyperparameters, or another state."""

    hyper: Callable[[dict[str, Any]], dict[str, Any]] = lambda hyper: hyper
    state: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda state: state

    def forward(self, params: Tensors, state: Tensors, x: Any) -> tuple[Any, Any, Tensors]:
        changed = replace(self.leaf, hyper=self.hyper(dict(self.leaf.hyper)))
        y, residuals, _ = changed.forward(params, self.state(dict(state)), x)
        return y, residuals, state


@dataclass(frozen=True)
class _Unbiasing(Wrapped):
    """Without its bias, which nobody moves either."""

    def forward(self, params: Tensors, state: Tensors, x: Any) -> tuple[Any, Any, Tensors]:
        bias = self.leaf.names["bias"]
        return self.leaf.forward({**params, bias: torch.zeros_like(params[bias])}, state, x)

    def backward(self, residuals: Any, dy: Any) -> tuple[Any, dict[str, Tensor]]:
        dx, dparams = self.leaf.backward(residuals, dy)
        return dx, {name: torch.zeros_like(d) if name == self.leaf.names["bias"] else d for name, d in dparams.items()}


@dataclass(frozen=True)
class _Mistaken(Wrapped):
    """With one of the page's mistakes for its backward."""

    mistake: Mistake

    def forward(self, params: Tensors, state: Tensors, x: Any) -> tuple[Any, Any, Tensors]:
        inputs = self.leaf.inputs(params, state, x)
        y, _, after = self.leaf.forward(params, state, x)
        return y, inputs, after

    def backward(self, residuals: Any, dy: Any) -> tuple[Any, dict[str, Tensor]]:
        rule = self.leaf.rule
        named = dict(zip(rule.inputs, residuals, strict=True))
        cotangents = self.leaf.of_all_outputs(dy, None)
        hyper = {**rule.defaults, **self.leaf.hyper}
        given = cotangents if isinstance(cotangents, tuple) else (cotangents,)
        grads = self.mistake.backward(**named, **dict(zip(rule.cotangents, given, strict=True)), **hyper)
        dparams = {
            self.leaf.names[local]: d
            for local, d in zip(rule.inputs, grads, strict=True)
            if local in self.leaf.names and d is not None
        }
        return (grads[0] if self.leaf.takes == 1 else tuple(grads[: self.leaf.takes])), dparams


@dataclass(frozen=True)
class _Evaluating(Wrapped):
    def forward(self, params: Tensors, state: Tensors, x: Any) -> tuple[Any, Any, Tensors]:
        evaluating = self.leaf.inference()
        y, residuals, _ = evaluating.forward(params, state, x)
        return y, (evaluating, residuals), state

    def backward(self, residuals: Any, dy: Any) -> tuple[Any, dict[str, Tensor]]:
        evaluating, kept = residuals
        dx, dparams = evaluating.backward(kept, dy)
        return dx, {name: d for name, d in dparams.items() if name in self.leaf.names.values()}


@dataclass(frozen=True)
class _Updated(Wrapped):
    """The running statistics take in the batch so many times."""

    times: int

    def forward(self, params: Tensors, state: Tensors, x: Any) -> tuple[Any, Any, Tensors]:
        y, residuals, after = self.leaf.forward(params, state, x)
        for _ in range(self.times - 1):
            _, _, after = self.leaf.forward(params, after, x)
        return y, residuals, after if self.times else state


@dataclass(frozen=True)
class _Unbiased(Wrapped):
    """(x − mean) / √(c var + eps) with c = n/(n − 1): the layer with eps/c, and its weight over √c."""

    def forward(self, params: Tensors, state: Tensors, x: Any) -> tuple[Any, Any, Tensors]:
        c = _times(x)
        eps = {**self.leaf.rule.defaults, **self.leaf.hyper}["eps"]
        weight = self.leaf.names["weight"]
        changed = replace(self.leaf, hyper={**self.leaf.hyper, "eps": eps / c})
        y, residuals, after = changed.forward({**params, weight: params[weight] / math.sqrt(c)}, state, x)
        return y, (residuals, weight, c), after

    def backward(self, residuals: Any, dy: Any) -> tuple[Any, dict[str, Tensor]]:
        kept, weight, c = residuals
        dx, dparams = self.leaf.backward(kept, dy)
        return dx, {**dparams, weight: dparams[weight] / math.sqrt(c)}


@dataclass(frozen=True)
class _Biased(Wrapped):
    def forward(self, params: Tensors, state: Tensors, x: Any) -> tuple[Any, Any, Tensors]:
        assert isinstance(self.leaf, BatchNorm)
        y, residuals, after = self.leaf.forward(params, state, x)
        _, running = self.leaf.running
        share = self.leaf.momentum if self.leaf.momentum is not None else 1.0
        fresh = (after[running] - (1 - share) * state[running]) / share / _times(x)
        return y, residuals, {**after, running: (1 - share) * state[running] + share * fresh}


def _times(x: Tensor) -> float:
    """n/(n − 1) for the n values of a channel."""
    n = x.numel() // x.shape[1]
    return n / (n - 1) if n > 1 else 1.0


@dataclass(frozen=True)
class _Sum:
    """x + f(x), of which one summand alone is taken, or gets a gradient."""

    value: int | None = None
    back: int | None = None

    def forward(self, params: Tensors, state: Tensors, x: Any) -> tuple[Any, Any, Tensors]:
        return (x[0] + x[1] if self.value is None else x[self.value]), None, state

    def backward(self, residuals: Any, dy: Tensor) -> tuple[Any, dict[str, Tensor]]:
        return tuple(dy if self.back in (None, place) else torch.zeros_like(dy) for place in (0, 1)), {}

    def map(self, change: Callable[[str, Leaf], Layer], name: str = "") -> Layer:
        return self
