"""Displayed rows as HTML for their template: a formula in two sides, and what stands beside it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from manual_bp.book.docstring import INDENT, Cell, Display, Row
from manual_bp.book.lexer import RELATIONS
from manual_bp.book.mathml import formula
from manual_bp.book.tree import Node, Sign, Words

LONG, WIDE = 40, 60
"""Characters of a cell, and of a row, that are folded rather than pushed out of the column."""


def rows_of(block: Display) -> dict[str, Any]:
    """A block for its template: rows of left, right and rest; whether they are aligned; whether they are cases."""
    by_case = any(map(_says_when, block.rows))
    rows = [_row(row, by_case=by_case) for row in block.rows]
    return {"rows": rows, "aligned": len(rows) > 1, "by_case": by_case}


def _row(row: Row, *, by_case: bool) -> dict[str, Any]:
    """A row of displayed mathematics: its first formula in two sides, and what stands beside it.

    by_case: the first cells of the block say when ("otherwise:"), and what holds then stands beside them.
    """
    groups: list[list[Cell]] = [[]]
    for position, cell in enumerate(row.cells):
        if position and not row.cells[position - 1].text.endswith(","):
            groups.append([])
        groups[-1].append(cell)
    if by_case:
        goes_on = row.cells[0].start > INDENT
        left = "" if goes_on else formula(row.cells[0].tree, display=True)
        return _columns(left, _side_by_side(row.cells[0 if goes_on else 1 :]), [])
    first, *others = groups[0]
    left, right = _sides(first)
    if left and not left.endswith("</math>"):  # "x by", with the space of words
        left += "&nbsp;"
    is_wide = sum(len(cell.text) for cell in row.cells) > WIDE
    return _columns(left, " ".join([right, _side_by_side(others)]).strip(), groups[1:], is_wide=is_wide)


def _columns(left: str, right: str, rest: list[list[Cell]], *, is_wide: bool = False) -> dict[str, Any]:
    """A row for its template; is_wide: what stands beside the formula is folded to make room."""
    from markupsafe import Markup

    beside = [
        (Markup(_side_by_side(group)), "long" if is_wide or sum(len(cell.text) for cell in group) > LONG else "")
        for group in rest
    ]
    line = f"{left}&#8203;{right}"  # a relation brings its own space
    return {"left": Markup(left), "right": Markup(right), "line": Markup(line), "rest": beside}


def _side_by_side(cells: Iterable[Cell]) -> str:
    return " ".join(f'<span class="also">{formula(cell.tree, display=True)}</span>' for cell in cells)


def _says_when(row: Row) -> bool:
    """Whether a row begins with a case rather than a formula."""
    first, *others = row.cells
    return bool(others) and first.text.endswith(":")


def _sides(cell: Cell) -> tuple[str, str]:
    """A formula before and from its first relation on."""
    parts = cell.tree.parts
    cut = next((k for k, part in enumerate(parts) if isinstance(part, Words | Sign) and _parts_sides(part)), None)
    if cut is None:
        return "", formula(cell.tree, display=True)
    cut += isinstance(parts[cut], Words)  # "x by y + z"
    left, right = (replace(cell.tree, parts=some) for some in (parts[:cut], parts[cut:]))
    return formula(left, display=True), formula(right, display=True)


def _parts_sides(part: Node) -> bool:
    if isinstance(part, Words):
        return not part.code
    return isinstance(part, Sign) and part.text in RELATIONS
