"""A tape of what passed each layer: the tensors themselves, their gradients retained."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from torch_ref.functions import function

# Inputs to one unit, at most: more than anybody's maxout has.
MOST_PIECES = 64


class Tape:
    """Called with a dotted layer name, the letter of a quantity, and the tensor."""

    def __init__(self) -> None:
        self.tensors: dict[str, dict[str, Tensor]] = {}

    def __call__(self, layer: str, letter: str, tensor: Tensor) -> Tensor:
        if tensor.requires_grad:
            tensor.retain_grad()
        self.tensors.setdefault(layer, {})[letter] = tensor
        return tensor


def ignore(layer: str, letter: str, tensor: Tensor) -> Tensor:
    return tensor


def activation_of(name: str, hyper: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    """torch's function for a rule's name."""
    if name == "identity":
        return nn.Identity()
    found = function(name)
    if found is None:
        raise ValueError(f"torch has no twin for the activation {name!r}; write torch_ref/twins/{name}.py.")
    return lambda x: found(x, **hyper)


def width_before(name: str, hyper: dict[str, Any], units: int) -> int:
    """How wide the layer before an activation must be, as torch's function has it: `units`, or a multiple of that."""
    found = activation_of(name, hyper)
    for width in range(units, MOST_PIECES * units + 1, units):
        with suppress(RuntimeError):  # of a width that it cannot split
            if found(torch.zeros(1, width)).shape[-1] == units:
                return width
    raise ValueError(f"torch's {name} gives {units} units for none of up to {MOST_PIECES} times as many inputs.")
