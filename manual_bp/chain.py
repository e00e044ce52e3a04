"""Compositions: layers made of layers, and what passes them.

`chain` puts layers one after another, `joined` lets one x feed several branches whose results a rule takes, and
`residual` is the sum of x and f(x); so a model is a layer, and its tape is the nested residuals.  A parameter that
several layers use has one name, and gets the sum of its cotangents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import Tensor

from manual_bp.layers import (
    TRACKED,
    Activation,
    BatchNorm,
    Dropout,
    Identity,
    Layer,
    Leaf,
    Tensors,
    activation,
    batch_norm,
    dropout,
    fits_activation,
    linear,
)
from manual_bp.losses import Loss
from manual_bp.registry import RULES
from manual_bp.through_time import carried

__all__ = [
    "TRACKED",
    "WEIGHTED",
    "Activation",
    "BatchNorm",
    "Chain",
    "Dropout",
    "Identity",
    "Joined",
    "Layer",
    "Leaf",
    "Moved",
    "Tensors",
    "Visit",
    "activation",
    "batch_norm",
    "chain",
    "dropout",
    "fits_activation",
    "inference",
    "joined",
    "leaves",
    "linear",
    "probe",
    "residual",
    "takers",
    "trace",
]


@dataclass(frozen=True)
class Chain:
    """Layers one after another."""

    layers: Mapping[str, Layer]

    def forward(self, params: Tensors, state: Tensors, x: Any) -> tuple[Any, Any, Tensors]:
        tape = []
        for layer in self.layers.values():
            x, residuals, state = layer.forward(params, state, x)
            tape.append(residuals)
        return x, tuple(tape), state

    def backward(self, residuals: Any, dy: Any) -> tuple[Any, dict[str, Tensor]]:
        dparams: dict[str, Tensor] = {}
        for layer, kept in reversed(list(zip(self.layers.values(), residuals, strict=True))):
            dy, found = layer.backward(kept, dy)
            dparams = summed(dparams, found)
        return dy, dparams

    def map(self, change: Callable[[str, Leaf], Layer], name: str = "") -> Layer:
        return Chain({child: layer.map(change, dotted(name, child)) for child, layer in self.layers.items()})


@dataclass(frozen=True)
class Joined:
    """y = g(f₁(x), f₂(x), ...): one x feeds several branches, whose results are the inputs of one rule.

    x reaches the cost through every branch, so dx is the sum of what they bring back.
    """

    join: Layer
    branches: Mapping[str, Layer]

    def forward(self, params: Tensors, state: Tensors, x: Any) -> tuple[Tensor, Any, Tensors]:
        results, tape = [], []
        for branch in self.branches.values():
            result, residuals, state = branch.forward(params, state, x)
            results.append(result)
            tape.append(residuals)
        y, residuals, state = self.join.forward(params, state, tuple(results))
        return y, (tuple(tape), residuals), state

    def backward(self, residuals: Any, dy: Tensor) -> tuple[Any, dict[str, Tensor]]:
        tape, kept_by_join = residuals
        cotangents, dparams = self.join.backward(kept_by_join, dy)
        dx = None
        for branch, kept, cotangent in zip(self.branches.values(), tape, cotangents, strict=True):
            brought_back, found = branch.backward(kept, cotangent)
            dx = brought_back if dx is None else dx + brought_back
            dparams = summed(dparams, found)
        return dx, dparams

    def map(self, change: Callable[[str, Leaf], Layer], name: str = "") -> Layer:
        branches = {child: branch.map(change, dotted(name, child)) for child, branch in self.branches.items()}
        return Joined(self.join.map(change, name), branches)


@dataclass(frozen=True)
class Moved:
    """y holds the numbers of x in other places, and dx those of dy brought back.

    Nothing is computed, so there is no rule to judge, and no place in a trace.
    """

    there: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]

    def forward(self, params: Tensors, state: Tensors, x: Tensor) -> tuple[Tensor, Any, Tensors]:
        return self.there(x), None, state

    def backward(self, residuals: Any, dy: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.back(dy), {}

    def map(self, change: Callable[[str, Leaf], Layer], name: str = "") -> Layer:
        return self


def chain(**layers: Layer) -> Chain:
    """Layers one after another, by name.

    >>> from manual_bp.chain import activation, chain, linear
    >>> list(chain(linear1=linear(4, 3), relu1=activation("relu"), linear2=linear(3, 2)).layers)
    ['linear1', 'relu1', 'linear2']
    """
    return Chain(layers)


def joined(rule: str, branches: Mapping[str, Layer], **hyper: Any) -> Joined:
    """y = rule(f₁(x), f₂(x), ...), the branches by name, in the order of the rule's inputs.

    In a composition y has the name of the whole, and what is in a branch a name under it; of a branch without a name
    ("") directly.
    """
    return Joined(Leaf(RULES[rule], hyper=hyper, takes=len(branches)), branches)


def residual(f: Layer) -> Joined:
    """y = x + f(x), hence dx = dy + f's dx: the cotangent always has one way that no layer can shrink."""
    return joined("add", {"x": Identity(), "": f})


def dotted(name: str, child: str) -> str:
    """The name of a part of what has a name; either may have none."""
    return ".".join(part for part in (name, child) if part)


