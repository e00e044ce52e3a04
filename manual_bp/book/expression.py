"""The grammar of a formula in plain text, and the tree that it gives.

    sequence  words, relations and commas between sums
    sum       products between + and −
    product   quotient: factors side by side, or with a sign such as · between; " / " divides all that stands before it
    factor    "a/b" without spaces is a fraction of two atoms with their scripts
    scripted  an atom with _ and ^, primes, and the brackets of a function right behind its name
    atom      number, name, brackets, |x|, ‖x‖, √x, ∂x, "text"

A name of several letters is one of the page (an input, a hyperparameter, either with a d before it), a function's
(before brackets, or log, max and the like), or what stands left of "="; any other is a word.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NoReturn

from manual_bp.book.lexer import (
    CLOSING,
    LETTERS,
    OPENING,
    PUNCTUATION,
    RELATIONS,
    SIGNS,
    SUBSCRIPTS,
    SUPERSCRIPTS,
    TIMES,
    VULGAR,
    NotationError,
    Token,
    tokens,
)
from manual_bp.book.tree import (
    FUNCTIONS,
    LARGE,
    Applied,
    Fenced,
    Fraction,
    Name,
    Node,
    Number,
    Product,
    Root,
    Scripted,
    Sequence,
    Sign,
    Sum,
    Words,
)

DEFINES = frozenset(("=", "←", "↦"))
"""What stands right of a name that it defines."""


def parse(text: str, names: Collection[str] = (), *, words: bool = True) -> Sequence:
    """The tree of one formula.

    names: those of several letters that are mathematics.  words: whether other words may stand in it.
    Raises NotationError that says what is wrong, and at which character.
    """
    return _Parser(text, names, words).whole()


def is_name(text: str, names: Collection[str]) -> bool:
    """Whether a run of letters is mathematics: a name, or one of the cotangent or differential of a name."""
    if len(text) == 1 or text in names or text in FUNCTIONS:
        return True
    return text[0] == "d" and text != "do" and (len(text) == 2 or text[1:] in names)


class _Parser:
    def __init__(self, text: str, names: Collection[str], words: bool) -> None:
        self.text = text
        self.names = names
        self.words = words
        self.tokens = tokens(text)
        self.at = 0
        self.bars: list[str] = []
        """Those of | and ‖ that are open."""

    # ------------------------------------------------------------------------------------------------------- reading

    @property
    def here(self) -> Token | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def take(self) -> Token:
        token = self.here
        if token is None:
            self.fail("the formula ends where something is missing")
        self.at += 1
        return token

    def sees(self, *signs: str) -> bool:
        return self.here is not None and self.here.kind == "sign" and self.here.text in signs

    @staticmethod
    def is_apart(token: Token) -> bool:
        return token.before and token.after

    def fail(self, message: str) -> NoReturn:
        raise NotationError(message, self.here.start if self.here else len(self.text))

    # ------------------------------------------------------------------------------------------------------- grammar

    def whole(self) -> Sequence:
        found = self.sequence()
        if self.here is not None:
            self.fail(f"nothing is open that {self.here.text!r} could close")
        return found

    def sequence(self) -> Sequence:
        start = self.here.start if self.here else len(self.text)
        parts: list[Node] = []
        while (token := self.here) is not None and not self.closes(token):
            if self.is_word(self.at):
                parts.append(self.some_words())
            elif token.kind == "sign" and (
                token.text in RELATIONS | PUNCTUATION or (token.text == "|" and self.is_apart(token))
            ):
                self.at += 1
                parts.append(Sign(token.start, token.end, token.text))
            else:
                parts.append(self.sum())
        end = parts[-1].end if parts else start
        return Sequence(start, end, parts)

    def closes(self, token: Token) -> bool:
        return token.kind == "sign" and (token.text in CLOSING or token.text in self.bars[-1:])

    def is_word(self, at: int) -> bool:
        """Whether the token there is letters that are no mathematics."""
        token = self.tokens[at]
        if token.kind != "name" or token.accents:
            return False
        after = self.tokens[at + 1] if at + 1 < len(self.tokens) else None
        if token.text == "a":  # an article, before a word
            return after is not None and token.after and self.is_word(at + 1)
        if is_name(token.text, self.names) or "_" in token.text or self.is_beside_operator(at):
            return False
        if after is None:
            return True
        has_scripts = after.kind in ("sup", "sub") or (after.text in "_^'′([" and not token.after)
        return not (has_scripts or after.text in DEFINES)

    def is_beside_operator(self, at: int) -> bool:
        """Whether a sign between two terms, with spaces around it, stands before or behind a token."""
        near = [self.tokens[k] for k in (at - 1, at + 1) if 0 <= k < len(self.tokens)]
        return any(
            token.kind == "sign" and token.text in SIGNS | TIMES | {"/"} and self.is_apart(token) for token in near
        )

    def some_words(self) -> Words:
        first = last = self.take()
        while self.here is not None and self.is_word(self.at):
            last = self.take()
        if not self.words:
            raise NotationError(f"{first.text!r} is a word", first.start)
        return Words(first.start, last.end, self.text[first.start : last.end])

    def sum(self) -> Node:
        signs, terms = [self.a_sign()], [self.term()]
        while self.sees(*SIGNS):
            signs.append(self.a_sign())
            terms.append(self.term())
        if len(terms) == 1 and not signs[0]:
            return terms[0]
        return Sum(terms[0].start, terms[-1].end, signs, terms)

    def a_sign(self) -> str:
        return self.take().text if self.sees(*SIGNS) else ""

    def term(self) -> Node:
        found = self.product()
        if not self.sees("/"):
            return found
        slash = self.take()
        below = self.product()
        times = isinstance(below, Product) and any(isinstance(part, Sign) for part in below.parts)
        if times or self.sees("/"):
            raise NotationError("what ' / ' divides is not clear (write a/b without spaces, or brackets)", slash.start)
        return Fraction(found.start, below.end, found, below)

    def product(self) -> Node:
        parts = [self.factor()]
        while (token := self.here) is not None:
            if token.kind == "sign" and token.text in TIMES:
                self.at += 1
                parts.append(Sign(token.start, token.end, token.text))
                if self.sees(*SIGNS):  # 2 · −x
                    sign = self.take()
                    parts.append(Sign(sign.start, sign.end, sign.text))
                parts.append(self.factor())
            elif self.starts(token):
                parts.append(self.factor())
            else:
                break
        return parts[0] if len(parts) == 1 else Product(parts[0].start, parts[-1].end, parts)

    def starts(self, token: Token) -> bool:
        """Whether a factor may begin here."""
        if token.kind == "name":
            return not self.is_word(self.at)
        if token.kind != "sign":
            return token.kind not in ("sup", "sub")
        if token.text in "|‖":
            return not self.closes(token) and not (token.text == "|" and self.is_apart(token))
        return (
            token.text in OPENING
            or token.text in LETTERS | LARGE | VULGAR.keys()
            or token.text == "√"
            or (token.text not in RELATIONS | PUNCTUATION | CLOSING | SIGNS and token.text not in "/^_'′")
        )

    def factor(self) -> Node:
        found = self.tight()
        while self.sees("/") and not (self.here and (self.here.before or self.here.after)):
            self.at += 1
            below = self.tight()
            found = Fraction(found.start, below.end, found, below)
        return found

    def tight(self) -> Node:
        """Atoms without a space between a number and what it multiplies: 2n, 4π."""
        found = self.scripted()
        token = self.here
        if isinstance(found, Number) and token and not token.before and token.kind in ("name", "greek"):
            after = self.scripted()
            return Product(found.start, after.end, [found, after], tight=True)
        return found

    def scripted(self) -> Node:
        found = self.with_scripts(self.atom())
        named = found.base if isinstance(found, Scripted) else found
        if isinstance(named, Name) and self.sees("(", "[") and not self.tokens[self.at].before:
            argument = self.fenced()
            found = self.with_scripts(Applied(found.start, argument.end, found, argument))  # g(x)²
        return found

    def with_scripts(self, base: Node) -> Node:
        found = base if isinstance(base, Scripted) else Scripted(base.start, base.end, base)
        while (token := self.here) is not None and not token.before:
            if token.kind in ("sup", "sub"):
                self.at += 1
                plain = "".join((SUPERSCRIPTS if token.kind == "sup" else SUBSCRIPTS)[c] for c in token.text)
                self.script(found, token.kind, _unicode_script(plain, token))
            elif self.sees("'", "′"):
                self.at += 1
                found.primes += 1
            elif self.sees("_", "^"):
                self.at += 1
                self.script(found, "sub" if token.text == "_" else "sup", self.raised(subscript=token.text == "_"))
            else:
                break
            found.end = self.tokens[self.at - 1].end
        bare = found.sub is None and found.sup is None and not found.primes
        return found.base if bare else found

    def script(self, found: Scripted, which: str, node: Node) -> None:
        if getattr(found, which) is not None:
            raise NotationError(f"there is a second {'index' if which == 'sub' else 'exponent'}", node.start)
        setattr(found, which, node)

    def raised(self, *, subscript: bool) -> Node:
        """What stands behind _ or ^: brackets, or what follows without a space."""
        if self.here is None or self.here.before:
            self.fail("an index or exponent is missing")
        if self.sees("{"):
            return self.fenced().body
        if self.sees("("):
            return self.fenced().body
        if subscript:
            token = self.take()
            if token.kind not in ("name", "number", "greek") and token.text not in LETTERS | TIMES:
                raise NotationError(f"{token.text!r} is no index; put {{}} around it", token.start)
            if token.kind == "name":
                return _index(token)
            return Name(token.start, token.end, token.text, token.accents)
        sign = self.take() if self.sees(*SIGNS) else None
        parts = [self.scripted()]
        while self.here is not None and not self.here.before and self.starts(self.here) and not self.sees("("):
            parts.append(self.scripted())
        body = parts[0] if len(parts) == 1 else Product(parts[0].start, parts[-1].end, parts, tight=True)
        return body if sign is None else Sum(sign.start, body.end, [sign.text], [body])

    def atom(self) -> Node:
        token = self.here
        if token is None:
            self.fail("the formula ends where something is missing")
        if token.kind == "sign" and token.text in OPENING:
            return self.fenced()
        if token.kind == "sign" and token.text in "|‖":
            return self.between_bars(token)
        self.at += 1
        if token.kind == "number":
            return Number(token.start, token.end, token.text)
        if token.kind == "quoted":
            return Words(token.start, token.end, token.text.strip("`"), code=True)
        if token.kind == "name":
            return self.named(token)
        if token.kind == "greek":
            return Name(token.start, token.end, token.text, token.accents)
        if token.text == "√":
            body = self.scripted()
            return Root(token.start, body.end, body)
        if token.text in VULGAR:
            top, below = (Number(token.start, token.end, text) for text in VULGAR[token.text])
            return Fraction(token.start, token.end, top, below)
        if token.text == "∂" and self.here and not self.here.before and not self.sees("/", "²"):
            of = self.scripted()
            sign = Name(token.start, token.end, "∂")
            return Product(token.start, of.end, [sign, of], tight=True)
        if self.tokens[self.at - 1].text in RELATIONS | SIGNS | CLOSING | PUNCTUATION | TIMES or token.text in "/^_'′":
            raise NotationError(f"something is missing before {token.text!r}", token.start)
        if token.kind in ("sup", "sub"):
            raise NotationError(f"{self.text[token.start : token.end]!r} stands behind nothing", token.start)
        return Name(token.start, token.end, token.text, token.accents)

    def named(self, token: Token) -> Node:
        """A name, and what stands behind its last _ unless that belongs to it."""
        if token.text in self.names or "_" not in token.text or is_name(token.text, self.names):
            return Name(token.start, token.end, token.text, token.accents)
        head, _, index = token.text.partition("_")
        for cut in range(token.text.count("_"), 0, -1):  # the longest that is a name
            parts = token.text.split("_")
            if is_name("_".join(parts[:cut]), self.names):
                head, index = "_".join(parts[:cut]), "_".join(parts[cut:])
                break
        middle = token.start + len(head)
        sub = _index(Token("name", index, middle + 1, token.end, False, token.after))
        return Scripted(token.start, token.end, Name(token.start, middle, head), sub=sub)

    def fenced(self) -> Fenced:
        opening = self.take()
        bars, self.bars = self.bars, []
        body = self.sequence()
        self.bars = bars
        due = OPENING[opening.text]
        if self.here is None:
            raise NotationError(f"{opening.text!r} is not closed", opening.start)
        closing = self.take()
        half_open = {opening.text, closing.text} <= set("([)]")  # an interval
        if closing.text != due and not half_open:
            raise NotationError(f"{due!r} must close {opening.text!r}; came {closing.text!r}", closing.start)
        return Fenced(opening.start, closing.end, opening.text, body, closing.text)

    def between_bars(self, opening: Token) -> Node:
        self.at += 1
        self.bars.append(opening.text)
        body = self.sequence()
        self.bars.pop()
        if not self.sees(opening.text):
            raise NotationError(f"{opening.text!r} is not closed", opening.start)
        closing = self.take()
        return Fenced(opening.start, closing.end, opening.text, body, opening.text)


def _index(token: Token) -> Node:
    """An index of letters each of which is one (W_oi), or a word (Σ_rows)."""
    letters = len(token.text) <= 2 or (token.text.islower() and not set(token.text) & set("aeou"))
    if token.text.isalpha() and letters and len(token.text) > 1:
        places = range(token.start, token.end)
        return Product(
            token.start, token.end, [Name(at, at + 1, one) for at, one in zip(places, token.text, strict=True)], True
        )
    return Name(token.start, token.end, token.text)


def _unicode_script(text: str, token: Token) -> Node:
    """What Unicode's small characters say: ⁻¹, ᵀ, ⁻ˣ."""
    body: Node = Number(token.start, token.end, text) if text.isdigit() else Name(token.start, token.end, text)
    if text[0] in SIGNS and len(text) > 1:
        rest = text[1:]
        inner: Node = Number(token.start, token.end, rest) if rest.isdigit() else Name(token.start, token.end, rest)
        return Sum(token.start, token.end, [text[0]], [inner])
    return body
