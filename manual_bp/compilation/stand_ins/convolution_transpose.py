"""Transposed convolution of a compiled program: the page's formulas, and the weight's cotangent in C++ (taps.py)."""

from __future__ import annotations

from torch import Tensor

from manual_bp.compilation import taps
from manual_bp.rules.convolution import convolution_transpose as page

forward, lower = page.forward, taps.lower


def backward(residuals: page.Residuals, dy: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    x, weight, _, stride, padding, _, dilation, groups = residuals
    dx, dweight, dbias = page.backward(residuals, dy)
    if taps.are_taken(dy, x, groups):  # then the page's own, which nobody reads, is no part of the program
        dweight = taps.compared(dy, x, weight.shape[2:], stride, padding, dilation)
    return dx, dweight, dbias
