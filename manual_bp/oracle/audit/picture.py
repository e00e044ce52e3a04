"""The picture of an audit: kinds of error against their sizes, and which of them pass."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from manual_bp.oracle.audit.sizes import SIZES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Told apart by lightness too, not by colour alone.
COLOURS = {"X": "#b2182b", "~": "#f4a582", ".": "#92c5de", " ": "#f7f7f7"}
MEANING = {
    "X": "passes",
    "~": "passes: right at all numbers that were tried",
    ".": "rejected",
    " ": "no error beside rounding",
}
FORMATS = (".svg", ".png", ".pdf")


Rows = Sequence[tuple[str, Sequence[str]]]
"""Kinds of error, each with a mark for every size: `AuditReport.chart()`."""


def figure(rows: Rows, title: str) -> Figure:
    """Kinds of error (rows) against their sizes (columns), coloured by what the checker said.

    Raises ImportError if matplotlib is not installed (manual-bp[plots]), and ValueError if nothing was tried.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    if not rows:
        raise ValueError("a picture needs wrong programs; none was tried. The report says why: print it.")
    marks = list(COLOURS)
    drawn = Figure(figsize=(7.0, 1.4 + 0.24 * len(rows)), layout="constrained")
    axes = drawn.subplots()
    numbers = [[marks.index(mark) for mark in row] for _, row in rows]
    axes.imshow(numbers, cmap=ListedColormap(list(COLOURS.values())), vmin=-0.5, vmax=len(marks) - 0.5, aspect="auto")
    axes.set_xticks(range(len(SIZES)), [f"{size:g}" for size in SIZES])
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_xticks([i - 0.5 for i in range(1, len(SIZES))], minor=True)
    axes.set_yticks([i - 0.5 for i in range(1, len(rows))], minor=True)
    axes.grid(which="minor", color="white")
    axes.tick_params(which="both", length=0)
    axes.set_xlabel("size of the error, as a fraction of what is due")
    axes.set_title(title, fontsize="medium")
    patches = [Patch(facecolor=COLOURS[m], edgecolor="grey", label=MEANING[m]) for m in marks]
    drawn.legend(handles=patches, loc="outside lower center", ncols=2, fontsize="small", frameon=False)
    return drawn


def check_name(path: Path) -> None:
    """Raises ValueError unless the name is one of a picture."""
    if path.suffix not in FORMATS:
        raise ValueError(f"a picture's name must end in one of {', '.join(FORMATS)}; came {str(path)!r}.")


def save(rows: Rows, title: str, path: Path) -> None:
    """Write the picture to a file, of the kind that its name ends in.  Raises as `figure`, or ValueError for others."""
    check_name(path)
    buffer = io.BytesIO()
    figure(rows, title).savefig(buffer, format=path.suffix[1:])
    path.write_bytes(buffer.getvalue())
