"""Records: a case with its evidence and what a candidate returned there; and more of them, where those that came do not
tell enough: the end of a case that is too large, cases drawn anew, the same cases in float32."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import contract_of
from manual_bp.inputs import Edge
from manual_bp.oracle.calling.calls import call
from manual_bp.oracle.case import Case
from manual_bp.oracle.cases.drawing import draw
from manual_bp.oracle.cases.variation import in_precision
from manual_bp.oracle.diagnosis.deadline import Deadline
from manual_bp.oracle.truth.conventions import Conventions
from manual_bp.oracle.truth.evidence import Evidence, evidence
from manual_bp.rule import Rule, Vjp

NARROW = (torch.float16, torch.bfloat16)
"""16 bits have too few digits to tell one cause from another."""

# So few records leave factors of lengths and hyperparameters open, and more are drawn, of these lengths.
FEW = 4
MORE = ((5, 3, 2, 4), (3, 4, 5, 2), (7, 2, 3, 3))


class Record(NamedTuple):
    """A case with its evidence, and what the candidate returned there: the outputs, then one entry per input."""

    evidence: Evidence
    results: tuple[Any, ...]


def dtype_of(records: Sequence[Record]) -> torch.dtype:
    """In which the candidate was called."""
    numbers = (x.dtype for r in records for x in r.evidence.case.tensors if x.is_floating_point())
    return next(numbers, torch.float64)  # of indices alone all is exact


def end_of(record: Record) -> Record | None:
    """The last rows of a case of very many, of which an element-wise rule needs no other; they begin at a multiple of
    every usual block, so that a tail is where it was.  None if the results are of another shape."""
    found, results = record
    shape = found.case.inputs[0].shape
    start = 1 << ((shape[0] - 1).bit_length() - 1)

    def cut(x: Tensor | None) -> Tensor | None:
        return None if x is None else x[start:]

    if any(isinstance(x, Tensor) and x.shape != shape for x in results):
        return None
    case = found.case.with_tensors(x[start:] for x in found.case.tensors)
    case = replace(case, name=f"last rows of {found.case.name}")
    expected, allowance, kinks = (tuple(map(cut, xs)) for xs in (found.expected, found.allowance, found.kinks))
    end = replace(found, case=case, expected=expected, allowance=allowance, kinks=kinks)
    return Record(end, tuple(cut(x) if isinstance(x, Tensor) else x for x in results))


def more_records(
    rule: Rule, candidate: Vjp, like: Case, conventions: Conventions, deadline: Deadline
) -> Iterator[Record]:
    """A few more cases, of other sizes, at which the candidate is called."""
    generator = torch.Generator().manual_seed(0)
    absent = [name for name, x in zip(rule.inputs, like.inputs, strict=True) if x is None]
    dtype = next((x.dtype for x in like.tensors if x.is_floating_point()), torch.float64)
    for lengths in MORE:
        deadline.check()
        sizes = dict(zip(rule.axis_names, lengths, strict=False))
        edge = Edge(f"sizes {lengths}", given=dict.fromkeys(absent), sizes=sizes)
        try:
            inputs, dy, hyper = draw(rule, edge, generator)
            case = in_precision(Case(inputs, dy, hyper, edge.name), dtype)
            evident = evidence(rule, case, contract_of(dtype), conventions)
        except ValueError:  # the page is not defined for these sizes
            continue
        results = call(candidate, rule, case).results if isinstance(evident, Evidence) else None
        if results and isinstance(evident, Evidence):
            yield Record(evident, results)


def in_float32(
    rule: Rule, candidate: Vjp, records: Sequence[Record], conventions: Conventions, deadline: Deadline
) -> Iterator[Record]:
    """The candidate at the same cases in float32."""
    for record in records:
        if record.evidence.row is not None:
            continue
        deadline.check()
        case = in_precision(record.evidence.case, torch.float32)
        results = call(candidate, rule, case).results
        evident = evidence(rule, case, contract_of(torch.float32), conventions) if results else ""
        if results and isinstance(evident, Evidence):
            yield Record(evident, results)


def lost_digits(
    rule: Rule, candidate: Vjp, records: Sequence[Record], wrong: Collection[str], deadline: Deadline
) -> set[tuple[str, str]]:
    """Arguments and cases of float32 in which what is off is right in float64: digits are lost there, and the formula
    is none of a mistake."""
    found = set()
    for record in records:
        off = _off(rule, record, record.results) & set(wrong)
        if not off:
            continue
        deadline.check()
        results = call(candidate, rule, in_precision(record.evidence.case, torch.float64)).results
        if results and len(results) == len(record.results):
            found |= {(argument, record.evidence.case.name) for argument in off - _off(rule, record, results)}
    return found


def _off(rule: Rule, record: Record, results: Sequence[Any]) -> set[str]:
    """The arguments that are further off than a case allows."""
    found = set()
    for argument, got, due, allowed in zip(
        rule.arguments, results, record.evidence.expected, record.evidence.allowance, strict=True
    ):
        if isinstance(got, Tensor) and due is not None and allowed is not None and got.shape == due.shape:
            got = got.detach().cpu().double()
            is_right = ((got - due).abs() <= allowed) | (got == due) | (got.isnan() & due.isnan())
            found |= set() if bool(is_right.all()) else {argument}
        elif due is not None:
            found.add(argument)
    return found
