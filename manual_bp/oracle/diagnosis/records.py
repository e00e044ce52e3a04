"""Records beside those that compare gathers: the end of a case too large to be explained, and cases drawn anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import contract_of
from manual_bp.inputs import Edge
from manual_bp.oracle.cases import Case, draw
from manual_bp.oracle.conventions import Conventions
from manual_bp.oracle.diagnosis.hypothesis import Record
from manual_bp.oracle.evidence import Evidence, evidence
from manual_bp.rule import Rule

# Cases are drawn of these lengths.
MORE = ((5, 3, 2, 4), (3, 4, 5, 2), (7, 2, 3, 3))


def end_of(record: Record) -> Record | None:
    """The last rows of a case of very many, of which an element-wise rule needs no other; they begin at a multiple of
    every usual block, so that a tail is where it was.  None if the results are of another shape."""
    found, results = record
    shape = found.case.dy.shape
    start = 1 << ((shape[0] - 1).bit_length() - 1)

    def cut(x: Tensor | None) -> Tensor | None:
        return None if x is None else x[start:]

    if any(isinstance(x, Tensor) and x.shape != shape for x in results):
        return None
    inputs = tuple(x[start:] for x in found.case.inputs)
    case = replace(found.case, inputs=inputs, dy=found.case.dy[start:], name=f"last rows of {found.case.name}")
    expected, allowance, kinks = (tuple(map(cut, xs)) for xs in (found.expected, found.allowance, found.kinks))
    end = replace(found, case=case, expected=expected, allowance=allowance, kinks=kinks)
    return Record(end, tuple(cut(x) if isinstance(x, Tensor) else x for x in results))


def more_records(
    rule: Rule, dtype: torch.dtype, conventions: Conventions, call: Callable[[Case], tuple[Any, ...] | None]
) -> Iterator[Record]:
    """A few more cases, of other sizes, at which the candidate is called."""
    generator = torch.Generator().manual_seed(0)
    for lengths in MORE:
        edge = Edge(f"sizes {lengths}", sizes=dict(zip(rule.axis_names, lengths, strict=False)))
        inputs, dy, hyper = draw(rule, edge, generator)
        cast = [x.to(dtype) if x.is_floating_point() else x for x in (*inputs, dy)]
        case = Case(tuple(cast[:-1]), cast[-1], hyper, edge.name)
        results = call(case)
        evident = evidence(rule, case, contract_of(dtype), conventions) if results else ""
        if results and isinstance(evident, Evidence):
            yield Record(evident, results)
