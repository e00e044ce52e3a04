"""Refutation: most hypotheses are far off where numbers are moderate, and this is seen without their tolerances, which
take longest to find."""

from __future__ import annotations

from collections.abc import Sequence

from manual_bp.oracle.cases import is_moderate
from manual_bp.oracle.diagnosis.agreement import agrees, is_far
from manual_bp.oracle.diagnosis.hypothesis import Predict, Record, Row, Sample
from manual_bp.oracle.diagnosis.view import View

# A hypothesis is first asked at so many cases of moderate numbers for each argument, and at no more elements than this
# if there is a case of fewer.
PROBES = 3
SMALL = 200


def is_far_off(found: View, probes: Sequence[Row], predict: Predict) -> tuple[bool, bool]:
    """Whether a hypothesis explains nothing that is wrong: it differs from each argument by more than any rounding in
    some case of moderate numbers, or says nothing of it in any.  And whether that is seen in cases alone in which the
    argument is wrong."""
    asked, silent = set(found.asked), set(found.asked)
    unmet = set(found.asked)  # by what is wrong
    for record, row in probes:
        found.deadline.check()
        try:
            values = predict(record.evidence.case).values
        except Exception:  # it may be defined elsewhere
            silent.clear()
            continue
        if found.is_silent_on_y(values[0], record.evidence.case):
            asked.discard("y")
            unmet.discard("y")
        named = list(zip(found.arguments, row, values, strict=True))
        here = [(argument, sample, value) for argument, sample, value in named if argument in asked]
        far = {argument: sample for argument, sample, value in here if is_far(sample, value, found.slack)}
        asked -= far.keys()
        unmet -= {argument for argument, sample in far.items() if sample is not None and sample.error > 1}
        silent -= {argument for argument, _, value in named if value is not None}
        if not asked:
            return True, not unmet
    return asked <= silent and bool(probes), False


def probes_of(found: View) -> list[Row]:
    """Where wrong hypotheses are mostly far off: for each argument a few cases in which it is most wrong, small ones
    first."""
    rows = [(r, row) for r, row in found.rows if is_moderate(r.evidence.case)]
    rows = [pair for pair in rows if pair[0].evidence.row is None] or rows  # an end is not what was called
    rows.sort(key=lambda pair: max(pair[0].evidence.case.dy.numel(), SMALL))  # stable: the most wrong comes first
    telling: dict[int, Row] = {}
    for position, argument in enumerate(found.arguments):
        if argument in found.asked:
            which = [(r, row) for r, row in rows if _is_telling(found, row[position])][:PROBES]
            telling |= {id(r): (r, row) for r, row in which}
    return list(telling.values())


def _is_telling(found: View, sample: Sample | None) -> bool:
    """Whether the candidate is wrong where the right formula loses no digits, but for those of a sum."""
    if sample is None or sample.error <= 1 or sample.got.shape != sample.expected.shape:
        return sample is not None and sample.got.shape != sample.expected.shape
    terms = max(sample.case.dy.numel() / sample.got.numel(), 1)
    bound = 2 * found.slack * terms * float(sample.expected.abs().max())
    return bool(float(sample.allowance.max()) <= bound)


def is_refuted_beyond(found: View, predict: Predict, argument: str) -> bool:
    """Whether what holds where no digits are lost is far off in another case of moderate finite numbers."""
    position, counted = found.arguments.index(argument), {id(record) for record, _ in found.rows}
    for record in found.records:
        case, sample = record.evidence.case, found.sample(record, position)
        if id(record) in counted or sample is None or not is_moderate(case) or (found.failing and sample.error <= 1):
            continue
        found.deadline.check()
        try:
            value = predict(case).values[position]
        except Exception:
            continue
        if bool(sample.got.isfinite().all()) and is_far(sample, value, found.slack):
            return True
    return False


def agrees_at_whole(found: View, predict: Predict, whole: Record | None, argument: str, sample: Sample) -> bool:
    """Whether a hypothesis that fails at the end of a large case holds for the case: it may mix rows, or name the first
    of them."""
    if whole is None:
        return False
    try:
        value = predict(whole.evidence.case).values[found.arguments.index(argument)]
    except Exception:
        return False
    if value is None or value.shape != whole.evidence.case.dy.shape:
        return False
    end = value[len(value) - len(sample.expected) :]
    same, visible = agrees(sample, end, None, found.slack, True, found.dtype)
    return same and visible
