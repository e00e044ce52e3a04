"""The tree of a formula, and the names that every formula knows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass

FUNCTIONS = frozenset((
    "log", "exp", "sin", "cos", "tan", "tanh", "sinh", "cosh", "max", "min", "argmax", "argmin", "mean", "sum", "var",
    "std", "sign", "sqrt", "erf", "erfc", "expm1", "log1p", "floor", "ceil", "round", "clamp", "softmax", "sigmoid",
    "silu", "relu", "diag", "tr", "rank", "lse", "mod", "conv", "flip", "rot", "vec", "lim", "sup", "inf",
))  # fmt: skip
"""Names of several letters that are mathematics without brackets behind them too."""
LARGE = frozenset("ΣΠ∫")
LIMITS = frozenset(("max", "min", "argmax", "argmin", "lim", "sup", "inf"))
"""Those whose subscript stands below."""


@dataclass
class Node:
    """A part of a formula; start and end are characters of its line."""

    start: int
    end: int


@dataclass
class Number(Node):
    text: str


@dataclass
class Name(Node):
    text: str
    accents: str = ""


@dataclass
class Words(Node):
    """Text inside a formula; code: as it is typed in a program."""

    text: str
    code: bool = False


@dataclass
class Sign(Node):
    """A relation, a comma, an operator's sign."""

    text: str


@dataclass
class Scripted(Node):
    base: Node
    sub: Node | None = None
    sup: Node | None = None
    primes: int = 0


@dataclass
class Fenced(Node):
    opening: str
    body: Node
    closing: str


@dataclass
class Applied(Node):
    """A function and the brackets right behind its name."""

    function: Node
    argument: Fenced


@dataclass
class Root(Node):
    body: Node


@dataclass
class Fraction(Node):
    top: Node
    bottom: Node


@dataclass
class Product(Node):
    """factors and the Signs between them; tight: without spaces, as 2x and ∂y."""

    parts: list[Node]
    tight: bool = False


@dataclass
class Sum(Node):
    """signs[i] stands before terms[i]; "" before the first.  labels: what stands below each term, if anything does."""

    signs: list[str]
    terms: list[Node]
    labels: list[str] = field(default_factory=list)


@dataclass
class Sequence(Node):
    parts: list[Node]


def nodes(node: Node) -> Iterator[Node]:
    """A tree's nodes, the outer ones first."""
    yield node
    for each in fields(node):
        value = getattr(node, each.name)
        for child in value if isinstance(value, list) else [value]:
            if is_dataclass(child):
                yield from nodes(child)  # type: ignore[arg-type] # a Node's dataclasses are Nodes
