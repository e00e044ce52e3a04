"""Calls: what depends on earlier calls, or on chance; found by calling a candidate again."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from manual_bp.oracle.diagnosis.agreement import APART
from manual_bp.oracle.diagnosis.examination import Examination
from manual_bp.oracle.diagnosis.hypothesis import Explanation, Record, Sample
from manual_bp.oracle.diagnosis.layout import strided_of
from manual_bp.oracle.diagnosis.masks import of_another_mask
from manual_bp.oracle.diagnosis.view import EXPLAINED
from manual_bp.oracle.settings import seeded
from manual_bp.oracle.words import counted

# At how many cases a candidate is called again.
CALLS = 3
# So many coins fall alike by chance once in 4096 times.
NUMBERS = 12
# Sums that differ in their order, and differences of what was accumulated, agree to some hundred roundings of float32
# (6e-8 each).
ROUNDING = 1e-5


def unsteady(found: Examination) -> Iterator[Explanation]:
    """Another answer when it is called again at the same case."""
    if found.candidate is None:
        return
    for argument in found.unexplained():
        position, words = found.arguments.index(argument), []
        # A copy is in another layout, and the end of a large case a case of another size.
        whole = [(r, row) for r, row in found.rows if r.evidence.row is None]
        whole += [(r, [found.sample(r, i) for i in range(len(found.arguments))]) for r in found.large]
        rows = [(r, row) for r, row in whole if not strided_of(found, r.evidence.case)]
        wrong = [(r, s) for r, row in rows if (s := row[position]) is not None and s.error > APART**2]
        wrong.sort(key=lambda pair: _worth(pair[1]))
        for record, sample in wrong[:CALLS]:
            words.append(_again(found, record, sample, position))
        told = [w for w in words if w]
        if told:
            named = told[0] if all(w == told[0] for w in told) else "it is not the same in every call"
            evidence = f"seen in {len(told)} of {counted(len(words), 'case')} at which it was called again"
            mask = of_another_mask(found, argument)
            named += f"; it is {mask}" if mask else ""
            yield Explanation({argument}, f"{{}} depends on earlier calls or on chance: {named}; {evidence}")


def _worth(sample: Sample) -> tuple[bool, bool, bool]:
    """How little a case tells: of NaN nothing is seen, a large one takes long, and few numbers may agree by chance."""
    count = sample.got.numel()
    return not bool(sample.got.isfinite().all()), count > EXPLAINED, count < NUMBERS


def _again(found: Examination, record: Record, sample: Sample, position: int) -> str:
    """In what way two more calls at a case differ from the first, in words; "" if they do not."""
    case = record.evidence.case

    def result(seed: int) -> Tensor | None:
        with seeded(seed):  # calls start from the same random numbers otherwise
            return _result(found.call(case, case.dy), position, sample)

    one, two = result(1), result(2)
    if one is None or two is None or (_is_same(one, sample.got, sample) and _is_same(two, sample.got, sample)):
        return ""
    if _is_same(two, sample.expected, sample):
        return "it is right when it is called twice with the same input, so it uses what an earlier call left behind"
    if _is_same(two - one, sample.expected, sample):
        return "each call adds its result to those of earlier calls, as if a buffer were never set to zero"
    if _is_same(one, two, sample):
        return "another value came when it was called again, so it uses what an earlier call left behind"
    three = result(2)
    if three is not None and _is_same(two, three, sample):
        return "it draws random numbers, and differs when these do"
    return "no two calls gave the same"


def _result(results: tuple[object, ...] | None, position: int, sample: Sample) -> Tensor | None:
    got = results[position] if results else None
    return got.detach().cpu().double() if isinstance(got, Tensor) and got.shape == sample.got.shape else None


def _is_same(a: Tensor, b: Tensor, sample: Sample) -> bool:
    if a.shape != sample.allowance.shape:
        return torch.equal(a, b)
    rounding = ROUNDING * a.abs().maximum(b.abs()).nan_to_num(0, 0, 0)
    return bool(
        (
            ((a - b).abs() <= APART * sample.allowance + rounding) | ~sample.judged | (a == b) | (a.isnan() & b.isnan())
        ).all()
    )
