"""The largest number along an axis, and how far the others lie below it; rows in which it is easily missed."""

import torch
from torch import Tensor

from manual_bp.inputs import Shape, normal


def largest(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The place of the largest number along an axis, of several equal ones the first: as an index, whose axis has
    length 1 (0 if there is no number), and as a mask of x's shape."""
    positions = torch.arange(x.shape[dim], device=x.device).reshape(-1, *(1,) * (x.ndim - 1 - dim % x.ndim))
    if x.shape[dim]:
        place = torch.argmax(x, dim, keepdim=True)  # documented to be the first of several maxima
    else:
        place = torch.zeros(x.shape, dtype=torch.int64, device=x.device)
    return place, positions == place


def below_largest(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """x minus its largest number along an axis, and the mask that says where that one is.

    Its own distance is 0 without a rounding, or NaN if it is infinite.
    """
    fixed = x.detach()  # whichever of several equal ones is taken, the distances are the same
    place, is_largest = largest(fixed, dim)
    distance = x - torch.gather(x, dim, place)
    return torch.where(is_largest & torch.isfinite(fixed), 0, distance), is_largest


def half_masked(shape: Shape, generator: torch.Generator) -> Tensor:
    """Nothing but −∞ in the first half of each row."""
    x = normal()(shape, generator)
    return torch.where(torch.arange(shape[-1]) < shape[-1] // 2, -torch.inf, x)


def rising_late(shape: Shape, generator: torch.Generator) -> Tensor:
    """A row whose end is so much larger than all before that who has not seen it has an overflow."""
    x = normal()(shape, generator)
    return torch.where(torch.arange(shape[-1]) < shape[-1] - 3, x, x + 1000)
