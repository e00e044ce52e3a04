"""The same cases in float32: 16 bits have too few digits to tell one cause from another."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import contract_of
from manual_bp.oracle.calling import call
from manual_bp.oracle.diagnosis.examination import EXPLAINED
from manual_bp.oracle.diagnosis.hypothesis import Record
from manual_bp.oracle.errors import errors
from manual_bp.oracle.evidence import Evidence, evidence
from manual_bp.oracle.kinds import in_precision
from manual_bp.rule import Rule, Vjp

NARROW = (torch.float16, torch.bfloat16)


def in_float32(
    rule: Rule, candidate: Vjp, records: Sequence[Record], wrong: Collection[str]
) -> tuple[list[Record], set[str]]:
    """What a candidate returns in float32 at cases of 16 bits, and which of the wrong arguments are wrong there too."""
    found = []
    for record in records:
        case = in_precision(record.evidence.case, torch.float32)
        if record.evidence.row is not None or case.dy.numel() > EXPLAINED:
            continue
        results = call(candidate, rule, case).results
        evident = evidence(rule, case, contract_of(torch.float32)) if results else ""
        if results and isinstance(evident, Evidence):
            found.append(Record(evident, results))
    positions = {argument: i for i, argument in enumerate(("y", *(f"d{name}" for name in rule.inputs)))}
    return found, {a for a in wrong if any(_is_wrong(record, positions[a]) for record in found)}


def _is_wrong(record: Record, position: int) -> bool:
    found, got = record.evidence, record.results[position]
    expected, allowance, kinks = (x[position] for x in (found.expected, found.allowance, found.kinks))
    if expected is None or allowance is None or kinks is None:
        return False
    if not isinstance(got, Tensor) or got.shape != expected.shape:
        return False
    ratio, _ = errors(got.cpu(), expected, allowance, torch.float32)
    return bool(((ratio > 1) & ~kinks).any())
