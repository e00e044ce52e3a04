"""Padding and sampling of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def replication_pad(x: Tensor, padding: Sequence[int]) -> Tensor:
    for axis, (before, after) in enumerate(zip(padding[::2], padding[1::2], strict=True)):
        n = x.shape[-1 - axis]
        x = x.index_select(-1 - axis, torch.arange(-before, n + after).clamp(0, n - 1))
    return x


def grid_sampler_3d(x: Tensor, grid: Tensor, interpolation_mode: int, padding_mode: int, align_corners: bool) -> Tensor:
    """x (batch, channels, depth, height, width) at grid (batch, ..., 3), whose last axis counts width first.

    interpolation_mode: 0 linear, 1 nearest.  padding_mode: 0 zeros, 1 border, 2 reflection.
    """
    lengths = x.shape[2:][::-1]
    places = [_place(grid[..., i], n, padding_mode, align_corners) for i, n in enumerate(lengths)]
    if interpolation_mode == 1:
        return _picked(x, [place.round() for place in places])
    lows = [place.detach().floor() for place in places]
    total = torch.zeros((), dtype=x.dtype)
    for corner in range(2 ** len(lengths)):
        steps = [corner >> i & 1 for i in range(len(lengths))]
        weight = torch.ones((), dtype=x.dtype)
        for place, low, step in zip(places, lows, steps, strict=True):
            weight = weight * (place - low if step else low + 1 - place)
        total = total + weight[:, None] * _picked(x, [low + step for low, step in zip(lows, steps, strict=True)])
    return total


def _place(coordinate: Tensor, n: int, padding_mode: int, align_corners: bool) -> Tensor:
    place = (coordinate + 1) / 2 * (n - 1) if align_corners else ((coordinate + 1) * n - 1) / 2
    if padding_mode == 2:
        low, span = (0.0, float(n - 1)) if align_corners else (-0.5, float(n))
        away = (place - low).abs()
        turns = (away / max(span, 1.0)).detach().floor()
        rest = away - turns * span
        place = torch.where(turns.remainder(2.0) == 0, rest + low, span - rest + low)
    return place.clamp(0, n - 1) if padding_mode else place


def _picked(x: Tensor, places: Sequence[Tensor]) -> Tensor:
    """x (batch, channels, ..., height, width) at places (batch, ...), one tensor for width, one for height ...; 0
    outside."""
    lengths = x.shape[2:][::-1]
    inside = torch.ones((), dtype=torch.bool)
    flat, step = torch.zeros((), dtype=torch.int64), 1
    for place, n in zip(places, lengths, strict=True):
        inside = inside & (place >= 0) & (place <= n - 1)
        flat = flat + place.detach().clamp(0, n - 1).to(torch.int64) * step
        step *= n
    shape = flat.shape[1:]
    index = flat.flatten(1)[:, None].expand(-1, x.shape[1], -1)
    found: Tensor = x.flatten(2).gather(2, index).reshape(*x.shape[:2], *shape)
    return found.masked_fill(~inside[:, None], 0.0)


# Pieces are 0 where they end; what lies so near to an end has the rounding errors of what lies before it.
END = 1e-5
Piece = tuple[float, Callable[[Tensor], Tensor]]

TRIANGLE: tuple[Piece, ...] = ((1.0, lambda t: 1 - t),)
CUBIC: tuple[Piece, ...] = (
    (1.0, lambda t: (1.5 * t - 2.5) * t * t + 1),
    (2.0, lambda t: ((2.5 - 0.5 * t) * t - 4) * t + 2),
)
"""Filters of antialiasing: up to which distance from their middle a piece holds, and what it is there.  The cubic one
is of Keys, with a = -1/2 as in Pillow."""


def upsample_antialiased(
    pieces: Sequence[Piece],
    x: Tensor,
    output_size: Sequence[int],
    align_corners: bool,
    scales_h: float | None = None,
    scales_w: float | None = None,
) -> Tensor:
    """Each axis of space times a matrix of weights, which the sizes decide."""
    rows, columns = (
        _antialiasing(pieces, n, to, align_corners, scale, x.dtype)
        for n, to, scale in zip(x.shape[2:], output_size, (scales_h, scales_w), strict=True)
    )
    return rows @ (x @ columns.mT)


def _antialiasing(
    pieces: Sequence[Piece], n: int, to: int, align_corners: bool, scale: float | None, dtype: torch.dtype
) -> Tensor:
    """(to, n): the filter, widened where the axis becomes shorter, around where each place of the result was.

    Which piece holds where is a matter of sizes, and not of numbers in this precision.
    """
    step = (n - 1) / max(to - 1, 1) if align_corners else 1 / scale if scale else n / to
    widened = max(step, 1.0)
    exact = [[(j + 0.5 - step * (i + 0.5)) / widened for j in range(n)] for i in range(to)]
    signs = torch.tensor([[1.0 if at > 0 else -1.0 for at in row] for row in exact], dtype=dtype).reshape(to, n)
    centres = step * (torch.arange(to, dtype=dtype) + 0.5)[:, None]
    distance = signs * (torch.arange(n, dtype=dtype) - centres + 0.5) * (1 / widened)
    weights, inner = torch.zeros((), dtype=dtype), 0.0
    for outer, piece in pieces:
        holds = torch.tensor([[inner <= abs(at) < outer + END for at in row] for row in exact]).reshape(to, n)
        weights, inner = weights + piece(distance).masked_fill(~holds, 0.0), outer + END
    return weights / weights.sum(-1, keepdim=True)
