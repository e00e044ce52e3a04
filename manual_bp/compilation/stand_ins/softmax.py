"""Softmax of a compiled program: the page's formulas without the place of the largest number.

A search for a place takes a compiled loop twice the time of a search for a value, and the mask made of it is one of
64-bit integers: 2048 x 512 took twice as long as torch's.  Of finite numbers m − m is 0 without a rounding wherever it
stands; and the one y that needs a formula of its own in backward is the one above 1/2, of which there is one at most.
"""

from __future__ import annotations

import torch
from torch import Tensor

from manual_bp.rules.activation import softmax as page


def forward(x: Tensor, *, dim: int = -1) -> tuple[Tensor, page.Residuals]:
    if x.numel() == 0 or not -x.ndim <= dim < x.ndim:
        return page.forward(x, dim=dim)
    e = torch.exp(x - torch.amax(x, dim, keepdim=True))
    y = e / torch.sum(e, dim, keepdim=True)
    return y, page.Residuals(y, dim)


def backward(residuals: page.Residuals, dy: Tensor) -> tuple[Tensor]:
    y, dim = residuals
    is_most = y > 0.5
    of_most = torch.sum(torch.where(is_most, dy, 0), dim, keepdim=True)
    along = torch.sum(y * dy, dim, keepdim=True)
    above_others = torch.where(is_most, 0, y * (of_most - dy))
    return (y * torch.where(is_most, torch.sum(above_others, dim, keepdim=True), dy - along),)


def lower() -> None:
    """Inductor knows these operations."""
