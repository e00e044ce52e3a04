"""Words: what a value of a program is called, and where it stands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manual_bp.oracle.diagnosis.program import MOVES, TORCH, Traced
from manual_bp.program import Node, Ref

# Of an expression so many operations are written out; of what lies deeper "…".
DEEP = 3
LONG = 60

INFIX = {"add": "{} + {}", "sub": "{} - {}", "mul": "{}·{}", "div": "{}/{}", "mm": "{} @ {}", "bmm": "{} @ {}",
         "gt": "{} > {}", "ge": "{} ≥ {}", "lt": "{} < {}", "le": "{} ≤ {}", "eq": "{} = {}", "ne": "{} ≠ {}",
         "bitwise_and": "{} and {}", "logical_and": "{} and {}", "pow": "{}^{}", "rsub": "{1} - {0}",
         "maximum": "max({}, {})", "minimum": "min({}, {})"}  # fmt: skip
PREFIX = {"neg": "-{}", "sqrt": "√{}", "rsqrt": "1/√{}", "reciprocal": "1/{}", "sum": "Σ {}", "abs": "|{}|",
          "bitwise_not": "not {}", "logical_not": "not {}"}  # fmt: skip
LOOSE = ("add", "sub", "rsub", "gt", "ge", "lt", "le", "eq", "ne")
"""What is put into brackets within another operation."""


def called(traced: Traced, what: Any, depth: int = DEEP) -> str:
    """What a value, or a constant, is called: by its variable, or as an expression."""
    if isinstance(what, Ref):
        if what in traced.parts:
            return traced.parts[what]
        key = what.position, depth
        if key not in traced.called:
            traced.called[key] = _called(traced, what.position, depth)
        return traced.called[key]
    if isinstance(what, Tensor):
        return f"{float(what):g}" if what.numel() == 1 else "a constant"
    if isinstance(what, float | int) and not isinstance(what, bool):
        return hyperparameter(traced, what) or f"{what:g}"
    return str(what)


def hyperparameter(traced: Traced, number: float) -> str:
    """The hyperparameter that a number is, if it is one of the page, and no number that stands there for itself."""
    given = {**traced.rule.defaults, **traced.case.hyper}
    named = [n for n, h in given.items() if type(h) in (int, float) and h == number]
    return named[0] if len(named) == 1 and number not in PLAIN else ""


PLAIN = (0, 1, -1, 2, 0.5)
"""Numbers that a formula may hold of itself."""


def _called(traced: Traced, position: int, depth: int) -> str:
    if position in traced.names:
        return traced.names[position]
    node = traced.nodes[position]
    operands = [a for a in node.args if isinstance(a, Ref)]
    if node.name in MOVES and operands:
        text = called(traced, operands[0], depth)
        return f"{text if text.isidentifier() else f'({text})'}ᵀ" if _is_turned(traced, node) else text
    if node.name == "scalar_tensor":
        return called(traced, node.args[0], depth)
    if depth == 0:
        return "…"

    def inner(a: Any) -> str:
        text = called(traced, a, depth - 1)
        is_loose = isinstance(a, Ref) and a.position not in traced.names and _is_loose(traced, a)
        return f"({text})" if is_loose else text

    if node.name == "mul" and 1.0 in node.args:  # 1 / x is a reciprocal times 1
        return called(traced, operands[0], depth)
    if node.name in INFIX and len(node.args) >= 2:
        return INFIX[node.name].format(inner(node.args[0]), inner(node.args[1]))
    if node.name in PREFIX:
        return PREFIX[node.name].format(inner(node.args[0]))
    args = ", ".join(called(traced, a, depth - 1) for a in operands or node.refs)
    axis = node.args[1] % traced.values[position].ndim if node.name in ("_softmax", "_log_softmax") else -1
    along = f" along axis {axis}" if 0 <= axis < traced.values[position].ndim - 1 else ""
    return f"{node.name.strip('_')}({args}{along})"


def _is_turned(traced: Traced, node: Node) -> bool:
    """Whether the last two axes are exchanged."""
    x = traced.values[node.args[0].position] if isinstance(node.args[0], Ref) else None
    if node.name == "t" or not isinstance(x, Tensor):
        return node.name == "t"
    if node.name == "transpose":
        return {axis % x.ndim for axis in node.args[1:3]} == {x.ndim - 2, x.ndim - 1}
    return node.name == "permute" and [a % x.ndim for a in node.args[1]][-2:] == [x.ndim - 1, x.ndim - 2]


def _is_loose(traced: Traced, ref: Ref) -> bool:
    node = traced.nodes[ref.position]
    while node.name in MOVES and isinstance(node.args[0], Ref) and node.args[0].position not in traced.names:
        node = traced.nodes[node.args[0].position]
    return node.name in LOOSE


def name_of(traced: Traced, what: Any) -> str:
    """As `called`, quoted."""
    text = called(traced, what)
    return f"`{text}`" if len(text) <= LONG else f"`{text[:LONG]}…`"


def place_of(traced: Traced, position: int, operand: int | None = None, arguments: Sequence[str] | None = None) -> str:
    """File and line of an operation, and the term of the page that it is, in brackets; "" of an input.

    arguments: those that are spoken of, by default all: one line may make a term of another."""
    line = traced.nodes[position].line
    if line is None or traced.by == TORCH or traced.sites[position].stage in ("inputs", "residuals", "results"):
        return ""
    term = term_of(traced, position, operand, arguments)
    return f" ({Path(line.file).name}, line {line.number}{f', the {term} term' if term else ''})"


def term_of(traced: Traced, position: int, operand: int | None = None, arguments: Sequence[str] | None = None) -> str:
    """The name that the page gives to the summand that an operation, or one operand of it, contributes to one of some
    arguments; "" if there is none."""

    rule = traced.rule
    if not rule.has_backward or not hasattr(rule.page, "terms") or traced.by == TORCH:
        return ""
    try:
        named = rule.page.terms(traced.residuals, traced.dy)
        others = traced.edited({position: lambda at: at.altered(torch.zeros_like, operand)})
    except Exception:  # it is asked for a name alone
        return ""
    for argument, terms in named.items():
        right, other = traced.right.get(argument), others.get(argument)
        if right is None or other is None or len(terms) < 2 or argument not in (arguments or named):
            continue
        for name, term in terms.items():
            if torch.allclose((right - other).abs(), term.abs()) and bool((term != 0).any()):
                return str(name)
    return ""
