"""Tokens of a formula in plain text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

SUPERSCRIPTS = dict(
    zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁱⁿᵀᵃᵇᶜᵈᵉᶠᵍʰʲᵏˡᵐᵒᵖʳˢᵗᵘᵛʷˣʸᶻᴴᴸ", "0123456789+−=()inTabcdefghjklmoprstuvwxyzHL", strict=True)
)
SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ", "0123456789+−=()aehijklmnoprstuvx", strict=True))
RELATIONS = frozenset("=≠<>≤≥≈≡≅∈∉⊂⊆→←↦↔⇒⇔∝∼≪≫")
SIGNS = frozenset("+−±∓")
TIMES = frozenset("·×⊙∘⊗⊛∗*⋆∧∨∩∪⊕∖")
"""Signs of a product.  * and ∗ are a convolution's."""
OPENING = {"(": ")", "[": "]", "{": "}", "⌊": "⌋", "⌈": "⌉", "⟨": "⟩"}
CLOSING = frozenset(OPENING.values())
PUNCTUATION = frozenset(",;:.")
LETTERS = frozenset("∂∇∞∅∎ℓℝℤℕ…⋯¬")
"""Signs that stand where a letter may."""
VULGAR = {"½": ("1", "2"), "⅓": ("1", "3"), "⅔": ("2", "3"), "¼": ("1", "4"), "¾": ("3", "4"), "⅛": ("1", "8")}

TYPED = {"-": "−", "...": "…"}
"""What a keyboard has, and what it stands for."""

_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[+−-]?\d+(?!\w))?")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:_[A-Za-z0-9]+)*")
_QUOTED = re.compile(r'"[^"]*"|`[^`]*`')


class NotationError(ValueError):
    """A formula that the grammar does not know.  position: the character at which it stops."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.position = position


@dataclass(frozen=True)
class Token:
    """kind: number, name, greek, quoted, sup, sub (of Unicode), sign (a single character that is none of these).

    text: as written, without accents; accents: combining marks.  start, end: positions in the line.
    before, after: whether there is a space, or the line ends.
    """

    kind: str
    text: str
    start: int
    end: int
    before: bool
    after: bool
    accents: str = ""


def tokens(text: str) -> list[Token]:
    """Raises NotationError for a character that no formula holds."""
    found = list(_found(text))
    return [
        Token(
            kind, part, start, end, start == 0 or text[start - 1] == " ", end == len(text) or text[end] == " ", accents
        )
        for kind, part, start, end, accents in found
    ]


def _found(text: str) -> Iterator[tuple[str, str, int, int, str]]:
    at = 0
    while at < len(text):
        if text[at] == " ":
            at += 1
            continue
        kind, end = _one(text, at)
        part = text[at:end]
        marks = end
        while marks < len(text) and unicodedata.combining(text[marks]):
            marks += 1
        accents = text[end:marks]
        if kind == "name" and not part.isascii():  # ẋ is one character
            plain = unicodedata.normalize("NFD", part)
            part, accents = plain[0], plain[1:] + accents
        yield kind, TYPED.get(part, part), at, marks, accents
        at = marks


def _one(text: str, at: int) -> tuple[str, int]:
    """The kind of the token that begins here, and where it ends."""
    character = text[at]
    if character == "-":
        return "sign", at + 1
    if text.startswith("...", at):
        return "sign", at + 3
    for kind, pattern in (("quoted", _QUOTED), ("number", _NUMBER)):
        if match := pattern.match(text, at):
            return kind, match.end()
    if match := _NAME.match(text, at):
        return "name", match.end()
    for kind, table in (("sup", SUPERSCRIPTS), ("sub", SUBSCRIPTS)):
        if character in table:
            end = at
            while end < len(text) and text[end] in table:
                end += 1
            return kind, end
    if character.isalpha():
        return ("name" if unicodedata.normalize("NFD", character)[0].isascii() else "greek"), at + 1
    known = RELATIONS | SIGNS | TIMES | CLOSING | PUNCTUATION | LETTERS | OPENING.keys() | VULGAR.keys()
    if character in known or character in "/^_|‖√ΣΠ∫'′%!":
        return "sign", at + 1
    if unicodedata.category(character) in ("Sm", "So"):
        return "sign", at + 1
    raise NotationError(f"no formula holds {character!r}", at)
