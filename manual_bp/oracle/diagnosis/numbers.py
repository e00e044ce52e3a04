"""What the wrong numbers are: NaN or infinite, leaked from elsewhere or after an overflow; or those of other places."""

from __future__ import annotations

import torch

from manual_bp.oracle.case import Case
from manual_bp.oracle.diagnosis.samples import APART, Sample
from manual_bp.oracle.diagnosis.search import Search
from manual_bp.oracle.words import counted, some
from manual_bp.rule import Vjp

# So many cases are named.
NAMED = 3
# So many numbers fall into the place of others by chance less often than once in a million.
NUMBERS = 10
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


def misplaced(search: Search, candidate: Vjp | None, argument: str) -> str:
    """Whether it holds the numbers that are due, but at other places; "" if it does not."""
    samples = [p.samples[argument] for p in search.points[argument] if p.samples[argument].is_wrong]
    count = sum(int(s.wrong.sum()) for s in samples)
    if count < NUMBERS or any(s.got.shape != s.expected.shape for s in samples):
        return ""
    ranks = {s.got.ndim for s in samples}
    for axis in [*range(max(ranks) if len(ranks) == 1 else 0), None]:
        if all(_is_permuted(s, axis) for s in samples):
            along = "" if axis is None else f" along axis {axis}"
            chosen = {"argmax", "amax", "eq", "scatter_add"} & {n.name for n in search.probe(argument).traced().nodes}
            why = ", as if another element were the largest (another winner)" if chosen else ""
            cases = f"so in all {counted(len(samples), 'case')} in which it is wrong"
            return f"{argument} holds the numbers that are due, but at other places{along}{why}; {cases}"
    return ""


def _is_permuted(sample: Sample, axis: int | None) -> bool:
    """Whether what came is what is due in another order, along one axis or as a whole; what is off by little is not."""
    tolerance = 2 * sample.allowance.max()
    if 2 * int(((sample.got - sample.expected).abs() > APART * tolerance)[sample.wrong].sum()) < int(
        sample.wrong.sum()
    ):
        return False
    got, due = (x.flatten() if axis is None else x for x in (sample.got, sample.expected))
    got, due = (x.sort(axis or 0).values for x in (got, due))
    return bool(((got - due).abs() <= tolerance).all())


def _holds_nan(case: Case) -> bool:
    return any(not bool(torch.isfinite(x).all()) for x in case.tensors if x.is_floating_point())
