"""Layers of images: x is (batch, channels, height, width)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from torch import Tensor

from manual_bp import chain
from manual_bp.chain import Identity, Layer, Leaf, Moved
from manual_bp.inputs import require
from manual_bp.registry import RULES

Shape = tuple[int, int, int]
"""channels, height, width: one example."""


def convolution(
    channels: int, filters: int, kernel: int, *, prefix: str = "", stride: int = 1, padding: int = 0, bias: bool = True
) -> Leaf:
    """z = W ∗ x + b with kernel x kernel taps, W and b under `<prefix>weight` and `<prefix>bias`."""
    names = {"weight": f"{prefix}weight"}
    shapes: dict[str, tuple[int, ...]] = {names["weight"]: (filters, channels, kernel, kernel)}
    if bias:
        names["bias"] = f"{prefix}bias"
        shapes[names["bias"]] = (filters,)
    return Leaf(RULES["convolution"], names, {"stride": stride, "padding": padding}, shapes)


def activation(name: str, **hyper: Any) -> Layer:
    """a = σ(z) of every number by itself; a channel is what is called a unit.

    Raises ValueError for a rule that takes several numbers at once: it would take neighbours in a row.
    """
    found = chain.activation(name, **hyper)
    if isinstance(found, Identity):
        return found
    must = "activation: of an image each number must have its own"
    require(found.rule.elementwise, must, repr(name), "Choose another rule, such as 'relu'.")
    return replace(found, units=1)


def pool(kind: str, kernel: int | tuple[int, int]) -> Leaf:
    """The largest ("max") or the mean ("avg") of every window; windows lie side by side."""
    return Leaf(RULES[f"{kind}_pool"], hyper={"kernel": kernel})


def flattened(shape: Shape) -> Moved:
    """(batch, channels, height, width) -> (batch, features), as a linear layer takes them."""

    def back(dy: Tensor) -> Tensor:
        return dy.reshape(len(dy), *shape)

    return Moved(lambda x: x.reshape(len(x), math.prod(shape)), back)
