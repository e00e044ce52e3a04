"""Layers: rules lifted so that they compose.

A layer is a pair of pure functions.  Parameters and state are flat dictionaries of tensors; a layer picks the names
that it owns, and nothing is kept on the layer itself:

    forward(params, state, x)  -> y, residuals, state
    backward(residuals, dy)    -> dx, dparams

`chain` and `residual` make layers out of layers, so a model is a layer, and its tape is the nested residuals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from manual_bp import axes
from manual_bp.losses import Loss
from manual_bp.registry import RULES
from manual_bp.rule import Rule

Tensors = Mapping[str, Tensor]


@runtime_checkable  # so that annotations can be checked under test
class Layer(Protocol):
    """What `chain` composes."""

    def forward(self, params: Tensors, state: Tensors, x: Tensor) -> tuple[Tensor, Any, Tensors]: ...

    def backward(self, residuals: Any, dy: Tensor) -> tuple[Tensor, dict[str, Tensor]]: ...

    def map(self, change: Callable[[str, Leaf], Layer], name: str = "") -> Layer:
        """The same composition with every leaf replaced by `change(dotted name, leaf)`."""
        ...


@dataclass(frozen=True)
class Leaf:
    """A rule as a layer.

    rule: its first input is the layer's input; the others are looked up by name.
    names: for each other input of the rule, its name in params (inputs with a cotangent) or in state (the others).
    hyper: the rule's hyperparameters.
    shapes: the shape of each named tensor; a mask's lacks the batch axis.
    """

    rule: Rule
    names: Mapping[str, str] = field(default_factory=dict)
    hyper: Mapping[str, Any] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def forward(self, params: Tensors, state: Tensors, x: Tensor) -> tuple[Tensor, Any, Tensors]:
        y, residuals = self.rule.forward(x, *self.others(params, state), **self.hyper)
        return y, residuals, state

    def backward(self, residuals: Any, dy: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        dx, *others = self.rule.backward(residuals, dy)
        assert dx is not None
        locals_ = list(self.rule.inputs)[1:]
        return dx, {self.names[local]: d for local, d in zip(locals_, others, strict=True) if d is not None}

    def others(self, params: Tensors, state: Tensors) -> list[Tensor]:
        """The rule's inputs beside x, in its order: parameters if they have a cotangent, else state.

        Raises ValueError if one is missing.
        """
        found = []
        for local in list(self.rule.inputs)[1:]:
            where, source = ("params", params) if self.rule.inputs[local].cotangent else ("state", state)
            name = self.names[local]
            if name not in source:
                remedy = "Put model.draw_masks(batch, generator) into the state." if local == "mask" else ""
                raise ValueError(
                    f"{self.rule.name}: {where} must hold {name!r}; came {sorted(source)}. {remedy}".rstrip()
                )
            found.append(source[name])
        return found

    def map(self, change: Callable[[str, Leaf], Layer], name: str = "") -> Layer:
        return change(name, self)

    def inference(self) -> Layer:
        """What stands here once training is over."""
        return self


@dataclass(frozen=True)
class Chain:
    """Layers one after another."""

    layers: Mapping[str, Layer]

    def forward(self, params: Tensors, state: Tensors, x: Tensor) -> tuple[Tensor, Any, Tensors]:
        tape = []
        for layer in self.layers.values():
            x, residuals, state = layer.forward(params, state, x)
            tape.append(residuals)
        return x, tuple(tape), state

    def backward(self, residuals: Any, dy: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        dparams: dict[str, Tensor] = {}
        for layer, kept in reversed(list(zip(self.layers.values(), residuals, strict=True))):
            dy, found = layer.backward(kept, dy)
            for name, d in found.items():  # a parameter used twice gets the sum of both
                dparams[name] = dparams[name] + d if name in dparams else d
        return dy, dparams

    def map(self, change: Callable[[str, Leaf], Layer], name: str = "") -> Layer:
        prefix = f"{name}." if name else ""
        return Chain({child: layer.map(change, prefix + child) for child, layer in self.layers.items()})


@dataclass(frozen=True)
class Residual:
    """y = x + f(x), hence dx = dy + f's dx: the cotangent always has one way that no layer can shrink."""

    f: Layer

    def forward(self, params: Tensors, state: Tensors, x: Tensor) -> tuple[Tensor, Any, Tensors]:
        y, residuals, state = self.f.forward(params, state, x)
        if y.shape != x.shape:
            raise ValueError(
                f"residual: f must keep the shape, as y = x + f(x) broadcasts nothing; came x {tuple(x.shape)}, "
                f"f(x) {tuple(y.shape)}. Make the block as wide as its input."
            )
        return x.detach() + y, residuals, state

    def backward(self, residuals: Any, dy: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        dx, dparams = self.f.backward(residuals, dy)
        return dy.detach() + dx, dparams

    def map(self, change: Callable[[str, Leaf], Layer], name: str = "") -> Layer:
        return Residual(self.f.map(change, name))


def chain(**layers: Layer) -> Chain:
    """Layers one after another, by name.

    >>> from manual_bp.chain import activation, chain, linear
    >>> list(chain(linear1=linear(4, 3), relu1=activation("relu"), linear2=linear(3, 2)).layers)
    ['linear1', 'relu1', 'linear2']
    """
    return Chain(layers)


def residual(f: Layer) -> Residual:
    """y = x + f(x)."""
    return Residual(f)


def linear(inputs: int, outputs: int, *, weight: str = "weight", bias: str = "bias") -> Leaf:
    """z = x Wᵀ + b, with W and b under the given names."""
    return Leaf(RULES["linear"], {"weight": weight, "bias": bias}, shapes={weight: (outputs, inputs), bias: (outputs,)})


class Activation(Leaf):
    """a = σ(z): a rule whose only input is x."""

    def inputs_for(self, units: int) -> int:
        """How wide z must be for a to have so many units, as the page's annotations say."""
        sizes: axes.Sizes = {}
        hyper = self.rule.check_hyper(self.hyper)
        if wrong := axes.bind({"y": self.rule.y_annotation}, {"y": (1, units)}, sizes, hyper):
            raise ValueError(f"activation: {self.rule.name} must give (batch, units); {wrong}. Choose another rule.")
        return axes.shape_of(self.rule.annotations["x"], sizes, hyper)[-1]


def fits_activation(rule: Rule) -> bool:
    """Whether a rule can stand between layers: one input, x, and one output with some of its axes, whatever the
    rule's chapter."""
    only_x = list(rule.inputs) == ["x"] and rule.is_number("x") and rule.has_backward
    if not only_x or rule.outputs != ("y",):
        return False
    own = axes.axis_names([rule.y_annotation], rule.hyper)
    return bool(own) and own.keys() <= rule.axis_names.keys()


def activation(name: str, **hyper: Any) -> Activation | Identity:
    """a = σ(z) with a rule of one input, x, whatever its chapter; "identity" is nothing at all.

    Raises ValueError for a rule of other inputs, and for hyperparameters that it does not take or lacks.
    """
    if name == "identity":
        if hyper:
            raise ValueError(f"activation: identity takes no hyperparameters; came {sorted(hyper)}.")
        return Identity()
    rule = RULES[name]
    if not fits_activation(rule):
        raise ValueError(
            f"activation: a rule of one input, x, with a value for each unit is due; came {name!r}, which takes "
            f"{list(rule.inputs)}. Make a layer of your own for it: a pair of functions (manual_bp.chain.Layer)."
        )
    rule.check_hyper(hyper)
    return Activation(rule, hyper=hyper)


class Identity:
    """y = x: an output without activation, and dropout once training is over."""

    def inputs_for(self, units: int) -> int:
        return units

    def forward(self, params: Tensors, state: Tensors, x: Tensor) -> tuple[Tensor, Any, Tensors]:
        return x, None, state

    def backward(self, residuals: Any, dy: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return dy, {}

    def map(self, change: Callable[[str, Leaf], Layer], name: str = "") -> Layer:
        return self


class Dropout(Leaf):
    """Dropout; the mask is drawn by the caller and comes in through the state."""

    def inference(self) -> Layer:
        return Identity()


def dropout(features: int, p: float, *, mask: str = "mask") -> Dropout:
    """Dropout of a (batch, features) tensor with the mask `state[mask]`."""
    return Dropout(RULES["dropout"], {"mask": mask}, {"p": p}, {mask: (features,)})


@dataclass(frozen=True)
class BatchNorm(Leaf):
    """Batch normalisation that also keeps running statistics, for inference.

    running ← (1 − momentum) running + momentum (statistic of the batch); the running variance takes the unbiased
    variance, while the normalisation uses the biased one.  With momentum None each of the k batches so far counts
    alike: momentum is 1/k, and the state counts k in num_batches_tracked.  All as torch.nn.BatchNorm1d does.
    """

    momentum: float | None = 0.1
    prefix: str = ""

    @property
    def running(self) -> tuple[str, str]:
        return f"{self.prefix}running_mean", f"{self.prefix}running_var"

    def forward(self, params: Tensors, state: Tensors, x: Tensor) -> tuple[Tensor, Any, Tensors]:
        y, residuals, state = super().forward(params, state, x)
        share: float | Tensor
        if self.momentum is None:
            tracked = f"{self.prefix}{TRACKED}"
            k = state[tracked] + 1
            state = {**state, tracked: k}
            share = 1 / k.to(residuals.mean.dtype)
        else:
            share = self.momentum
        m = x.numel() // max(x.shape[1], 1)
        if m == 0:
            return y, residuals, state
        unbiased = residuals.variance * (m / (m - 1))
        fresh = {
            name: ((1 - share) * state[name].detach() + share * statistic).to(state[name].dtype)
            for name, statistic in zip(self.running, (residuals.mean, unbiased), strict=True)
        }
        return y, residuals, {**state, **fresh}

    def inference(self) -> Layer:
        mean, var = self.running
        names = {**self.names, "running_mean": mean, "running_var": var}
        return Leaf(RULES["batch_norm_inference"], names, self.hyper, self.shapes)


TRACKED = "num_batches_tracked"
"""The state that counts batches: an integer, as in torch."""


def batch_norm(channels: int, *, prefix: str = "", momentum: float | None = 0.1, **hyper: Any) -> BatchNorm:
    """Batch normalisation with parameters `<prefix>weight`, `<prefix>bias` and state `<prefix>running_mean`, `_var`.

    momentum: the share of the newest batch in the running statistics; None for the average over all batches, which
        also counts them in the state `<prefix>num_batches_tracked`.
    """
    names = {"weight": f"{prefix}weight", "bias": f"{prefix}bias"}
    shapes: dict[str, tuple[int, ...]] = {
        f"{prefix}{n}": (channels,) for n in ("weight", "bias", "running_mean", "running_var")
    }
    if momentum is None:
        shapes[f"{prefix}{TRACKED}"] = ()
    return BatchNorm(RULES["batch_norm"], names, hyper, shapes, momentum, prefix)


def leaves(layer: Layer) -> dict[str, Leaf]:
    """Every leaf of a composition by its dotted name, from input to output."""
    found: dict[str, Leaf] = {}

    def note(name: str, leaf: Leaf) -> Layer:
        found[name] = leaf
        return leaf

    layer.map(note)
    return found


def inference(layer: Layer) -> Layer:
    """The same composition as it is used after training: running statistics, no dropout."""
    return layer.map(lambda _, leaf: leaf.inference())


@dataclass
class Visit:
    """What passed one leaf, on the way there and back."""

    leaf: Leaf
    inputs: tuple[Tensor, ...]
    y: Tensor
    dy: Tensor | None = None
    dx: Tensor | None = None
    dparams: dict[str, Tensor] = field(default_factory=dict)

    def quantities(self) -> dict[str, Tensor]:
        """By the letters of the course notes.

        linear: z, delta (the cotangent of z), dW, db.  An activation: a, da.  Others: y, dy and d<parameter>.
        """
        assert self.dy is not None
        local = {f"d{local}": self.dparams[name] for local, name in self.leaf.names.items() if name in self.dparams}
        if self.leaf.rule.name == "linear":
            return {"z": self.y, "delta": self.dy, "dW": local["dweight"], "db": local["dbias"]}
        if isinstance(self.leaf, Activation):
            return {"a": self.y, "da": self.dy}
        return {"y": self.y, "dy": self.dy, **local}


@dataclass(frozen=True)
class _Probe:
    """A leaf that notes down what passes it; `runs` is what computes: the leaf itself, or a stand-in for it."""

    name: str
    leaf: Leaf
    log: dict[str, Visit]
    runs: Layer

    def forward(self, params: Tensors, state: Tensors, x: Tensor) -> tuple[Tensor, Any, Tensors]:
        state_before = state
        y, residuals, state = self.runs.forward(params, state, x)
        self.log[self.name] = Visit(self.leaf, (x, *self.leaf.others(params, state_before)), y)
        return y, residuals, state

    def backward(self, residuals: Any, dy: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
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

    x: (batch, features); target: what the loss takes, of square_loss shaped like the output.  `delta` is the cotangent
    of z for the batch's mean cost, so it contains the 1/n.
    Raises ValueError for a target that does not fit the output.
    """
    probed, log = probe(layer)
    y, residuals, _ = probed.forward(params, state, x)
    _, dy = Loss(loss, loss_hyper).vjp(y, target)
    probed.backward(residuals, dy)
    return {name: visit.quantities() for name, visit in log.items()}
