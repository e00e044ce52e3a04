"""Formulas as HTML: pieces between which a line may break, each MathML by latex2mathml or words."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from functools import cache
from xml.etree import ElementTree

from manual_bp.book.latex import latex, slashed
from manual_bp.book.lexer import PUNCTUATION, RELATIONS
from manual_bp.book.tree import Node, Sequence, Sign, Words

SHORT = 14
"""Characters of a formula that is not worth breaking."""


def pieces(tree: Sequence) -> Iterator[list[Node]]:
    """Parts of a formula between which a line may break: before a relation, and around words."""
    found: list[Node] = []
    for part in tree.parts:
        is_words = isinstance(part, Words) and not part.code
        breaks = isinstance(part, Sign) and part.text in RELATIONS and tree.end - tree.start > SHORT
        after_words = bool(found) and isinstance(found[-1], Words) and not found[-1].code
        if found and (is_words or breaks or after_words) and not (after_words and _is_mark(part)):
            yield found
            found = []
        found.append(part)
        if _is_mark(part) and tree.end - tree.start > SHORT:
            yield found
            found = []
    if found:
        yield found


def _is_mark(part: Node) -> bool:
    return isinstance(part, Sign) and part.text in PUNCTUATION


def as_html(parts: list[Node], *, display: bool = False) -> str:
    """One piece."""
    *rest, last = parts
    if isinstance(parts[0], Words) and not parts[0].code:
        return html.escape(parts[0].text) + "".join(part.text for part in parts[1:] if isinstance(part, Sign))
    if rest and _is_mark(last):  # of the sentence rather than the formula
        return as_html(rest, display=display) + latex(last)
    # Behind nothing a relation would be taken for a sign before what follows.
    empty = "{} " if isinstance(parts[0], Sign) else ""
    return mathml(empty + " ".join(map(latex, parts)), display=display)


def formula(tree: Sequence, *, display: bool = False) -> str:
    """A formula whose lines may break between its pieces; in a sentence a / b stands in the line."""
    tree = tree if display else slashed(tree)
    found = ""
    for piece in pieces(tree):
        if found:  # a relation brings its own space
            found += "&#8203;" if isinstance(piece[0], Sign) else " "
        found += as_html(piece, display=display)
    return found


@cache
def mathml(tex: str, *, display: bool = False) -> str:
    """LaTeX as MathML.  Raises ImportError, in words, without latex2mathml."""
    try:
        from latex2mathml.converter import convert
    except ImportError:
        raise ImportError("the book needs latex2mathml. Run: pip install 'manual-bp[book]'") from None
    found = ElementTree.fromstring(str(convert(tex)).replace(' xmlns="http://www.w3.org/1998/Math/MathML"', "", 1))
    del found.attrib["display"]
    for node in list(found.iter()):
        _mend(node)
    text = ElementTree.tostring(found, encoding="unicode")
    return text.replace("<math>", '<math displaystyle="true">', 1) if display else text


def _mend(node: ElementTree.Element) -> None:
    """What latex2mathml leaves to be desired."""
    if node.tag == "mtext" and node.text:
        node.text = re.sub(r"\\([_&%#$])", r"\1", node.text)
    elif node.tag == "mo" and node.text == "∞":  # a number, without the space of an operator
        node.tag = "mi"
    elif node.tag == "munder" and len(node) == 2 and node[1].tag == "mo" and node[1].text == "⏟":
        # A brace is as wide as its term in few fonts: the style draws a line.
        node.tag, term = "mrow", node[0]
        node.attrib = {"class": "term"}
        node[:] = [term]
