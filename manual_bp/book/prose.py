"""Formulas inside sentences: plain text does not mark them, so they are recognised.

A formula is a run of words that look like one (Greek letters, operators, an index, a single letter ...) and that the
grammar reads.  Whatever it does not read stays text, as typed, which reads well too.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from manual_bp.book.expression import is_name, parse
from manual_bp.book.latex import SPELT
from manual_bp.book.lexer import LETTERS, RELATIONS, SIGNS, SUBSCRIPTS, SUPERSCRIPTS, TIMES, NotationError
from manual_bp.book.tree import FUNCTIONS, Sequence

OPERATORS = (RELATIONS | SIGNS | TIMES | {"/", "|", "-"}) - {"*"}
STRONG = frozenset("√ΣΠ∫‖^′") | LETTERS - {"…"} | SUPERSCRIPTS.keys() | SUBSCRIPTS.keys() | OPERATORS - set("/|<>-")
"""Characters that stand in formulas alone."""
_CODE = re.compile(r"`([^`]+)`")
_PROGRAM = re.compile(r"\b(?:[a-z]\w*\.)*[a-z]{3,}(?:_[a-z\d]{2,})+_?(?![\w:])")
"""A name of a program."""
_PLAIN = re.compile(r"[\d.,+−½⅓¼¾-]*")
_NUMBERS = re.compile(r"[\d.,+−½⅓¼¾()/-]*")
_GREEK = re.compile(r"[\u0370-\u03ff\u0300-\u036f\u1e00-\u1eff]|\w_\w|\w_\{|^\|.*\|$")
_LETTER = re.compile(
    r"[([]*(?:\d[\d.]*)?(?:[B-HJ-Zb-z]|d[A-Za-z]|[aAI](?=[(\[]))'?(?:[(\[][^()[\]]*[)\]])?[)\]]*(?:/[\dA-Za-z(]{1,3}[)\]]*)?"
)
_CALL = re.compile(r"[([]*[A-Za-z]\w*[(\[].*")


@dataclass(frozen=True)
class Code:
    """What stands between backticks."""

    text: str


@dataclass(frozen=True)
class Formula:
    """text: as typed."""

    text: str
    tree: Sequence


Inline = str | Code | Formula


def inlines(text: str, names: Collection[str]) -> list[Inline]:
    """A paragraph as text, code and formulas."""
    found: list[Inline] = []
    for position, part in enumerate(_CODE.split(" ".join(text.split("\n")))):
        if position % 2:
            found.append(Code(part))
        elif part:
            found.extend(_formulas(part, names))
    return found


def _formulas(text: str, names: Collection[str]) -> Iterator[Inline]:
    words = re.split(r"( +)", text)  # spaces at odd positions
    at, plain = 0, ""
    while at < len(words):
        if (code := _PROGRAM.search(words[at])) and code[0] not in names:  # softmax_update: no index of softmax
            start, end = code.span()
            if plain + words[at][:start]:
                yield plain + words[at][:start]
            yield Code(code[0])
            plain = words[at][end:]
            at += 1
            continue
        run = _longest(words, at, names) if at % 2 == 0 else None
        if run is None:
            plain += words[at]
            at += 1
            continue
        end, before, formula, after = run
        if plain + before:
            yield plain + before
        yield formula
        plain = after
        at = end
    if plain:
        yield plain


def _longest(words: list[str], at: int, names: Collection[str]) -> tuple[int, str, Formula, str] | None:
    """The longest formula that begins with a word: where it ends, brackets and stops before and after it."""
    if not _may_begin(words, at, names):
        return None
    end = at
    while end < len(words) and (_is_hard(words[end], names) or _is_soft(words[end], names)):
        end += 1
        closed = _balance("".join(words[at:end])) == 0
        stops = words[end - 1][-1:] in ".,;:" or (
            words[end - 1][-1:] == "∞" and not set("".join(words[end + 1 : end + 2])) <= OPERATORS
        )
        if stops and closed:
            break
        end += end < len(words)
    end = min(end if end % 2 else end - 1, len(words))
    while end > at:
        run = "".join(words[at:end])
        last = words[end - 1]
        if (_is_hard(last, names) or _ends_well(words, at, end)) and (found := _read(run, names)):
            return end, *found
        end -= 2
    return None


def _ends_well(words: list[str], at: int, end: int) -> bool:
    """Whether a name that is also a word of English ends a formula: behind an operator, or in one."""
    return end - at > 2 and any(set(word) <= OPERATORS and word for word in words[at : end - 1 : 2])


def _read(run: str, names: Collection[str]) -> tuple[str, Formula, str] | None:
    body = run.rstrip(".,;:")
    after = run[len(body) :]
    before = ""
    while (balance := _balance(body)) != 0:
        if balance > 0 and body[0] in "([":
            before, body = before + body[0], body[1:]
        elif balance < 0 and body[-1] in ")]":
            body, after = body[:-1], body[-1] + after
        else:
            return None
    if body.startswith("(") and body.endswith(")") and _balance(body[1:-1], strict=True) == 0 and " " in body:
        before, body, after = before + "(", body[1:-1], ")" + after
    if not body or _PLAIN.fullmatch(body) or body[0] in "=·/" or body[-1] in "=+·/" or body[:2] in ("+ ", "− ", "- "):
        return None
    try:
        return before, Formula(body, parse(body, names, words=False)), after
    except NotationError:
        return None


def _balance(text: str, *, strict: bool = False) -> int:
    depth = 0
    for character in text:
        depth += (character in "([") - (character in ")]")
        if strict and depth < 0:
            return depth
    return depth


def _may_begin(words: list[str], at: int, names: Collection[str]) -> bool:
    """A name that is also a word of English begins a formula if an operator follows."""
    word = words[at]
    if _is_hard(word, names) or _PLAIN.fullmatch(_bare(word)):
        return bool(word)
    following = words[at + 2] if at + 2 < len(words) else ""
    return _bare(word) in names and bool(following) and set(following) <= OPERATORS


def _is_hard(word: str, names: Collection[str]) -> bool:
    """Whether a word is mathematics on its own."""
    bare = _bare(word)
    if not bare or "://" in word or re.search(r"\w-\w", bare):  # i-th is a word
        return bool(word) and set(word) <= OPERATORS
    bare = bare.removeprefix("-") or bare
    if set(bare) & STRONG or _GREEK.search(bare):
        return True
    if bare in ("a", "A", "I"):
        return False
    if (bare in SPELT and bare in names) or (bare.endswith("'") and bare.rstrip("'") in FUNCTIONS):
        return True
    if bare.startswith("d") and len(bare) > 2 and bare[1:] in names:
        return True
    if _LETTER.fullmatch(word.rstrip(".,;:").removeprefix("-")) or _is_ratio(bare, names):
        return bare not in ("do",) and not bare.isdigit()
    if _CALL.fullmatch(bare):
        return bare.lstrip("([").partition("(")[0] in FUNCTIONS
    return set(bare) <= OPERATORS


def _is_ratio(bare: str, names: Collection[str]) -> bool:
    """Whether it is numbers, letters or names with a slash between them, as no words are (and/or)."""
    parts = [part.strip("()") for part in bare.split("/")]
    return len(parts) > 1 and all(part.isdigit() or (part and is_name(part, names)) for part in parts)


def _is_soft(word: str, names: Collection[str]) -> bool:
    """Whether a word may stand in a formula: a number, an a, a name that is also a word of English."""
    bare = _bare(word)
    return word.isspace() or bool(_NUMBERS.fullmatch(word.rstrip(".,;:"))) or bare == "a" or is_name(bare or "?", names)


def _bare(word: str) -> str:
    """Without the sentence's stops, and without brackets unless they are a function's."""
    if _CALL.fullmatch(word):
        return word.rstrip(".,;:")
    return word.strip("()[].,;:")
