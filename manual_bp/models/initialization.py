"""Initial weights by name, from an explicit generator (on the CPU, so that a seed means the same on every device)."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import MappingProxyType

import torch
from torch import Tensor

from manual_bp.chain import Activation, Identity

Shape = tuple[int, ...]
"""(outputs, inputs), or of a convolution (outputs, inputs, *taps)."""
Initializer = Callable[[Shape, torch.Generator], Tensor]


def reads(shape: Shape) -> int:
    """How many numbers an output is made of."""
    return math.prod(shape[1:])


def serves(shape: Shape) -> int:
    """In how many outputs an input has a part, where no border cuts windows off."""
    return shape[0] * math.prod(shape[2:])


def xavier(shape: Shape, generator: torch.Generator) -> Tensor:
    """Uniform in ±√(6 / (in + out)): keeps the variance of a and of delta about equal for tanh-like activations.

    Source: Glorot & Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS
    2010, eq. 16.
    """
    bound = math.sqrt(6 / max(reads(shape) + serves(shape), 1))
    return bound * (2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1)


def he(shape: Shape, generator: torch.Generator) -> Tensor:
    """Normal with variance 2 / in: the 2 makes up for the half that ReLU cuts off.

    Source: He et al., "Delving Deep into Rectifiers", ICCV 2015, eq. 10.
    """
    return math.sqrt(2 / max(reads(shape), 1)) * torch.randn(shape, generator=generator, dtype=torch.float64)


def suited_to(activation: Activation | Identity) -> str:
    """The initializer for the layers before an activation.

    "he" if far from 0 some of its inputs pass the gradient on and others do not or hardly do, as with ReLU and its
    relatives, or where only a winner does: He's weights make up for what is cut off.  "xavier" if both sides are alike.
    """
    if isinstance(activation, Identity):
        return "xavier"
    # Activations bend near 0, and are what they tend to be at ±20, where e^-20 = 2e-9.
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64)
    z = 20 * signs.repeat(activation.inputs_for(2))[None, : activation.inputs_for(2)]
    y, residuals = activation.rule.forward(z, **activation.hyper)
    (slope,) = activation.rule.backward(residuals, torch.ones_like(y))
    assert slope is not None
    passing = slope.abs() > slope.abs().max() / 2
    return "he" if bool(passing.any()) and not bool(passing.all()) else "xavier"


def normal(shape: Shape, generator: torch.Generator) -> Tensor:
    """Normal with standard deviation 0.02, whatever the shape, as transformers begin: every block adds little to x.

    Source: Radford et al., "Improving Language Understanding by Generative Pre-Training" (2018), section 4.1.
    """
    return 0.02 * torch.randn(shape, generator=generator, dtype=torch.float64)


INITIALIZERS = MappingProxyType({"xavier": xavier, "he": he, "normal": normal})
