"""Layers of one rule each.

A layer is a pair of pure functions.  Parameters and state are flat dictionaries of tensors; a layer picks the names
that it owns, and nothing is kept on the layer itself:

    forward(params, state, x)  -> y, residuals, state
    backward(residuals, dy)    -> dx, dparams

x and dx are tensors, or tuples of them where a layer takes several; dx is None where x is an index.  How layers are put
together: `manual_bp.chain`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from manual_bp import axes
from manual_bp.outputs import parts
from manual_bp.registry import RULES
from manual_bp.rule import Rule

Tensors = Mapping[str, Tensor]


@runtime_checkable  # so that annotations can be checked under test
class Layer(Protocol):
    """What `chain` composes."""

    def forward(self, params: Tensors, state: Tensors, x: Any) -> tuple[Any, Any, Tensors]: ...

    def backward(self, residuals: Any, dy: Any) -> tuple[Any, dict[str, Tensor]]: ...

    def map(self, change: Callable[[str, Leaf], Layer], name: str = "") -> Layer:
        """The same composition with every leaf replaced by `change(dotted name, leaf)`."""
        ...


@dataclass(frozen=True)
class Leaf:
    """A rule as a layer.

    rule: its first inputs are the layer's; the others are looked up by name.
    names: for each of those, its name in params (inputs with a cotangent) or in state (the others); what has no name is
        left out, as far as the rule allows.
    hyper: the rule's hyperparameters.
    shapes: the shape of each named tensor; a mask's lacks the batch axis.
    takes: so many inputs come from the layers before.
    Of a rule with several outputs the first is the layer's, and the others reach nobody.
    """

    rule: Rule
    names: Mapping[str, str] = field(default_factory=dict)
    hyper: Mapping[str, Any] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    takes: int = 1

    def forward(self, params: Tensors, state: Tensors, x: Any) -> tuple[Tensor, Any, Tensors]:
        y, residuals = self.rule.forward(*self.inputs(params, state, x), **self.hyper)
        return parts(y)[0], residuals, state

    def backward(self, residuals: Any, dy: Tensor) -> tuple[Any, dict[str, Tensor]]:
        grads = self.rule.backward(residuals, self.of_all_outputs(dy, None))
        named = zip(self.rule.inputs, grads, strict=True)
        dparams = {self.names[local]: d for local, d in named if local in self.names and d is not None}
        return (grads[0] if self.takes == 1 else grads[: self.takes]), dparams

    def of_all_outputs(self, first: Any, others: Any) -> Any:
        """What the rule gives or takes for all of its outputs, where there is `first` for the layer's own."""
        unused = len(self.rule.outputs) - 1
        return (first, *[others] * unused) if unused else first

    def inputs(self, params: Tensors, state: Tensors, x: Any) -> tuple[Tensor | None, ...]:
        """The rule's inputs: x, or several of them, and what is looked up by name."""
        given = x if isinstance(x, tuple) else (x,)
        return (*given, *(self._named(local, params, state) for local in list(self.rule.inputs)[self.takes :]))

    def _named(self, local: str, params: Tensors, state: Tensors) -> Tensor | None:
        """Raises ValueError if it is missing."""
        if local not in self.names and local in self.rule.absentable:
            return None
        name = self.names[local]
        if name in params or name in state:
            return params[name] if name in params else state[name]
        where, source = ("params", params) if self.rule.inputs[local].cotangent else ("state", state)
        remedy = "Put model.draw_masks(batch, generator) into the state." if local == "mask" else ""
        raise ValueError(f"{self.rule.name}: {where} must hold {name!r}; came {sorted(source)}. {remedy}".rstrip())

    @property
    def weights(self) -> list[str]:
        """The names of its matrices and filters."""
        own = (name for local, name in self.names.items() if local.startswith("weight"))
        return [name for name in own if len(self.shapes[name]) > 1]

    def initial(self) -> dict[str, Tensor]:
        """What the state holds of this layer before the first step, by name; masks are drawn for each step."""
        return {}

    def map(self, change: Callable[[str, Leaf], Layer], name: str = "") -> Layer:
        return change(name, self)

    def inference(self) -> Layer:
        """What stands here once training is over."""
        return self


def linear(inputs: int, outputs: int, *, weight: str = "weight", bias: str = "bias") -> Leaf:
    """z = x Wᵀ + b, with W and b under the given names."""
    return Leaf(RULES["linear"], {"weight": weight, "bias": bias}, shapes={weight: (outputs, inputs), bias: (outputs,)})


@dataclass(frozen=True)
class Activation(Leaf):
    """a = σ(z): a rule whose only input is x.

    units: the axis of z that counts units; of an image these are the channels.
    """

    units: int = -1

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

    def forward(self, params: Tensors, state: Tensors, x: Any) -> tuple[Any, Any, Tensors]:
        return x, None, state

    def backward(self, residuals: Any, dy: Any) -> tuple[Any, dict[str, Tensor]]:
        return dy, {}

    def map(self, change: Callable[[str, Leaf], Layer], name: str = "") -> Layer:
        return self


class Dropout(Leaf):
    """Dropout; the mask is drawn by the caller and comes in through the state."""

    def inference(self) -> Layer:
        return Identity()


def dropout(features: int | tuple[int, ...], p: float, *, mask: str = "mask") -> Dropout:
    """Dropout of a (batch, *features) tensor with the mask `state[mask]`."""
    shape = (features,) if isinstance(features, int) else features
    return Dropout(RULES["dropout"], {"mask": mask}, {"p": p}, {mask: shape})


@dataclass(frozen=True)
class BatchNorm(Leaf):
    """Batch normalisation that also keeps running statistics, for inference.

    They are those of the page running_statistics, of which momentum is the share of the new.  With momentum None each
    of the k batches so far counts alike: momentum is 1/k, and the state counts k in num_batches_tracked.  All as
    torch.nn.BatchNorm1d does.
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
        before = [state[name].detach() for name in self.running]
        after = RULES["running_statistics"].page.after_batch(*before, residuals.mean, residuals.variance, m, share)
        fresh = {name: x.to(state[name].dtype) for name, x in zip(self.running, after, strict=True)}
        return y, residuals, {**state, **fresh}

    def initial(self) -> dict[str, Tensor]:
        mean, var = self.running
        found = {mean: torch.zeros(self.shapes[mean]), var: torch.ones(self.shapes[var])}
        return found if self.momentum is not None else {**found, f"{self.prefix}{TRACKED}": torch.tensor(0)}

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
    return BatchNorm(RULES["batch_norm"], names, hyper, shapes, momentum=momentum, prefix=prefix)
