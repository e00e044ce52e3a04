"""A docstring as sections, paragraphs, lists and displayed rows.

A paragraph that begins with one word and a full stop ("Derivation.  ") begins a section of that name, one that begins
with "Source: " is the source.  Lines that are indented by four spaces are displayed mathematics: each a row, its cells
two spaces or more apart.  A row of words below a sum names its terms.  Lines of a term and a sentence are a list.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from manual_bp.book.expression import is_name, parse
from manual_bp.book.lexer import RELATIONS, NotationError
from manual_bp.book.tree import Sequence, Sum, nodes

INDENT = 4
_LEAD = re.compile(r"(Derivation(?: \w+){0,4}|[A-Z][a-z]+)\.(?:  +(?=\S)|\n|$)")
_SOURCE = re.compile(r"Sources?: +")
_LABELS = re.compile(r"[a-z][a-z-]*(?: [a-z-]+)*(?:  +[a-z][a-z-]*(?: [a-z-]+)*)+")
_CELL = re.compile(r"\S+(?: \S+)*")
_DEFINED = re.compile(r"(?:^|  |, )([A-Za-z]{2,}) +=(?= )")


class PageError(ValueError):
    """A docstring that cannot be read: where, why, and what to do."""


@dataclass(frozen=True)
class Cell:
    """A formula, or words with formulas, in a row; start: its first character in the line."""

    text: str
    start: int
    tree: Sequence


@dataclass(frozen=True)
class Row:
    """One line of displayed mathematics; labels: the line below that names terms, as typed."""

    text: str
    cells: tuple[Cell, ...]
    labels: str = ""


@dataclass(frozen=True)
class Display:
    rows: tuple[Row, ...]

    @property
    def text(self) -> str:
        """As typed."""
        lines = [line for row in self.rows for line in (row.text, row.labels) if line]
        return "\n".join(lines)


@dataclass(frozen=True)
class Terms:
    """A list: each term and what is said of it; text: as typed."""

    items: tuple[tuple[str, str], ...]
    text: str


@dataclass(frozen=True)
class Paragraph:
    """text: as typed, without what begins a section."""

    text: str


@dataclass(frozen=True)
class Section:
    """title: "" of what comes first."""

    title: str
    blocks: tuple[Paragraph | Display | Terms, ...]


@dataclass(frozen=True)
class Text:
    """A docstring.  names: those of several letters that are mathematics in it."""

    summary: str
    sections: tuple[Section, ...]
    source: str
    names: frozenset[str]


def read(docstring: str, names: Collection[str] = (), where: str = "the docstring", first: int = 1) -> Text:
    """The docstring of a page or a chapter, whose first line is number `first` of the file `where`.

    Raises PageError, with file and line, for a displayed formula that the grammar does not know.
    """
    typed = docstring.expandtabs().split("\n")
    skipped = next((k for k, line in enumerate(typed) if line.strip()), 0)
    lines = typed[skipped:]
    shown = [line for line in lines if line.startswith(" " * INDENT)]
    known = frozenset(names) | {name for line in shown for name in _DEFINED.findall(line.strip())}
    blocks = list(_blocks(lines))
    summary = blocks[0][1][0] if blocks else ""
    sections: list[tuple[str, list[Paragraph | Display | Terms]]] = [("", [])]
    source = ""
    for number, block in blocks:
        place = f"{where}:{first + skipped + number}"
        if block[0].startswith(" " * INDENT):
            rows = None if _is_list(block, known) else _rows(block, known, where, first + skipped + number)
            sections[-1][1].append(_terms(block) if rows is None else Display(tuple(rows)))
            continue
        text = "\n".join(block)
        if number == 0:
            text = "\n".join(block[1:])
            if not text:
                continue
        if match := _SOURCE.match(text):
            if source:
                raise PageError(f"{place}: there is one source; came a second paragraph with 'Source:'. Join them.")
            source = text[match.end() :]
        elif match := _LEAD.match(text):
            rest = text[match.end() :]
            sections.append((match[1], [Paragraph(rest)] if rest else []))
        else:
            sections[-1][1].append(Paragraph(text))
    return Text(summary, tuple(Section(title, tuple(found)) for title, found in sections if found), source, known)


def _blocks(lines: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Lines that stand together, and the number of the first."""
    found: list[str] = []
    for number, line in enumerate([*lines, ""]):
        ends = not line.strip() or (found and line.startswith(" " * INDENT) != found[0].startswith(" " * INDENT))
        if ends and found:
            yield number - len(found), found
            found = []
        if line.strip():
            found.append(line.rstrip())


