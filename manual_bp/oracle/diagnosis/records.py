"""Records beside those that compare gathers: the end of a case too large to be explained, and cases drawn anew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import contract_of
from manual_bp.inputs import Edge
from manual_bp.oracle.calling import call
from manual_bp.oracle.case import Case
from manual_bp.oracle.conventions import Conventions
from manual_bp.oracle.diagnosis.deadline import Deadline
from manual_bp.oracle.diagnosis.forms import Form
from manual_bp.oracle.diagnosis.hypothesis import Record
from manual_bp.oracle.drawing import draw
from manual_bp.oracle.evidence import Evidence, evidence
from manual_bp.oracle.variation import in_precision
from manual_bp.rule import Vjp

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
    form: Form, candidate: Vjp, dtype: torch.dtype, conventions: Conventions, deadline: Deadline
) -> Iterator[Record]:
    """A few more cases, of other sizes, at which the candidate is called."""
    generator, rule = torch.Generator().manual_seed(0), form.rule
    for lengths in MORE:
        deadline.check()
        sizes = dict(zip(form.axis_names, lengths, strict=False))
        edge = Edge(f"sizes {lengths}", given=dict.fromkeys(form.absent), sizes=sizes)
        try:
            inputs, dy, hyper = draw(rule, edge, generator)
            case = in_precision(Case(inputs, dy, hyper, edge.name), dtype)
            evident = evidence(rule, case, contract_of(dtype), conventions)
        except ValueError:  # the page is not defined for these sizes
            continue
        results = call(candidate, rule, case).results if isinstance(evident, Evidence) else None
        if results and isinstance(evident, Evidence):
            yield form.record(Record(evident, results))
