"""Initial weights by name, from an explicit generator (on the CPU, so that a seed means the same on every device)."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import MappingProxyType

import torch
from torch import Tensor

Initializer = Callable[[tuple[int, int], torch.Generator], Tensor]


def xavier(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Uniform in ±√(6 / (in + out)): keeps the variance of a and of delta about equal for tanh-like activations.

    Source: Glorot & Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS
    2010, eq. 16.
    """
    outputs, inputs = shape
    bound = math.sqrt(6 / max(inputs + outputs, 1))
    return bound * (2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1)


def he(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Normal with variance 2 / in: the 2 makes up for the half that ReLU cuts off.

    Source: He et al., "Delving Deep into Rectifiers", ICCV 2015, eq. 10.
    """
    _, inputs = shape
    return math.sqrt(2 / max(inputs, 1)) * torch.randn(shape, generator=generator, dtype=torch.float64)


INITIALIZERS = MappingProxyType({"xavier": xavier, "he": he})
