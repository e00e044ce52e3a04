"""What an entry of the eighth bank is: a wrong program, and the words that mend it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Bank", "Entry"]


@dataclass(frozen=True)
class Entry:
    """One candidate, `vjp(inputs, dy, **hyper) -> (y, grads)`, all of them wrong."""

    name: str
    reference: str | Callable[..., Any]
    """A rule's name, or a forward in plain torch."""
    vjp: Callable[..., Any]
    cause: str
    """What is wrong, in one sentence."""
    keywords: tuple[str, ...]
    """Names of the cause: a first sentence that holds one of them has named it, or the place where it is."""
    mend: tuple[str, str]
    """A piece of the program's text, and what should stand in its place."""
    options: dict[str, Any] = field(default_factory=dict)
    """What `compare` is told beside: inputs of a function, and what the program is meant for (ndim, min_size)."""

    def mended(self) -> Callable[..., Any]:
        """The same program without its fault."""
        text = inspect.getsource(self.vjp)
        text = text[text.index(f"def {self.name}(") :]
        wrong, right = self.mend
        assert text.count(wrong) == 1, f"{self.name}: {wrong!r} stands there {text.count(wrong)} times"
        namespace = dict(vars(sys.modules[self.vjp.__module__]))
        exec(text.replace(wrong, right), namespace)
        found: Callable[..., Any] = namespace[self.name]
        return found


class Bank:
    """A decorator that puts what it decorates into a list."""

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = entries

    def wrong(self, reference: Any, cause: str, *keywords: str, mend: tuple[str, str], **options: Any) -> Any:
        def put(vjp: Any) -> Any:
            words = tuple(word.lower() for word in keywords)
            self.entries.append(Entry(vjp.__name__, reference, vjp, cause, words, mend, options))
            return vjp

        return put
