"""Why a cotangent has another shape than its input: what shapes alone tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor

from manual_bp.oracle.case import Case
from manual_bp.oracle.diagnosis.records import Record
from manual_bp.outputs import parts
from manual_bp.rule import Rule

Shape = tuple[int, ...]


def misshapen(rule: Rule, records: Sequence[Record]) -> dict[str, str]:
    """A sentence for each argument of which it is known, told of the first case where its shape is another than is due.

    Two cotangents are returned in each other's place; an input is broadcast, and its cotangent not summed over what it
    is expanded to; or somebody's function takes an input of the shape that came as well, and broadcasts it.
    """
    found: dict[str, str] = {}
    for record in records:
        case = record.evidence.case
        pairs = zip(rule.inputs, case.inputs, record.results[len(rule.outputs) :], strict=True)
        both = {n: (tuple(x.shape), tuple(g.shape)) for n, x, g in pairs if x is not None and isinstance(g, Tensor)}
        wrong = {name: shapes for name, shapes in both.items() if shapes[0] != shapes[1] and f"d{name}" not in found}
        swapped = dict(_swapped(rule, wrong))
        found |= swapped
        left = {name: shapes for name, shapes in wrong.items() if f"d{name}" not in swapped}
        against = dict(_against(left))
        found |= against
        for name, (due, came) in left.items():
            if f"d{name}" not in against and (sentence := _broadcast(rule, case, name, due, came)):
                found[f"d{name}"] = sentence
    return found


def _swapped(rule: Rule, wrong: Mapping[str, tuple[Shape, Shape]]) -> Iterator[tuple[str, str]]:
    for one, other in combinations(wrong, 2):
        (due, came), (due_there, came_there) = wrong[one], wrong[other]
        if (came, came_there) == (due_there, due):
            order = ", ".join(f"d{name}" for name in rule.inputs)
            words = f"d{one} has the shape of {other}, and d{other} that of {one}: they are due in the order ({order})"
            yield from ((f"d{one}", words), (f"d{other}", words))


def _against(wrong: Mapping[str, tuple[Shape, Shape]]) -> Iterator[tuple[str, str]]:
    """Inputs that are broadcast against each other, as x (8, 1) and a target (8,) are to (8, 8)."""
    for one, other in combinations(wrong, 2):
        (due, came), (due_there, came_there) = wrong[one], wrong[other]
        if came == came_there and due != due_there and _expands(due, came) and _expands(due_there, came):
            words = (
                f"{one} {due} and {other} {due_there} are broadcast against each other, and d{one} and d{other} have "
                f"the shape {came} of that: give both one shape if they are meant to be alike, or sum each cotangent "
                "over the axes along which its input is repeated"
            )
            yield from ((f"d{one}", words), (f"d{other}", words))


def _broadcast(rule: Rule, case: Case, name: str, due: Shape, came: Shape) -> str:
    said = f'inputs={{"{name}": {came}}}'
    if _expands(due, came):
        or_else = (
            f"; or, if {name} is meant to be of that shape, say so: {said}" if _takes(rule, case, name, came) else ""
        )
        return (
            f"d{name} has the shape {came} to which {name}, {due}, is broadcast: sum it over the axes along which "
            f"{name} is repeated{or_else}"
        )
    if _takes(rule, case, name, came):
        return (
            f"d{name} has the shape {came}, and {name} was given as {due}: {rule.name} takes either, and broadcasts "
            f"it. If {name} is meant to be of the shape that came, say so: {said}"
        )
    return ""


def _expands(shape: Shape, to: Shape) -> bool:
    """Whether a tensor of a shape is broadcast to the other."""
    pairs = zip(reversed(shape), reversed(to), strict=False)
    return len(shape) <= len(to) and all(length in (1, other) for length, other in pairs)


def _takes(rule: Rule, case: Case, name: str, shape: Shape) -> bool:
    """Whether somebody's function is defined for an input of this shape, and gives results of the same shapes."""
    function = getattr(rule.page, "FUNCTION", None)
    if function is None:
        return False
    given = [
        torch.ones(shape, dtype=x.dtype) if n == name else x
        for n, x in zip(rule.inputs, case.inputs, strict=True)
        if x is not None
    ]
    try:
        with torch.no_grad():
            here, there = (
                [tuple(y.shape) for y in parts(function(*(x.clone() for x in inputs), **case.hyper))]
                for inputs in (given, [x for x in case.inputs if x is not None])
            )
    except Exception:  # whatever a function of somebody's raises
        return False
    return here == there
