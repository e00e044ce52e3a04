"""The picture of an audit: kinds of error against their sizes, and which of them pass; as HTML, or as a figure."""

from __future__ import annotations

import html
import io
from pathlib import Path
from typing import TYPE_CHECKING

from manual_bp.oracle.audit.sizes import SIZES
from manual_bp.oracle.foreign import readable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from manual_bp.oracle.audit.report import AuditReport

# Told apart by lightness too, not by colour alone.
COLOURS = {"X": "#b2182b", "~": "#f4a582", ".": "#92c5de", " ": "#f7f7f7"}
MEANING = {
    "X": "passes",
    "~": "passes: right at all numbers that were tried",
    ".": "rejected",
    " ": "no error beside rounding",
}
FORMATS = (".svg", ".png", ".pdf")


def to_html(report: AuditReport) -> str:
    """The report as a fragment of HTML: the verdict, the reasons, kinds with how many are rejected, and the picture."""

    def cell(text: str, tag: str = "td", style: str = "") -> str:
        return f"<{tag}{f' style={chr(34)}{style}{chr(34)}' if style else ''}>{html.escape(readable(text))}</{tag}>"

    lines = [*report.findings, *report.facts]
    heads = "".join(cell(f"{size:g}", "th") for size in SIZES)
    chart = [
        f"<tr>{cell(name, 'th')}{''.join(cell(m, style=f'background:{COLOURS[m]};width:2em') for m in marks)}</tr>"
        for name, marks in report.chart()
    ]
    kinds = [
        f"<tr>{cell(kind)}{cell(f'{sum(o.rejected for o in report.of_kind(kind))} of {len(report.of_kind(kind))}')}"
        f"{cell('; '.join([o.name for o in report.of_kind(kind) if o.accepted][:2]))}</tr>"
        for kind in report.kinds
    ]
    legend = "; ".join(f"{mark.strip() or 'empty'}: {words}" for mark, words in MEANING.items())
    return "".join(
        [
            f"<p><b>{html.escape(readable(report.headline))}</b></p>",
            *(f"<p>{html.escape(readable(line))}</p>" for line in lines),
            f"<ul>{''.join(cell(reason, 'li') for reason in report.reasons)}</ul>",
            f"<table><tr><th>size of the error</th>{heads}</tr>{''.join(chart)}</table>" if chart else "",
            f"<p>{html.escape(legend)}</p>" if chart else "",
            "<table><tr><th>wrong programs</th><th>rejected</th><th>such as these pass</th></tr>",
            *kinds,
            "</table>",
        ]
    )


def figure(report: AuditReport) -> Figure:
    """Kinds of error (rows) against their sizes (columns), coloured by what the checker said.

    Raises ImportError if matplotlib is not installed (manual-bp[plots]), and ValueError if nothing was tried.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    rows = report.chart()
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
    axes.set_title(f"{report.checker} against {report.rule} ({report.dtype})", fontsize="medium")
    patches = [Patch(facecolor=COLOURS[m], edgecolor="grey", label=MEANING[m]) for m in marks]
    drawn.legend(handles=patches, loc="outside lower center", ncols=2, fontsize="small", frameon=False)
    return drawn


def check_name(path: Path) -> None:
    """Raises ValueError unless the name is one of a picture."""
    if path.suffix not in FORMATS:
        raise ValueError(f"a picture's name must end in one of {', '.join(FORMATS)}; came {str(path)!r}.")


def save(report: AuditReport, path: Path) -> None:
    """Write the picture to a file, of the kind that its name ends in.  Raises as `figure`, or ValueError for others."""
    check_name(path)
    buffer = io.BytesIO()
    figure(report).savefig(buffer, format=path.suffix[1:])
    path.write_bytes(buffer.getvalue())
