"""Not finite: NaN and infinity where numbers are due, that leak from elsewhere or come of an overflow."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from manual_bp.oracle.case import Case
from manual_bp.oracle.cases import is_moderate
from manual_bp.oracle.diagnosis.agreement import FAR
from manual_bp.oracle.diagnosis.examination import Examination
from manual_bp.oracle.diagnosis.hypothesis import Explanation, Sample
from manual_bp.oracle.words import counted, some

# So many cases are named.
NAMED = 3


def not_finite(found: Examination) -> Iterator[Explanation]:
    """All that is wrong is NaN or infinite."""
    for argument in found.unexplained():
        position = found.arguments.index(argument)
        wrong = [(r.evidence.case, s) for r, row in found.rows if (s := row[position]) is not None and s.error > 1]
        if any(s.got.shape != s.expected.shape or _is_finite_and_far(found, s) for _, s in wrong):
            continue
        rows = [(case, s) for case, s in wrong if bool((_wrong(s) & ~s.got.isfinite()).any())]
        if not rows:
            continue
        count = counted(len(rows), "case")
        names = some((repr(case.name) for case, _ in rows), NAMED)
        if all(_holds_nan(case) for case, _ in rows):
            words = "NaN or infinity in one place of the input reaches others, where numbers are due"
            yield Explanation({argument}, f"{{}} is NaN or infinite too widely: {words}; in {count}: {names}")
        elif not any(_holds_nan(case) for case, _ in rows):
            words = "where finite numbers are due, and right elsewhere, as after an overflow or a division by 0"
            yield Explanation({argument}, f"{{}} is NaN or infinite {words}; in {count}: {names}")


def _wrong(sample: Sample) -> Tensor:
    return sample.judged & ~((sample.got - sample.expected).abs() <= sample.allowance)


def _is_finite_and_far(found: Examination, sample: Sample) -> bool:
    """Whether a finite number is wrong by more than lost digits, which are few where numbers are moderate."""
    largest = sample.expected.abs().nan_to_num(0, 0, 0).max() if sample.expected.numel() else 0
    digits = found.slack * largest if is_moderate(sample.case) else FAR * sample.expected.abs()
    off = (sample.got - sample.expected).abs() > digits + sample.allowance
    return bool((off & sample.judged & sample.got.isfinite()).any())


def _holds_nan(case: Case) -> bool:
    return any(not bool(torch.isfinite(x).all()) for x in (*case.inputs, case.dy) if x.is_floating_point())
