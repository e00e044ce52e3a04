"""A page, or torch's derivative of it, as a program: operations in order, each with its value and its site.

A site is where an operation stands: the part of the run, and the calls that lead to it in the page's source.  What a
loop does in every round has one site, and is edited in every round.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manual_bp.arithmetic.operators import VIEWS
from manual_bp.oracle.case import Case
from manual_bp.oracle.diagnosis.quantities import Quantity, quantities
from manual_bp.outputs import parts
from manual_bp.program import Node, Ref
from manual_bp.program.program import mapped
from manual_bp.rule import Rule

# Of so many terms that are made alike a sum may be that of the rounds of a loop.
ROUNDS = 3
PAGE, TORCH = "page", "torch"
"""Whose program it is."""

Values = dict[str, Tensor | None]
"""Results by the name of the argument: "y", "dx"."""

MOVES = frozenset((
    "alias", "as_strided", "clone", "detach", "expand", "lift_fresh", "permute", "select", "slice", "split", "squeeze",
    "t", "transpose", "unsqueeze", "to", "_to_copy", "unsafe_view", "view", "_reshape_alias", "_unsafe_view",
    "split_with_sizes", "unbind",
))  # fmt: skip
"""Operations that compute nothing."""


class Site(NamedTuple):
    """Where an operation stands: the part of the run, the calls that lead to it, its name."""

    stage: str
    calls: tuple[Any, ...]
    op: str


class At(NamedTuple):
    """An operation within a run in which earlier values may have been changed."""

    traced: Traced
    position: int
    changed: dict[int, Any]

    @property
    def node(self) -> Node:
        return self.traced.nodes[self.position]

    def value(self, ref: Ref) -> Any:
        found = self.changed[ref.position] if ref.position in self.changed else self.traced.values[ref.position]
        return found if ref.item is None else found[ref.item]

    def place(self, structure: Any) -> Any:
        return mapped(structure, self.value)

    def result(self) -> Any:
        """What the operation itself gives; of an input, what it is."""
        return self.traced.values[self.position] if self.node.op is None else self.with_args(self.args())

    def with_args(self, args: Sequence[Any]) -> Any:
        """What it gives for other arguments."""
        # What was changed may lie in memory in another way than what was recorded.
        op = torch.ops.aten.reshape.default if self.node.op in VIEWS else self.node.op
        if self.node.name in ("index_select", "index_add"):  # an index that has become negative counts from the end
            args = [*args[:2], torch.where(args[2] < 0, args[2] + args[0].shape[args[1]], args[2]), *args[3:]]
        return op(*args, **self.place(self.node.kwargs))

    def args(self) -> list[Any]:
        """With what it is called."""
        return list(self.place(list(self.node.args)))

    def altered(self, function: Callable[[Any], Any], operand: int | None = None) -> Any:
        """A function of the result; or the result with that function of one operand in its place."""
        if operand is None:
            return function(self.result())
        args = self.args()
        args[operand] = function(args[operand])
        return self.with_args(args)


Change = Callable[[At], Any]
"""What an operation gives in place of its result."""
Altered = Callable[[Any, At], Any]
"""What stands in one place is changed to, seeing what else there is in that run."""


@dataclass(eq=False)
class Called:
    """A page as it is called at a case, in float64, without its operations: all that is asked of a mistake that it
    lists.  Of a loop of many rounds these take ten times as long to be written down as to be computed."""

    rule: Rule
    case: Case
    inputs: tuple[Tensor | None, ...]
    dy: Any

    @cached_property
    def given(self) -> dict[Any, Values]:
        """What edits gave here, of all arguments at once."""
        return {}

    @property
    def hyper(self) -> dict[str, Any]:
        return {**self.rule.defaults, **self.case.hyper}

    @cached_property
    def right(self) -> Values:
        y, residuals = self.rule.pure(*self.inputs, **self.hyper)
        grads = self.rule.page.backward(residuals, self.dy) if self.rule.has_backward else ()
        return by_name(self.rule, y, grads)

    def needed(self, arguments: Sequence[str]) -> int:
        """All operations: a mistake gives all arguments together."""
        return -1


def by_name(rule: Rule, y: Any, grads: Any) -> Values:
    """Results by the name of the argument, of those that are there."""
    named = zip(rule.arguments, (*parts(y), *(grads or ())), strict=False)
    return {name: x for name, x in named if isinstance(x, Tensor)}


@dataclass(eq=False)
class Traced(Called):
    """nodes, values: the operations in order, the inputs first, and what each gave.  sites: of each.  names: of those
    that are known by one, parts: of one of several that an operation gives.  results: of each argument, the position
    of its value; absent where it is None.
    residuals: with which backward was called.
    """

    by: str
    nodes: tuple[Node, ...]
    values: list[Any]
    sites: list[Site]
    names: dict[int, str]
    parts: dict[Ref, str]
    results: dict[str, int]
    residuals: Any

    @cached_property
    def called(self) -> dict[tuple[int, int], str]:
        """What values are called, once it was asked (`words`)."""
        return {}

    @cached_property
    def alike(self) -> list[int]:
        """Of each value, the first that is equal to it."""
        seen: dict[Any, int] = {}
        keys = [_key(x) if isinstance(x, Tensor) else position for position, x in enumerate(self.values)]
        return [seen.setdefault(key, position) for position, key in enumerate(keys)]

    @cached_property
    def used_by(self) -> list[list[int]]:
        """The operations that use each value."""
        found: list[list[int]] = [[] for _ in self.nodes]
        for position, node in enumerate(self.nodes):
            for used in {ref.position for ref in node.refs}:
                found[used].append(position)
        return found

    @cached_property
    def gathered(self) -> dict[int, list[Ref]]:
        """Where what all rounds of a loop give is put together, in order, and what they give: it is stacked, or added
        up; as torch derives an index, each is written into zeros of its own before."""
        found, sums = dict[int, list[Ref]](), dict[int, list[int]]()
        for position, node in enumerate(self.nodes):
            if node.name == "stack":
                found[position] = [ref for ref in node.args[0] if isinstance(ref, Ref)]
            elif node.name == "add" and all(isinstance(a, Ref) for a in node.args[:2]):
                terms = [p for a in node.args[:2] for p in sums.get(a.position, [a.position])]
                if len({self.nodes[p].name for p in terms}) == 1 and len(set(terms)) > 1:
                    sums[position] = terms
        for position, terms in sums.items():
            is_part = any(user in sums for user in self.used_by[position])
            if len(terms) >= ROUNDS and not is_part:
                each = [self.nodes[p] for p in terms]
                is_written = each[0].name == "select_scatter" and all(isinstance(n.args[1], Ref) for n in each)
                found[position] = [n.args[1] if is_written else Ref(p) for n, p in zip(each, terms, strict=True)]
        return found

    @cached_property
    def positions(self) -> dict[Site, list[int]]:
        found: dict[Site, list[int]] = {}
        for position, site in enumerate(self.sites):
            found.setdefault(site, []).append(position)
        return found

    @cached_property
    def quantities(self) -> list[tuple[str, Quantity]]:
        """What a factor may be (`manual_bp.oracle.diagnosis.quantities`)."""
        return list(quantities(self))

    @cached_property
    def earlier(self) -> list[int]:
        """Of each operation, itself and those on which it depends, as bits."""
        found: list[int] = []
        for position, node in enumerate(self.nodes):
            found.append(1 << position)
            for ref in node.refs:
                found[position] |= found[ref.position]
        return found

    @cached_property
    def later(self) -> list[int]:
        """Of each operation, those that depend on it, as bits."""
        found = [0] * len(self.nodes)
        for position in range(len(self.nodes) - 1, -1, -1):
            for user in self.used_by[position]:
                found[position] |= 1 << user | found[user]
        return found

    def needed(self, arguments: Sequence[str]) -> int:
        """The operations on which these results depend, as bits."""
        return self.needed_at(self.results[a] for a in arguments if a in self.results)

    def needed_at(self, positions: Iterable[int]) -> int:
        """The operations on which these depend, with themselves, as bits."""
        return reduce(operator.or_, (self.earlier[p] for p in positions), 0)

    def before(self, position: int) -> set[int]:
        """The operations on which one depends."""
        return set(bits(self.earlier[position])) - {position}

    def is_given(self, position: int) -> bool:
        """Whether it depends on an input, and is no constant of such a case."""
        return any(self.sites[p].stage == "inputs" for p in bits(self.earlier[position]))

    def edited(self, changes: Mapping[int, Change], needed: int = -1) -> Values:
        """The results if the operations at these positions gave what is said of them; those alone that may differ."""
        changed = self.after(changes, needed)
        return {argument: changed[p] for argument, p in self.results.items() if p in changed}

    def after(self, changes: Mapping[int, Change], needed: int) -> dict[int, Any]:
        """As `edited`, what operations give, of those that are needed."""
        mask = reduce(operator.or_, (1 << position | self.later[position] for position in changes), 0)
        changed: dict[int, Any] = {}
        for position in bits(mask & needed):
            changed[position] = changes.get(position, At.result)(At(self, position, changed))
        return changed

    @cached_property
    def right(self) -> Values:
        return {argument: self.values[p] for argument, p in self.results.items()}


def _key(x: Tensor) -> Any:
    return tuple(x.shape), x.dtype, x.contiguous().numpy().tobytes()


def bits(mask: int) -> list[int]:
    """The positions of the bits that are set, in order."""
    return [position for position, bit in enumerate(reversed(f"{mask:b}")) if bit == "1"]
