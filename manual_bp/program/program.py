"""A program: operations of torch in order, each on results of earlier ones."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Line(NamedTuple):
    """Where in its source an operation stands."""

    file: str
    number: int
    text: str
    """The line itself."""


class Ref(NamedTuple):
    """The result of the operation at a position; item: which part of it, of one with several results."""

    position: int
    item: int | None = None


@dataclass(frozen=True)
class Node:
    """One operation.

    op: an operator of torch.ops, or a function of tensors; None of an input.  args, kwargs: with a Ref wherever a
    tensor came from an earlier node.  line: None where no line of the function's own source stands behind it.
    stage: which part of the whole it belongs to ("forward", "backward").
    """

    op: Any
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    line: Line | None = None
    stage: str = "forward"

    @property
    def name(self) -> str:
        """The operation's name, without namespace and overload."""
        if self.op is None:
            return "input"
        schema = getattr(self.op, "_schema", None)
        return str(schema.name).partition("::")[2] if schema else str(self.op.__name__)

    @property
    def refs(self) -> list[Ref]:
        """The results on which it works."""
        return refs_in((self.args, self.kwargs))


@contextmanager
def uncollected() -> Iterator[None]:
    """Of the many objects of a long program, and of its values, all are kept: to look again and again which are not
    takes a tenth of the time, and half of it where one is recorded."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


PLAYED: list[Line | None] = []
"""The lines of the operations that programs are running at the moment, for whoever records them anew."""

Evaluate = Callable[[Any, tuple[Any, ...], Mapping[str, Any]], Any]
"""What an operation gives for arguments of whatever kind."""


@dataclass(frozen=True)
class Program:
    """nodes: the inputs first, then the operations.  results: Refs, constants and None, nested as was returned.
    prepared: what is kept by whoever runs it often."""

    nodes: tuple[Node, ...]
    inputs: int
    results: Any
    prepared: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    def run(
        self, inputs: Sequence[Any], evaluate: Evaluate = lambda op, args, kwargs: op(*args, **kwargs)
    ) -> tuple[Any, list[Any]]:
        """The results for `inputs`, and the value of every node."""
        if len(inputs) != self.inputs:
            raise ValueError(f"the program takes {self.inputs} inputs; came {len(inputs)}")
        return self.continued(list(inputs), evaluate)

    def continued(self, values: list[Any], evaluate: Evaluate) -> tuple[Any, list[Any]]:
        """As `run`, of which the values of the first nodes are known."""
        for node in self.nodes[len(values) :]:
            args, kwargs = placed(node.args, values), placed(node.kwargs, values)
            PLAYED.append(node.line)
            try:
                values.append(evaluate(node.op, args, kwargs))
            finally:
                PLAYED.pop()
        return placed(self.results, values), values

    def pruned(self) -> Program:
        """Without the operations on which no result depends."""
        needed = {ref.position for ref in refs_in(self.results)}
        for position in range(len(self.nodes) - 1, -1, -1):
            if position in needed:
                needed.update(ref.position for ref in self.nodes[position].refs)
        kept = [p for p in range(len(self.nodes)) if p in needed or p < self.inputs]
        if len(kept) == len(self.nodes):
            return self
        new = {old: position for position, old in enumerate(kept)}

        def moved(ref: Ref) -> Ref:
            return Ref(new[ref.position], ref.item)

        nodes = tuple(replaced(self.nodes[p], moved) for p in kept)
        return Program(nodes, self.inputs, mapped(self.results, moved))


def replaced(node: Node, change: Callable[[Ref], Any]) -> Node:
    """The node with something else in place of each result on which it works."""
    return Node(node.op, mapped(node.args, change), mapped(node.kwargs, change), node.line, node.stage)


def placed(structure: Any, values: Sequence[Any]) -> Any:
    """The structure with the values of its Refs."""

    def value(ref: Ref) -> Any:
        return values[ref.position] if ref.item is None else values[ref.position][ref.item]

    return mapped(structure, value)


# What holds nothing.  A program is gone through many times, and to ask for each number whether it is a Mapping takes
# most of the time.
SINGLE = frozenset((Tensor, int, float, bool, str, type(None), torch.dtype, torch.device))


def mapped(structure: Any, change: Callable[[Ref], Any]) -> Any:
    """The structure (tuples, lists and dicts) with each Ref changed."""
    kind = type(structure)
    if kind is Ref:
        return change(structure)
    if kind in SINGLE:
        return structure
    if kind is tuple or kind is list:
        return kind([mapped(item, change) for item in structure])
    if kind is dict or isinstance(structure, Mapping):
        return {key: mapped(value, change) for key, value in structure.items()} if structure else structure
    if isinstance(structure, tuple) and hasattr(structure, "_fields"):
        return kind(*[mapped(item, change) for item in structure])
    if isinstance(structure, tuple | list):
        return kind([mapped(item, change) for item in structure])
    return structure


def refs_in(structure: Any) -> list[Ref]:
    """The Refs in nested tuples, lists and dicts."""
    return _gathered(structure, Ref, [])


def tensors_in(structure: Any) -> list[Tensor]:
    """The tensors in nested tuples, lists and dicts."""
    return _gathered(structure, Tensor, [])


def _gathered(structure: Any, kind: type, found: list[Any]) -> list[Any]:
    holds = type(structure)
    if holds is dict:
        structure, holds = tuple(structure.values()), tuple
    if holds is tuple or holds is list:
        for item in structure:
            _gathered(item, kind, found)
    elif isinstance(structure, kind):
        found.append(structure)
    elif holds not in SINGLE and isinstance(structure, Mapping | tuple | list):
        _gathered(list(structure.values() if isinstance(structure, Mapping) else structure), kind, found)
    return found
