"""Axes along which a rule may be judged in blocks.

Along rows, say, every row of y and of dx depends on the same row of x and dy alone, and dweight is a sum over rows.
Whether an axis is such a one is tried at a small size: the rule at two parts of the inputs, beside the rule at all of
them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manual_bp import axes
from manual_bp.inputs import Edge
from manual_bp.oracle.case import Case
from manual_bp.oracle.cases.drawing import draw, sizes_of
from manual_bp.outputs import parts
from manual_bp.rule import Rule

# A length that no other axis has, in two parts of different lengths.
LENGTH, PARTS = 11, (4, 7)
# The other axes that a name may stand for.
OTHERS = (2, 3, 2, 3)
# Roundings of float64 apart, relative to the largest number of a result.
AGREED = 1e-9


@dataclass(frozen=True)
class Separable:
    """An axis along which parts of a case can be judged by themselves.

    name: the axis.  tensors: of each input and cotangent that has it, the dimension.  arguments: the dimension of each
    argument that has it; None of one that is a sum over the parts.
    """

    name: str
    tensors: Mapping[str, int]
    arguments: Mapping[str, int | None]

    def part(self, rule: Rule, case: Case, start: int, length: int) -> Case:
        """The case of these places on the axis alone."""
        named = case.named(rule)
        narrowed = (x.narrow(self.tensors[n], start, length) if n in self.tensors else x for n, x in named.items())
        return case.with_tensors(narrowed)


def separable(rule: Rule, hyper: Mapping[str, Any], ranks: Mapping[str, int]) -> Iterator[Separable]:
    """Those of the axes that are such ones, in their order.

    ranks: for how many axes each name stands; of several the first is meant.
    """
    for name, rank in ranks.items():
        found = _tried(rule, hyper, name, rank)
        if found is not None:
            yield found


def _tried(rule: Rule, hyper: Mapping[str, Any], name: str, rank: int) -> Separable | None:
    lengths = (LENGTH, *OTHERS[: rank - 1])
    sizes = {**sizes_of(rule), name: lengths}
    edge = Edge("parts", dict(hyper), {name: lengths if rule.axis_names[name] else LENGTH})
    try:
        case = Case(*draw(rule, edge, torch.Generator().manual_seed(0)))
        whole = _results(rule, case)
    except ValueError:  # the rule is not defined at this length
        return None
    every = {n: _dimension(rule.annotations[n], name, sizes) for n in rule.inputs}
    tensors = {n: dimension for n, dimension in every.items() if dimension is not None}
    if not tensors:
        return None
    for cotangent, d in zip(rule.cotangents, parts(case.dy), strict=True) if rule.has_backward else ():
        if d.shape.count(LENGTH) > 1:
            return None
        if LENGTH in d.shape:
            tensors[cotangent] = list(d.shape).index(LENGTH)
    arguments = {}
    for argument, x in whole.items():
        input_name = argument.removeprefix("d")
        if x is None:
            continue
        if argument in rule.arguments[: len(rule.outputs)]:
            arguments[argument] = list(x.shape).index(LENGTH) if LENGTH in x.shape else None
        else:
            arguments[argument] = tensors.get(input_name)
    found = Separable(name, tensors, arguments)
    starts = (0, PARTS[0])
    try:
        some = [_results(rule, found.part(rule, case, s, n)) for s, n in zip(starts, PARTS, strict=True)]
    except (ValueError, RuntimeError, KeyError):
        return None
    for argument, dimension in arguments.items():
        pieces, due = [part[argument] for part in some], whole[argument]
        if any(piece is None for piece in pieces) or due is None:
            return None
        joined = sum(pieces) if dimension is None else torch.cat(pieces, dimension)  # type: ignore[arg-type]
        assert isinstance(joined, Tensor)
        if joined.shape != due.shape or not due.is_floating_point() or not bool(due.isfinite().all()):
            return None
        if bool(((joined - due).abs() > AGREED * due.abs().amax()).any()):
            return None
    return found


def _results(rule: Rule, case: Case) -> dict[str, Tensor | None]:
    y, grads = rule.vjp(case.inputs, case.dy, **case.hyper)
    return dict(zip(rule.arguments, (*parts(y), *grads), strict=True))


def _dimension(annotation: Any, name: str, sizes: axes.Sizes) -> int | None:
    """Which dimension of a tensor is this axis, alone."""
    position = 0
    for token in axes.tokens(annotation):
        if token.startswith("*"):
            if token[1:] == name:
                return position
            position += len(sizes.get(token[1:], ()))
        else:
            if token == name:
                return position
            position += 1
    return None
