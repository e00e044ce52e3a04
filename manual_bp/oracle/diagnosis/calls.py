"""Calls: what is seen by calling a candidate again: what depends on earlier calls or on chance, on the layout of
memory, or overflows."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from manual_bp.oracle.calling.calls import call
from manual_bp.oracle.calling.settings import seeded
from manual_bp.oracle.case import Case
from manual_bp.oracle.cases.variation import in_precision
from manual_bp.oracle.diagnosis.points import Point
from manual_bp.oracle.diagnosis.samples import APART, Sample
from manual_bp.oracle.diagnosis.search import Search
from manual_bp.oracle.truth.overflow import Watching
from manual_bp.oracle.words import counted, of_cases, some
from manual_bp.rule import Vjp

# At how many cases a candidate is called again, and how many are named.
CALLS, NAMED = 3, 3
# Of fewer numbers all may agree by chance.
NUMBERS = 12
# An error that is smaller by so much is another one, of lost digits.
MENDED = 1e4
# Sums that differ in their order, and differences of what was accumulated, agree to some hundred roundings of float32
# (6e-8 each).
ROUNDING = 1e-5


def unsteady(search: Search, candidate: Vjp, argument: str) -> str:
    """In what way it gives another answer when it is called again at the same case; "" if it does not."""
    # A copy is in another layout, and at a part of a case it was not called.
    wrong = [p for p in _wrong(search, argument) if not (strided_of(p) or p.is_part)]
    wrong.sort(key=lambda p: _worth(p.samples[argument]))
    words = [_again(search, candidate, point, argument) for point in wrong[:CALLS]]
    told = [w for w in words if w]
    if not told:
        return ""
    named = told[0] if all(w == told[0] for w in told) else "it is not the same in every call"
    evidence = f"seen in {len(told)} of {counted(len(words), 'case')} at which it was called again"
    return f"{argument} depends on earlier calls or on chance: {named}; {evidence}"


def contiguous(search: Search, candidate: Vjp, argument: str) -> str:
    """Whether it is right for contiguous copies of the same values, so that some operand is read as if it were one."""
    blamed: dict[tuple[str, ...], list[str]] = {}
    for point in _wrong(search, argument):
        strided = strided_of(point)
        if not strided or not _mended(search, candidate, point, argument):
            return ""
        blamed.setdefault(strided, []).append(point.name)
    smallest = [s for s in blamed if not any(set(other) < set(s) for other in blamed)]
    if not smallest:
        return ""
    cases = of_cases([name for strided in smallest for name in blamed[strided]], NAMED)
    names = list(dict.fromkeys(name for strided in smallest for name in strided))
    said = "is read as if it were contiguous: with a contiguous copy of it"
    said = said if len(names) == 1 else "are read as if they were contiguous: with contiguous copies of them"
    return f"{argument}: {' and '.join(names)} {said} all is right; {cases}"


def overflown(search: Search, candidate: Vjp, argument: str) -> str:
    """Whether all that is wrong is 0, infinite or NaN where a step of the candidate overflows, and right in float64; ""
    if it is not.  Of an element-wise function, whose derivative is anybody's formula: a page has its own mistakes."""
    if search.dtype != torch.float32 or not (search.rule.elementwise and hasattr(search.rule.page, "FUNCTION")):
        return ""
    wrong = [p for p in search.points[argument] if p.samples[argument].is_wrong]
    for point in wrong:
        sample, where = point.samples[argument], point.samples[argument].wrong
        if sample.got.shape != where.shape or bool(((sample.got != 0) & sample.got.isfinite())[where].any()):
            return ""
        with Watching(where.shape) as watching:
            _result(search, candidate, point.case, argument)
        finer = _result(search, candidate, in_precision(point.case, torch.float64), argument)
        if finer is None or finer.shape != where.shape:
            return ""
        is_right = (finer - sample.expected).abs() <= sample.allowance
        if not bool((watching.overflown & is_right)[where].all()):
            return ""
    words = "0, infinite or NaN where a step of the candidate overflows in float32, and right there in float64"
    names = some((repr(p.name) for p in wrong), NAMED)
    return f"{argument} is {words}; in {counted(len(wrong), 'case')}: {names}" if wrong else ""


