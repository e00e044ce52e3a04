"""What an entry of the bank of training code is."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Bank", "Entry", "Kind"]

Kind = Literal["update", "optimizer", "accumulation", "dropout", "early stopping"]


@dataclass(frozen=True)
class Entry:
    """One candidate of a kind (how each is called stands in the package's docstring), and what is true of it."""

    name: str
    kind: Kind
    reference: str | Callable[..., Any]
    """A rule's name; of an accumulation also a function; of early stopping, what it is about."""
    candidate: Any
    right: bool
    cause: str
    """What is wrong, in one sentence; of a right one, what is unusual about it."""
    keywords: tuple[tuple[str, ...], ...] = ()
    """Alternatives: a first sentence that holds all (lower-case) words of one of them has named the cause."""
    options: dict[str, Any] = field(default_factory=dict)
    """What the comparison is told beside: dtype, further arguments of a class, inputs of a function."""


class Bank:
    """Decorators that put what they decorate into a list."""

    def __init__(self, entries: list[Entry], kind: Kind) -> None:
        self.entries, self.kind = entries, kind

    def right(self, reference: Any, why: str, **options: Any) -> Callable[[Any], Any]:
        return self._put(reference, True, why, (), options)

    def wrong(self, reference: Any, cause: str, *keywords: str, **options: Any) -> Callable[[Any], Any]:
        """Each of `keywords` is an alternative, its words parted by spaces."""
        return self._put(reference, False, cause, tuple(tuple(words.lower().split()) for words in keywords), options)

    def _put(self, reference: Any, right: bool, cause: str, keywords: Any, options: Any) -> Callable[[Any], Any]:
        def put(candidate: Any) -> Any:
            self.entries.append(
                Entry(candidate.__name__, self.kind, reference, candidate, right, cause, keywords, options)
            )
            return candidate

        return put
