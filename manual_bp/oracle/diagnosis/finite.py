"""Not finite: NaN and infinity where numbers are due, that leak from elsewhere or come of an overflow."""

from __future__ import annotations

import torch

from manual_bp.oracle.case import Case
from manual_bp.oracle.diagnosis.search import Search
from manual_bp.oracle.words import counted, some
from manual_bp.rule import Vjp

# So many cases are named.
NAMED = 3
# Beside what is not finite an answer that is off by a larger share is wrong in another way too; roundings are in the
# allowance that is added to it.
FAR = 1e-3


def not_finite(search: Search, candidate: Vjp | None, argument: str) -> str:
    """Whether all that is wrong is NaN or infinite; "" if it is not."""
    wrong = [p for p in search.points[argument] if p.samples[argument].is_wrong]
    rows = []
    for point in wrong:
        sample = point.samples[argument]
        if sample.got.shape != sample.expected.shape:
            return ""
        far = (sample.got - sample.expected).abs() > FAR * sample.expected.abs() + sample.allowance
        if bool((far & sample.judged & sample.got.isfinite()).any()):
            return ""
        if bool((sample.wrong & ~sample.got.isfinite()).any()):
            rows.append(point)
    if not rows:
        return ""
    count = counted(len(rows), "case")
    names = some((repr(p.name) for p in rows), NAMED)
    holding = [_holds_nan(p.record.evidence.case) for p in rows]
    if all(holding):
        words = "NaN or infinity in one place of the input reaches others, where numbers are due"
        return f"{argument} is NaN or infinite too widely: {words}; in {count}: {names}"
    if not any(holding):
        words = "where finite numbers are due, and right elsewhere, as after an overflow or a division by 0"
        return f"{argument} is NaN or infinite {words}; in {count}: {names}"
    return ""


def _holds_nan(case: Case) -> bool:
    return any(not bool(torch.isfinite(x).all()) for x in case.tensors if x.is_floating_point())
