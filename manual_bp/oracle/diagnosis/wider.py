"""The same cases in float32: 16 bits have too few digits to tell one cause from another."""

from __future__ import annotations

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import contract_of
from manual_bp.oracle.calling import call
from manual_bp.oracle.diagnosis.examination import Examination
from manual_bp.oracle.diagnosis.hypothesis import Record
from manual_bp.oracle.errors import errors
from manual_bp.oracle.evidence import Evidence, evidence
from manual_bp.oracle.variation import in_precision

NARROW = (torch.float16, torch.bfloat16)


def in_float32(narrow: Examination) -> Examination:
    """The candidate at the same cases in float32; asked about are those arguments that are wrong there too."""
    form, records = narrow.rule, []
    assert narrow.candidate is not None
    for record in narrow.records:
        if record.evidence.row is not None:
            continue
        narrow.deadline.check()
        case = in_precision(form.made_of(record.evidence.case), torch.float32)
        results = call(narrow.candidate, form.rule, case).results
        evident = evidence(form.rule, case, contract_of(torch.float32), narrow.conventions) if results else ""
        if results and isinstance(evident, Evidence):
            records.append(form.record(Record(evident, results)))
    positions = map(narrow.arguments.index, narrow.open)
    wrong = {narrow.arguments[i] for i in positions if any(_is_wrong(record, i) for record in records)}
    reported = {name for argument in wrong for name in form.named(argument, narrow.reported)}
    return Examination(form, narrow.candidate, records, reported, narrow.conventions, narrow.deadline)


def _is_wrong(record: Record, position: int) -> bool:
    found, got = record.evidence, record.results[position]
    expected, allowance, kinks = (x[position] for x in (found.expected, found.allowance, found.kinks))
    if expected is None or allowance is None or kinks is None:
        return False
    if not isinstance(got, Tensor) or got.shape != expected.shape:
        return False
    ratio, _ = errors(got.cpu(), expected, allowance, torch.float32)
    return bool(((ratio > 1) & ~kinks).any())