def summed(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A parameter that both use gets the sum of both cotangents."""
    return {**first, **{name: first[name] + d if name in first else d for name, d in second.items()}}


def leaves(layer: Layer) -> dict[str, Leaf]:
    """Every leaf of a composition by its dotted name, in the order of computation."""
    found: dict[str, Leaf] = {}

    def note(name: str, leaf: Leaf) -> Layer:
        found[name] = leaf
        return leaf

    layer.map(note)
    return found


def takers(layer: Layer) -> dict[str, list[str]]:
    """By leaf, the leaves that take its result, whose dx add up to its dy; none take the output of the whole."""
    found: dict[str, list[str]] = {}

    def visit(layer: Layer, name: str, after: list[str]) -> list[str]:
        """after: what takes the layer's result.  Returns what takes its input."""
        if isinstance(layer, Chain):
            for child, inner in reversed(list(layer.layers.items())):
                after = visit(inner, dotted(name, child), after)
        elif isinstance(layer, Joined):
            visit(layer.join, name, after)
            after = [t for child, branch in layer.branches.items() for t in visit(branch, dotted(name, child), [name])]
        elif isinstance(layer, Leaf):
            found[name] = after
            after = [name]
        return after

    visit(layer, "", [])
    return found


def inference(layer: Layer) -> Layer:
    """The same composition as it is used after training: running statistics, no dropout."""
    return layer.map(lambda _, leaf: leaf.inference())


WEIGHTED = ("linear", "convolution")
"""The rules whose result is the z of the course notes, made of a by W and b."""


@dataclass
class Visit:
    """What passed one leaf, on the way there and back."""

    leaf: Leaf
    inputs: tuple[Tensor | None, ...]
    y: Tensor
    dy: Tensor | None = None
    dx: Any = None
    dparams: dict[str, Tensor] = field(default_factory=dict)

    def quantities(self) -> dict[str, Tensor]:
        """By the letters of the course notes.

        linear and convolution: z, delta (the cotangent of z), dW, db.  An activation: a, da.  Others: y, dy and
        d<parameter>.
        """
        assert self.dy is not None
        local = {f"d{local}": self.dparams[name] for local, name in self.leaf.names.items() if name in self.dparams}
        if self.leaf.rule.name in WEIGHTED:
            letters = {"dW": "dweight", "db": "dbias"}
            found = {letter: local[name] for letter, name in letters.items() if name in local}
            return {"z": self.y, "delta": self.dy, **found}
        if isinstance(self.leaf, Activation):
            return {"a": self.y, "da": self.dy}
        return {"y": self.y, "dy": self.dy, **local}

    def through_time(self) -> dict[str, Tensor]:
        """Of a recurrent layer what reaches the states that each step reads; else empty."""
        assert self.dy is not None
        return carried(self.leaf.rule, self.inputs, self.dy, self.leaf.hyper)


@dataclass(frozen=True)
class _Probe:
    """A leaf that notes down what passes it; `runs` is what computes: the leaf itself, or a stand-in for it."""

    name: str
    leaf: Leaf
    log: dict[str, Visit]
    runs: Layer

    def forward(self, params: Tensors, state: Tensors, x: Any) -> tuple[Tensor, Any, Tensors]:
        state_before = state
        y, residuals, state = self.runs.forward(params, state, x)
        self.log[self.name] = Visit(self.leaf, self.leaf.inputs(params, state_before, x), y)
        return y, residuals, state

    def backward(self, residuals: Any, dy: Tensor) -> tuple[Any, dict[str, Tensor]]:
        dx, dparams = self.runs.backward(residuals, dy)
        visit = self.log[self.name]
        visit.dy, visit.dx, visit.dparams = dy, dx, dparams
        return dx, dparams

    def map(self, change: Callable[[str, Leaf], Layer], name: str = "") -> Layer:
        return change(name, self.leaf)


def probe(layer: Layer, stand_in: Callable[[Leaf], Layer] | None = None) -> tuple[Layer, dict[str, Visit]]:
    """The same composition, which also fills a log of visits (in forward order) each time it is run there and back.

    stand_in: what computes in place of each leaf.
    """
    log: dict[str, Visit] = {}
    return layer.map(lambda name, leaf: _Probe(name, leaf, log, stand_in(leaf) if stand_in else leaf)), log


def trace(
    layer: Layer,
    params: Tensors,
    state: Tensors,
    x: Tensor,
    target: Tensor,
    loss: str = "square_loss",
    loss_hyper: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, dict[str, Tensor]]:
    """Run there and back, and expose z, a, delta, dW, db of every layer by its dotted name.

    x: (batch, features), or the numbers of tokens, (batch, positions); target: what the loss takes, of square_loss
    shaped like the output.  `delta` is the cotangent of z for the batch's mean cost, so it contains the 1/n.  Of a
    recurrent layer there are also dh0 and dc0, (time, batch, hidden): of the states that each step reads, what comes
    back from its last output (`manual_bp.through_time`).
    Raises ValueError for a target that does not fit the output.
    """
    probed, log = probe(layer)
    y, residuals, _ = probed.forward(params, state, x)
    _, dy = Loss(loss, loss_hyper).vjp(y, target)
    probed.backward(residuals, dy)
    return {name: {**visit.quantities(), **visit.through_time()} for name, visit in log.items()}
