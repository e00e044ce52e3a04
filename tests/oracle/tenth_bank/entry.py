"""What an entry of the bank is: a wrong backward, the piece of its text that is wrong, and what is due there."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Entry:
    """piece, due: of the text.  cause: in a sentence.  keywords: a sentence that names the cause holds one of them."""

    name: str
    vjp: Callable[..., Any]
    reference: Any
    piece: str
    due: str
    cause: str
    keywords: tuple[str, ...]
    options: dict[str, Any]

    def mended(self) -> Callable[..., Any]:
        """The program with what is due in place of the piece, which its text holds once."""
        source = textwrap.dedent(inspect.getsource(self.vjp))
        text = source[source.index("\ndef ") :]  # without what is said of it
        assert text.count(self.piece) == 1, self.name
        names = dict(self.vjp.__globals__)
        exec(text.replace(self.piece, self.due), names)
        found: Callable[..., Any] = names[self.vjp.__name__]
        return found


class Bank:
    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def wrong(
        self, reference: Any, piece: str, due: str, *, cause: str, keywords: tuple[str, ...], **options: Any
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def noted(vjp: Callable[..., Any]) -> Callable[..., Any]:
            self.entries.append(Entry(vjp.__name__, vjp, reference, piece, due, cause, keywords, options))
            return vjp

        return noted
