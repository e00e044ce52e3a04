"""Layers of sequences: x is (batch, positions, features), or the numbers of tokens, (batch, positions)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manual_bp.axes import Sizes, bind, shape_of
from manual_bp.chain import Layer, Leaf, Moved, Tensors, joined
from manual_bp.inputs import require
from manual_bp.registry import RULES


def embedding(entries: int, features: int, *, weight: str = "weight") -> Leaf:
    """A row of a table for each number; x is an index and has no cotangent."""
    return Leaf(RULES["embedding"], {"weight": weight}, shapes={weight: (entries, features)})


def places(context: int) -> Moved:
    """The number of each position in place of its token: what a table of `context` positions looks up."""

    def numbered(tokens: Tensor) -> Tensor:
        _check_length(tokens.shape[-1], context)
        return torch.arange(tokens.shape[-1], device=tokens.device).expand(tokens.shape)

    return Moved(numbered, lambda dy: dy)


def _check_length(positions: int, context: int) -> None:
    must = f"a sequence must have at most {context} positions, the context"
    require(positions <= context, must, positions, "Pass the last ones alone.")


def heads(number: int) -> Moved:
    """(batch, positions, heads · width) -> (batch, heads, positions, width): consecutive features are a head."""
    return Moved(lambda x: _split(x, number), _merged)


def merged(number: int) -> Moved:
    """Heads side by side again."""
    return Moved(_merged, lambda dy: _split(dy, number))


def swapped() -> Moved:
    """(batch, positions, features) -> (positions, batch, features), as recurrent layers take them, or back again."""
    return Moved(lambda x: x.transpose(0, 1), lambda dy: dy.transpose(0, 1))


def classes_first() -> Moved:
    """(batch, positions, classes) -> (batch, classes, positions), as a loss takes them."""
    return Moved(lambda x: x.transpose(1, -1), lambda dy: dy.transpose(1, -1))


def _split(x: Tensor, number: int) -> Tensor:
    return x.reshape(*x.shape[:-1], number, x.shape[-1] // number).transpose(-3, -2)


def _merged(x: Tensor) -> Tensor:
    return x.transpose(-3, -2).flatten(-2)


def causal_attention(q: Layer, k: Layer, v: Layer) -> Layer:
    """softmax(q kᵀ/√width) v of what three branches make of one x, each position looking at itself and those before."""
    return joined("scaled_dot_product_attention", {"q": q, "k": k, "v": v}, causal=True)


class WithoutBias(Leaf):
    """z = x Wᵀ: the rule with 0 for its bias, which is no parameter and for whose cotangent nobody asks."""

    def inputs(self, params: Tensors, state: Tensors, x: Any) -> tuple[Tensor | None, ...]:
        weight = params[self.names["weight"]]
        return x, weight, torch.zeros(weight.shape[0], dtype=weight.dtype, device=weight.device)


def linear_without_bias(inputs: int, outputs: int, *, weight: str = "weight") -> WithoutBias:
    """z = x Wᵀ, with W under the given name; a table of embeddings may be this W as well."""
    return WithoutBias(RULES["linear"], {"weight": weight}, shapes={weight: (outputs, inputs)})


class FromRest(Leaf):
    """A recurrent rule whose states begin at 0: they are no parameters, and nobody asks for their cotangents."""

    def inputs(self, params: Tensors, state: Tensors, x: Any) -> tuple[Tensor | None, ...]:
        _, hidden = self.shapes[self.names["weight_hh"]]
        rest = torch.zeros(x.shape[1], hidden, dtype=x.dtype, device=x.device)
        _, *others = self.rule.inputs
        return (x, *(params[self.names[local]] if local in self.names else rest for local in others))


def recurrent(cell: str, features: int, hidden: int, *, prefix: str = "", **hyper: Any) -> FromRest:
    """The states y of a recurrent rule over x, (time, batch, features), from a state of 0.

    The parameters have torch's names for a module of one layer: `<prefix>weight_ih_l0`, `<prefix>weight_hh_l0`,
    `<prefix>bias_ih_l0`, `<prefix>bias_hh_l0`.
    """
    rule = RULES[cell]
    rule.check_hyper(hyper)
    locals_ = [local for local in rule.inputs if local.startswith(("weight", "bias"))]
    names = {local: f"{prefix}{local}_l0" for local in locals_}
    sizes: Sizes = {}
    state = {"x": (1, 1, features), "h0": (1, hidden)}
    bind(rule.annotations, state, sizes, rule.check_hyper(hyper))
    shapes = {names[local]: shape_of(rule.annotations[local], sizes, hyper) for local in locals_}
    return FromRest(rule, names, hyper, shapes)


@dataclass(frozen=True)
class Rotary(Leaf):
    """Rotary embedding with the usual angles: position p turns the i-th of n pairs by p base^(-i/n).

    The table of cosines and sines is state that never changes; what there is of it for later positions is left out.
    """

    base: float = 10000.0

    def inputs(self, params: Tensors, state: Tensors, x: Any) -> tuple[Tensor | None, ...]:
        _, cos, sin = super().inputs(params, state, x)
        assert cos is not None
        assert sin is not None
        positions = x.shape[-2]
        _check_length(positions, len(cos))
        return x, cos[:positions], sin[:positions]

    def backward(self, residuals: Any, dy: Tensor) -> tuple[Any, dict[str, Tensor]]:
        dx, _ = super().backward(residuals, dy)
        return dx, {}

    def initial(self) -> dict[str, Tensor]:
        cos, sin = self.names["cos"], self.names["sin"]
        positions, pairs = self.shapes[cos]
        rates = self.base ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
        angles = torch.arange(positions, dtype=torch.float64)[:, None] * rates
        return {cos: torch.cos(angles), sin: torch.sin(angles)}


def rotary(positions: int, width: int, *, prefix: str = "", base: float = 10000.0) -> Rotary:
    """Rotary embedding of rows of that width with the state `<prefix>cos` and `<prefix>sin`, which layers share."""
    names = {"cos": f"{prefix}cos", "sin": f"{prefix}sin"}
    shapes = dict.fromkeys(names.values(), (positions, width // 2))
    return Rotary(RULES["rotary_embedding"], names, {"layout": "halves"}, shapes, base=base)
