"""Heat maps of errors: a tensor of any rank as a plane of cells, and the plane as inline SVG, by matplotlib.

Of a tensor of more than two axes one stays whole as rows, the one along which right and wrong differ most (a wrong
channel is a row then, whatever the batch); the others are folded into columns.
"""

from __future__ import annotations

import io
import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manual_bp.oracle.words import number

# A finer picture is smaller than what a phone resolves.
CELLS = 64
# As many cells can carry their numbers legibly.
NUMBERED = 48
# Errors below a hundredth of the allowance are all of one colour: they are right.
FLOOR = 1e-2
# Stands for the colour of the page's text, which the picture takes over by being inline.
INK = "#010203"


@dataclass(frozen=True)
class Plane:
    """A tensor as rows and columns of cells.

    order: which axis of the tensor the rows are, and which ones the columns, from the slowest to the fastest.
    blocks: how many rows and columns of the tensor a cell holds, of which it is the largest.
    parts: the columns of cells before which a new index of the first of several folded axes begins.
    """

    cells: Tensor
    wrong: Tensor
    order: tuple[tuple[int, ...], tuple[int, ...]]
    blocks: tuple[int, int]
    parts: tuple[float, ...]


def plane_of(values: Tensor, wrong: Tensor) -> Plane:
    """A tensor of any rank as a plane of at most 64 x 64 cells."""
    if values.ndim <= 1:
        order: tuple[tuple[int, ...], tuple[int, ...]] = ((), tuple(range(values.ndim)))
    elif values.ndim == 2:
        order = ((0,), (1,))
    else:
        kept = _most_different(wrong)
        order = ((kept,), tuple(axis for axis in range(values.ndim) if axis != kept))
    rows = math.prod(values.shape[axis] for axis in order[0])
    flat, flat_wrong = (x.permute((*order[0], *order[1])).reshape(rows, -1) for x in (values, wrong))
    blocks = tuple(-(-length // CELLS) for length in flat.shape)
    parts: tuple[float, ...] = ()
    if len(order[1]) > 1:
        inner = flat.shape[1] // values.shape[order[1][0]]
        parts = tuple(k * inner / blocks[1] for k in range(1, values.shape[order[1][0]]))
    cells = _largest_of_blocks(flat, blocks)
    return Plane(cells, _largest_of_blocks(flat_wrong.double(), blocks) > 0, order, (blocks[0], blocks[1]), parts)


def _most_different(wrong: Tensor) -> int:
    """The axis along which the share of wrong elements differs most; of equal ones the second, where channels are."""
    shares = [wrong.double().mean([a for a in range(wrong.ndim) if a != axis]) for axis in range(wrong.ndim)]
    spread = [round(float(share.max() - share.min()), 9) for share in shares]
    return max(range(wrong.ndim), key=lambda axis: (spread[axis], axis == 1))


def _largest_of_blocks(flat: Tensor, blocks: tuple[int, ...]) -> Tensor:
    rows, columns = (-(-length // block) for length, block in zip(flat.shape, blocks, strict=True))
    padded = flat.new_zeros(rows * blocks[0], columns * blocks[1])
    padded[: flat.shape[0], : flat.shape[1]] = flat
    return padded.reshape(rows, blocks[0], columns, blocks[1]).amax((1, 3))


def draw(plane: Plane, what: str, labels: tuple[str, str], limit: float | None) -> str:
    """A heat map as SVG, its text in the colour of the surrounding page.

    what: the colour's meaning. labels: of rows and columns. limit: from where on a colour means wrong, if it does.
    """
    import matplotlib
    from matplotlib.collections import LineCollection
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    cells = plane.cells
    rows, columns = cells.shape
    finite = cells[cells.isfinite() & (cells > 0)]
    top = float(finite.max()) if finite.numel() else 1.0
    if limit is not None:
        top, floor = max(top, 10 * limit), FLOOR * limit
    else:
        floor = max(min(float(finite.min()) if finite.numel() else 1.0, top / 10), top * 1e-6)  # six decades are enough
    colours = matplotlib.colormaps["cividis"].with_extremes(over="#d55e00")
    norm = LogNorm(floor, top)
    coloured = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    settings: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "manual_bp", "font.size": 9}
    with matplotlib.rc_context(settings | dict.fromkeys(coloured, INK)):
        # Cells are square as far as the page has room, but few rows need no more than two lines of text each.
        # The name of an axis needs its height, too.
        height = max(min(5.2 * rows / columns, 0.45 * rows, 5.2), 1.3 if rows > 1 else 0.4)
        figure = Figure(figsize=(6.4, height + 1.3), layout="constrained")
        axes = figure.add_subplot()
        shown = cells.clamp(min=floor).nan_to_num(posinf=10 * top)
        image = axes.imshow(shown.numpy(), cmap=colours, norm=norm, aspect="auto", interpolation="nearest")
        for colour, width in (("white", 4.0), ("black", 1.6)):  # seen on light cells and on dark ones
            axes.add_collection(LineCollection(outline(plane.wrong), colors=colour, linewidths=width, clip_on=False))
        for part in plane.parts if len(plane.parts) < CELLS else ():  # more lines than cells would hide them
            axes.axvline(part - 0.5, color="white", linewidth=1, linestyle=(0, (2, 2)))
        _number_cells(axes, cells, norm)
        _ticks(axes.xaxis, columns, plane.blocks[1])
        _ticks(axes.yaxis, rows, plane.blocks[0])
        axes.set_xlabel(labels[1])
        axes.set_ylabel(labels[0] if rows > 1 else "")
        extend = "max" if not bool(cells.isfinite().all()) else "neither"
        bar = figure.colorbar(image, location="bottom", extend=extend, fraction=0.1, aspect=40, pad=0.03)
        bar.set_label(what + (" (orange: infinitely)" if extend == "max" else ""))
        if limit is not None:
            bar.ax.axvline(limit, color="white", linewidth=4)
            bar.ax.axvline(limit, color="black", linewidth=1.6)
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    return re.sub(r"^<svg[^>]*>", lambda tag: re.sub(r' (width|height)="[^"]*"', "", tag[0]), svg)  # the viewBox stays


def outline(wrong: Tensor) -> list[list[tuple[float, float]]]:
    """The edges between cells that are wrong and cells that are not, in the picture's coordinates."""
    padded = torch.zeros(wrong.shape[0] + 2, wrong.shape[1] + 2, dtype=torch.bool)
    padded[1:-1, 1:-1] = wrong
    upright = (padded[1:-1, 1:] != padded[1:-1, :-1]).nonzero().tolist()
    level = (padded[1:, 1:-1] != padded[:-1, 1:-1]).nonzero().tolist()
    segments = [[(x - 0.5, y - 0.5), (x - 0.5, y + 0.5)] for y, x in upright]
    return segments + [[(x - 0.5, y - 0.5), (x + 0.5, y - 0.5)] for y, x in level]


def _number_cells(axes: Any, cells: Tensor, norm: Any) -> None:
    """Numbers in the cells of a small picture: colour alone says too little."""
    if cells.numel() > NUMBERED or cells.shape[1] > 8:  # wider than 8 the numbers touch
        return
    for (y, x), value in zip(torch.ones_like(cells).nonzero().tolist(), cells.reshape(-1).tolist(), strict=True):
        light = math.isfinite(value) and float(norm(max(value, norm.vmin))) > 0.5
        text = number(value).replace("inf", "∞")
        axes.text(x, y, text, ha="center", va="center", color="black" if light else "white")


def _ticks(axis: Any, cells: int, block: int) -> None:
    """Ticks at cells, called by the index of their first element; 8 of them at most."""
    step = -(-cells // 8)
    axis.set_ticks(range(0, cells, step), [str(k * block) for k in range(0, cells, step)])