def strided_of(point: Point) -> tuple[str, ...]:
    """The tensors of a case that are not contiguous, by name."""
    return tuple(name for name, x in point.case.named(point.rule).items() if not x.is_contiguous())


def _wrong(search: Search, argument: str) -> list[Point]:
    """Where it is off by more than the order of a sum may do."""
    return [p for p in search.points[argument] if p.samples[argument].error > APART**2]


def _worth(sample: Sample) -> tuple[bool, bool]:
    """How little a case tells: of NaN nothing is seen, and few numbers may agree by chance."""
    return not bool(sample.got.isfinite().all()), sample.got.numel() < NUMBERS


def _again(search: Search, candidate: Vjp, point: Point, argument: str) -> str:
    """In what way two more calls at a case differ from the first, in words; "" if they do not."""
    sample = point.samples[argument]

    def result(seed: int) -> Tensor | None:
        with seeded(seed):  # calls start from the same random numbers otherwise
            return _result(search, candidate, point.case, argument)

    one, two = result(1), result(2)
    if one is None or two is None or one.shape != two.shape or one.shape != sample.got.shape:
        return ""
    if _is_same(one, sample.got, sample) and _is_same(two, sample.got, sample):
        return ""
    if _is_same(two, sample.expected, sample):
        return "it is right when it is called twice with the same input, so it uses what an earlier call left behind"
    if _is_same(two - one, sample.expected, sample):
        return "each call adds its result to those of earlier calls, as if a buffer were never set to zero"
    if _is_same(one, two, sample):
        return "another value came when it was called again, so it uses what an earlier call left behind"
    three = result(2)
    if three is not None and _is_same(two, three, sample):
        return f"it draws random numbers, and differs when these do{_drawn_behind(search, argument)}"
    return "no two calls gave the same"


def _drawn_behind(search: Search, argument: str) -> str:
    """Whether backward alone draws, and forward does not, as all that it gives is right in every case, in words."""
    outputs = [name for name in search.rule.arguments if not name.startswith("d")]
    if argument in outputs or any(name in search.wrong for name in outputs):
        return ""
    masks = [name for name in search.rule.inputs if search.rule.kind(name) is torch.bool]
    again = f" with another {' or '.join(masks)} than the given one" if masks else ""
    return (
        f", where {' and '.join(outputs)} is right and draws none: backward draws anew, as where it computes forward "
        f"again (a checkpoint){again}"
    )


def _mended(search: Search, candidate: Vjp, point: Point, argument: str) -> bool:
    """Whether contiguous copies make it right."""
    case, sample = point.case, point.samples[argument]
    got = _result(search, candidate, case.with_tensors([x.contiguous() for x in case.tensors]), argument)
    if got is None or got.shape != sample.expected.shape:
        return False
    return replace(sample, got=got).error <= max(1.0, sample.error / MENDED)  # it may lose digits there


def _result(search: Search, candidate: Vjp, case: Case, argument: str) -> Tensor | None:
    search.deadline.check()
    results = call(candidate, search.rule, case).results
    got = results[search.rule.arguments.index(argument)] if results else None
    return got.detach().cpu().double() if isinstance(got, Tensor) else None


def _is_same(a: Tensor, b: Tensor, sample: Sample) -> bool:
    if a.shape != sample.allowance.shape or b.shape != a.shape:
        return torch.equal(a, b)
    rounding = ROUNDING * a.abs().maximum(b.abs()).nan_to_num(0, 0, 0)
    close = (a - b).abs() <= APART * sample.allowance + rounding
    return bool((close | ~sample.judged | (a == b) | (a.isnan() & b.isnan())).all())
