"""Chapters in teaching order: each package of pages says after which other one it comes (AFTER), and introduces itself
in its docstring.  A chapter that says nothing comes last."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from manual_bp.book.docstring import Text, read
from manual_bp.book.page import Page

OWN = "own"
"""Of pages without a chapter."""


@dataclass(frozen=True)
class Chapter:
    name: str
    text: Text
    pages: tuple[Page, ...]

    @property
    def title(self) -> str:
        return self.name.replace("_", " ").capitalize()

    @property
    def summary(self) -> str:
        """The first sentence of its introduction, without its own name before it."""
        name, colon, rest = self.text.summary.partition(": ")
        own = colon and name.lower().rstrip("s") == self.title.lower().rstrip("s")
        return rest[:1].upper() + rest[1:] if own else self.text.summary


def chapters(pages: Iterable[Page]) -> list[Chapter]:
    """In teaching order.  Raises PageError for an introduction that cannot be read, ValueError for an order in a
    circle."""
    packages: dict[str, str] = {}
    found: dict[str, list[Page]] = {}
    for page in pages:
        name = page.rule.chapter or OWN
        packages.setdefault(name, page.rule.page.__name__.rpartition(".")[0])
        found.setdefault(name, []).append(page)
    modules = {name: importlib.import_module(package) for name, package in packages.items() if package}
    after = {name: getattr(module, "AFTER", None) for name, module in modules.items()}
    return [
        Chapter(name, _introduction(modules.get(name), name), tuple(found[name])) for name in in_order(found, after)
    ]


def in_order(names: Iterable[str], after: dict[str, str | None]) -> list[str]:
    """Each name behind the one after which it comes ("": it is the first), those without one last, by name."""
    names = sorted(names)
    found: list[str] = []

    def place(before: str) -> None:
        for name in names:
            if after.get(name) == before and name not in found:
                found.append(name)
                place(name)

    place("")
    if lost := [name for name in names if name not in found and after.get(name) in names]:
        # Behind a chapter that says nothing, which comes last itself.
        rest = [name for name in names if name not in found and name not in lost]
        for name in rest:
            found.append(name)
            place(name)
        if circle := [name for name in lost if name not in found]:
            raise ValueError(
                f"AFTER must lead to a chapter that comes first or says nothing; came a circle of {', '.join(circle)}. "
                "Change it in the __init__.py of one of them."
            )
    return found + [name for name in names if name not in found]


def _introduction(module: object, name: str) -> Text:
    path = getattr(module, "__file__", None)
    source = Path(path).read_text("utf-8") if path else ""
    first = ast.parse(source).body[0].lineno if source.strip() else 1
    return read(
        getattr(module, "__doc__", None) or f"{name}.", (), "/".join(Path(path).parts[-4:]) if path else name, first
    )