def _is_list(lines: list[str], names: frozenset[str]) -> bool:
    """Whether each line is a term without a relation and, two spaces further on, words, or goes on further right."""
    begun = [line.strip() for line in lines if not line.startswith(" " * (INDENT + 1))]
    pairs = [line.split("  ", 1) for line in begun]
    return bool(begun) and all(
        len(pair) == 2 and not set(pair[0]) & RELATIONS and _has_words(pair[1], names) for pair in pairs
    )


def _has_words(text: str, names: frozenset[str]) -> bool:
    """Whether at least two words that are no names stand in a text, as in a sentence."""
    words = re.findall(r"(?<!\S)[A-Za-z]{2,}(?![\w(])", text)
    return sum(not is_name(word, names) for word in words) >= 2


def _terms(lines: list[str]) -> Terms:
    items: list[list[str]] = []
    for line in lines:
        if line.startswith(" " * (INDENT + 1)):
            items[-1].append(line.strip())
        else:
            items.append([part.strip() for part in line.strip().split("  ", 1)])
    return Terms(tuple((term, " ".join(said)) for term, *said in items), "\n".join(lines))


def _rows(lines: list[str], names: frozenset[str], where: str, first: int) -> Iterator[Row]:
    waiting: Row | None = None
    for number, line in enumerate(lines, first):
        if waiting is not None and (_LABELS.fullmatch(line.strip()) or _are_labels(line.split(), waiting)):
            yield _labelled(waiting, line, f"{where}:{number}")
            waiting = None
            continue
        if waiting is not None:
            yield waiting
        try:
            waiting = Row(line, tuple(_cells(line, names)))
        except NotationError as error:
            text, column = line.strip(), error.position + 1
            raise PageError(
                f"{where}:{number}:{column}: {error}, in the formula {text!r}. The notation is in "
                "manual_bp/rules/README.md."
            ) from None
    if waiting is not None:
        yield waiting


def _are_labels(words: list[str], row: Row) -> bool:
    """Whether words that stand close, below narrow terms, are as many as the terms of a sum above them."""
    counts = {len(found.terms) for cell in row.cells for found in nodes(cell.tree) if isinstance(found, Sum)}
    return len(words) > 1 and len(words) in counts and all(word.isalpha() and word.islower() for word in words)


def _cells(line: str, names: frozenset[str]) -> Iterator[Cell]:
    """Raises NotationError, with the character of the line."""
    spans: list[tuple[int, int]] = []
    for match in _CELL.finditer(line):
        # Spaces that align "=" part no cells.
        if spans and match[0][0] in RELATIONS:
            spans[-1] = (spans[-1][0], match.end())
        else:
            spans.append(match.span())
    for start, end in spans:
        try:
            yield Cell(line[start:end], start, parse(line[start:end], names))
        except NotationError as error:
            raise NotationError(str(error), start + error.position) from None


def _labelled(row: Row, line: str, place: str) -> Row:
    """The row with the names of terms at the sum under which they stand."""
    apart = _CELL if _LABELS.fullmatch(line.strip()) else re.compile(r"\S+")
    labels = [(match[0], column(line, match.start()) + len(match[0]) / 2) for match in apart.finditer(line)]

    def distance(start: int, found: Sum) -> float:
        """How far the labels stand from below the terms of a sum in a cell."""
        middles = [
            column(row.text, start + term.start) / 2 + column(row.text, start + term.end) / 2 for term in found.terms
        ]
        return sum(abs(middle - at) for middle, (_, at) in zip(middles, labels, strict=True))

    sums = [
        (distance(cell.start, found), found)
        for cell in row.cells
        for found in nodes(cell.tree)
        if isinstance(found, Sum) and len(found.terms) == len(labels)
    ]
    if not sums:
        raise PageError(
            f"{place}: {len(labels)} names of terms ({line.strip()!r}) stand below no sum of {len(labels)} terms. "
            "Write one for each term of a sum in the line above."
        )
    nearest = min(sums, key=lambda pair: pair[0])[1]
    nearest.labels = [label for label, _ in labels]
    return replace(row, labels=line)


def column(line: str, position: int) -> int:
    """Where a character is seen: accents take no room."""
    return sum(not unicodedata.combining(character) for character in line[:position])
