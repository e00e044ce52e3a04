"""What an entry of the fourth bank is."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Bank", "Entry"]


@dataclass(frozen=True)
class Entry:
    """One candidate, `vjp(inputs, dy, **hyper) -> (y, grads)`, and what is true of it."""

    name: str
    reference: str | Callable[..., Any]
    """A rule's name, or a forward in plain torch."""
    vjp: Callable[..., Any]
    right: bool
    cause: str = ""
    """What is wrong, in one sentence; of a right one, what is unusual about it."""
    keywords: tuple[tuple[str, ...], ...] = ()
    """Alternatives: a first sentence that holds all (lower-case) words of one of them has named the cause."""
    options: dict[str, Any] = field(default_factory=dict)
    """What `compare` is told beside: inputs of a function, and what the program is meant for (ndim, min_size)."""


class Bank:
    """Decorators that put what they decorate into a list: `@bank.right(...)`, `@bank.wrong(...)`."""

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = entries

    def right(self, reference: Any, why: str, **options: Any) -> Callable[[Any], Any]:
        return self._put(reference, True, why, (), options)

    def wrong(self, reference: Any, cause: str, *keywords: str, **options: Any) -> Callable[[Any], Any]:
        """Each of `keywords` is an alternative, its words parted by spaces."""
        return self._put(reference, False, cause, tuple(tuple(words.lower().split()) for words in keywords), options)

    def _put(self, reference: Any, right: bool, cause: str, keywords: Any, options: Any) -> Callable[[Any], Any]:
        def put(vjp: Any) -> Any:
            self.entries.append(Entry(vjp.__name__, reference, vjp, right, cause, keywords, options))
            return vjp

        return put
