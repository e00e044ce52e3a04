"""Formulas as HTML: pieces between which a line may break, each MathML by latex2mathml or words."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from xml.etree import ElementTree

from manual_bp.book.latex import SIGNS, is_large, latex, slashed
from manual_bp.book.lexer import PUNCTUATION, RELATIONS
from manual_bp.book.tree import Node, Product, Sequence, Sign, Sum, Words

SHORT, LONG = 14, 46
"""Characters of a formula that is not worth breaking, and of a sum or product too long for a phone."""


def pieces(tree: Sequence) -> Iterator[list[Node]]:
    """Parts of a formula between which a line may break: before a relation that follows another one, around words,
    behind a comma, and in a long sum or product."""
    found: list[Node] = []
    relations = 0
    for part in _shorter(tree.parts):
        is_words = isinstance(part, Words) and not part.code
        is_relation = isinstance(part, Sign) and part.text in RELATIONS
        relations += is_relation
        after_words = bool(found) and isinstance(found[-1], Words) and not found[-1].code
        breaks = is_words or after_words or (is_relation and relations > 1) or isinstance(part, Continued)
        if found and breaks and not (after_words and _is_mark(part)):
            yield found
            found = []
        found.append(part)
        if _is_mark(part) and tree.end - tree.start > SHORT:
            yield found
            found, relations = [], 0
    if found:
        yield found


@dataclass
class Continued(Node):
    """The rest of a long sum or product: what stands before it, and a term."""

    sign: str
    body: Node


def _shorter(parts: list[Node]) -> Iterator[Node]:
    """The parts, long ones in pieces."""
    for part in parts:
        if part.end - part.start <= LONG:
            yield part
        elif isinstance(part, Sum) and not part.labels:
            first, *others = zip(part.signs, part.terms, strict=True)
            yield Sum(part.start, first[1].end, [first[0]], [first[1]])
            for sign, term in others:
                yield Continued(term.start, term.end, sign, term)
        elif isinstance(part, Product) and not part.tight:
            yield from _factors(part)
        else:
            yield part


def _factors(product: Product) -> Iterator[Node]:
    """A long product in pieces of some length; a large operator stays with what follows."""
    found: list[Node] = []
    for part in product.parts:
        begins = bool(found) and part.end - found[0].start > LONG
        if begins and not isinstance(part, Sign) and not isinstance(found[-1], Sign) and not is_large(found[-1]):
            whole = Product(found[0].start, found[-1].end, found)
            yield whole if found[0] is product.parts[0] else Continued(whole.start, whole.end, "", whole)
            found = []
        found.append(part)
    whole = Product(found[0].start, found[-1].end, found)
    yield whole if found[0] is product.parts[0] else Continued(whole.start, whole.end, "", whole)


@latex.register
def _(node: Continued) -> str:
    """Behind nothing a sign would be taken for that of a number."""
    return rf"{{}} {SIGNS[node.sign]} {latex(node.body)}" if node.sign else latex(node.body)


def _is_mark(part: Node) -> bool:
    return isinstance(part, Sign) and part.text in PUNCTUATION


def as_html(parts: list[Node], *, display: bool = False) -> str:
    """One piece."""
    *rest, last = parts
    if isinstance(parts[0], Words) and not parts[0].code:
        return html.escape(parts[0].text) + "".join(part.text for part in parts[1:] if isinstance(part, Sign))
    if rest and _is_mark(last):  # of the sentence rather than the formula
        return f'<span class="whole">{as_html(rest, display=display)}{latex(last)}</span>'
    # Behind nothing a relation would be taken for a sign before what follows.
    empty = "{} " if isinstance(parts[0], Sign) else ""
    return mathml(empty + " ".join(map(latex, parts)), display=display)


def formula(tree: Sequence, *, display: bool = False) -> str:
    """A formula whose lines may break between its pieces; in a sentence a / b stands in the line."""
    tree = tree if display else slashed(tree)
    found = ""
    for piece in pieces(tree):
        if found:  # an operator brings its own space
            found += "&#8203;" if isinstance(piece[0], Sign | Continued) else " "
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
        if not re.search(r"\s", node.text):
            # A name.  mtext counts as space, so that an operator beside nothing else would have none of its own.
            node.tag = "mi"
            code = node.attrib.pop("mathvariant", "") == "monospace"
            node.attrib = {"class": "code"} if code else {"mathvariant": "normal"} if len(node.text) == 1 else {}
    elif node.tag == "mo" and node.text == "∞":  # a number, without the space of an operator
        node.tag = "mi"
    elif node.tag == "munder" and len(node) == 2 and node[1].tag == "mo" and node[1].text == "⏟":
        # A brace is as wide as its term in few fonts: the style draws a line.
        node.tag, term = "mrow", node[0]
        node.attrib = {"class": "term"}
        node[:] = [term]
