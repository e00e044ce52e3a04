"""Calls: what is seen by calling a candidate again: what depends on earlier calls or on chance, on another mask than
the given one, on the layout of memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from manual_bp.oracle.calling.calls import call
from manual_bp.oracle.calling.settings import seeded
from manual_bp.oracle.case import Case
from manual_bp.oracle.cases.variation import in_precision, wide
from manual_bp.oracle.diagnosis.points import Point
from manual_bp.oracle.diagnosis.samples import APART, Sample
from manual_bp.oracle.diagnosis.search import Search
from manual_bp.oracle.truth.overflow import Watching
from manual_bp.oracle.words import counted, of_cases, some
from manual_bp.rule import Vjp

# At how many cases a candidate is called again, and how many are named.
CALLS, NAMED = 3, 3
# So many coins fall alike by chance once in 4096 times.
NUMBERS = 12
# An error that is smaller by so much is another one, of lost digits.
MENDED = 1e4
# Sums that differ in their order, and differences of what was accumulated, agree to some hundred roundings of float32
# (6e-8 each).
ROUNDING = 1e-5


def unsteady(search: Search, candidate: Vjp, argument: str) -> str:
    """In what way it gives another answer when it is called again at the same case; "" if it does not."""
    # A copy is in another layout, and at a part of a case it was not called.
    wrong = [p for p in search.points[argument] if p.samples[argument].error > APART**2]
    wrong = [p for p in wrong if not (strided_of(p) or p.is_part)]
    wrong.sort(key=lambda p: _worth(p.samples[argument]))
    words = [_again(search, candidate, point, argument) for point in wrong[:CALLS]]
    told = [w for w in words if w]
    if not told:
        return ""
    named = told[0] if all(w == told[0] for w in told) else "it is not the same in every call"
    mask = another_mask(search, argument)
    named += f"; it is {mask}" if mask else ""
    evidence = f"seen in {len(told)} of {counted(len(words), 'case')} at which it was called again"
    return f"{argument} depends on earlier calls or on chance: {named}; {evidence}"


def _worth(sample: Sample) -> tuple[bool, bool]:
    """How little a case tells: of NaN nothing is seen, and few numbers may agree by chance."""
    return not bool(sample.got.isfinite().all()), sample.got.numel() < NUMBERS


def _again(search: Search, candidate: Vjp, point: Point, argument: str) -> str:
    """In what way two more calls at a case differ from the first, in words; "" if they do not."""
    case, sample = point.record.evidence.case, point.samples[argument]

    def result(seed: int) -> Tensor | None:
        search.deadline.check()
        with seeded(seed):  # calls start from the same random numbers otherwise
            return _result(search, candidate, case, argument)

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
        drawn = "it draws random numbers, and differs when these do"
        return f"{drawn}{_drawn_behind(search, argument)}"
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


# ------------------------------------------------------------------------------------------------------------ overflow


def overflown(search: Search, candidate: Vjp, argument: str) -> str:
    """Whether all that is wrong is 0, infinite or NaN where a step of the candidate overflows, and right in float64; ""
    if it is not.  Of an element-wise function, whose derivative is anybody's formula: a page has its own mistakes."""
    if search.dtype != torch.float32 or not (search.rule.elementwise and hasattr(search.rule.page, "FUNCTION")):
        return ""
    wrong = [p for p in search.points[argument] if p.samples[argument].is_wrong]
    for point in wrong:
        case, sample = point.record.evidence.case, point.samples[argument]
        where = sample.wrong
        if sample.got.shape != where.shape or bool(((sample.got != 0) & sample.got.isfinite())[where].any()):
            return ""
        search.deadline.check()
        with Watching(where.shape) as watching:
            again = _result(search, candidate, case, argument)
        finer = _result(search, candidate, in_precision(case, torch.float64), argument)
        if again is None or finer is None or finer.shape != where.shape or not bool(watching.overflown[where].all()):
            return ""
        if not bool(((finer - sample.expected).abs() <= sample.allowance)[where].all()):
            return ""
    if not wrong:
        return ""
    names = some((repr(p.name) for p in wrong), NAMED)
    words = "0, infinite or NaN where a step of the candidate overflows in float32, and right there in float64"
    return f"{argument} is {words}; in {counted(len(wrong), 'case')}: {names}"


def _result(search: Search, candidate: Vjp, case: Case, argument: str) -> Tensor | None:
    results = call(candidate, search.rule, case).results
    got = results[search.rule.arguments.index(argument)] if results else None
    return got.detach().cpu().double() if isinstance(got, Tensor) else None


def _is_same(a: Tensor, b: Tensor, sample: Sample) -> bool:
    if a.shape != sample.allowance.shape or b.shape != a.shape:
        return torch.equal(a, b)
    rounding = ROUNDING * a.abs().maximum(b.abs()).nan_to_num(0, 0, 0)
    close = (a - b).abs() <= APART * sample.allowance + rounding
    return bool((close | ~sample.judged | (a == b) | (a.isnan() & b.isnan())).all())


# ------------------------------------------------------------------------------------------------------------- layouts


def strided_of(point: Point) -> tuple[str, ...]:
    """The tensors of a case that are not contiguous, by name."""
    named = point.record.evidence.case.named(point.rule)
    return tuple(name for name, x in named.items() if not x.is_contiguous())


def contiguous(search: Search, candidate: Vjp, argument: str) -> str:
    """Whether it is right for contiguous copies of the same values, so that some operand is read as if it were one."""
    wrong = [p for p in search.points[argument] if p.samples[argument].error > APART**2]
    blamed: dict[tuple[str, ...], list[str]] = {}
    for point in wrong:
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


def _mended(search: Search, candidate: Vjp, point: Point, argument: str) -> bool:
    search.deadline.check()
    case, sample = point.record.evidence.case, point.samples[argument]
    got = _result(search, candidate, case.with_tensors([x.contiguous() for x in case.tensors]), argument)
    if got is None or got.shape != sample.expected.shape:
        return False
    return replace(sample, got=got).error <= max(1.0, sample.error / MENDED)  # it may lose digits there


# --------------------------------------------------------------------------------------------------------------- masks


def another_mask(search: Search, argument: str) -> str:
    """In what way it follows another mask than the given one, in words; "" if it follows none, or that of the case."""
    for name in search.rule.inputs:
        kind = search.rule.kind(name)
        is_mask = kind is torch.bool or (kind is None and not search.rule.is_number(name))
        for scaled in (True, False) if is_mask else ():
            every = _all_followed(search.points[argument], argument, name, scaled)
            total, more, less = (sum(counts) for counts in zip(*every, strict=True)) if every else (0, 0, 0)
            other = more + less
            # What is left out alone is no other mask.
            if other >= NUMBERS and more and less:
                scale = "" if scaled else ", and without its scale"
                return (
                    f"that of another {name} than the given one (a fresh one?){scale}: each of {total} numbers is that "
                    f"of a kept or of a dropped element, and {other} of them are the other of the two"
                )
    return ""


def _all_followed(points: Sequence[Point], argument: str, name: str, scaled: bool) -> list[tuple[int, int, int]]:
    """As `_followed` in every case; nothing if any number of any is neither, after which no further case is asked."""
    found = []
    for point in points:
        counts = _followed(point, argument, name, scaled)
        if counts is None:
            return []
        found.append(counts)
    return found


def _followed(point: Point, argument: str, name: str, scaled: bool) -> tuple[int, int, int] | None:
    """How many numbers tell kept from dropped, and how many of these are kept, and dropped, where the mask is not so;
    None if any is neither."""
    sample, program = point.samples[argument], point.traced()
    if sample.got.shape != sample.expected.shape:
        return None
    if not sample.got.numel():
        return 0, 0, 0
    positions = {n: p for p, n in program.names.items() if program.sites[p].stage == "inputs"}
    if name not in positions:  # without a mask nothing is dropped
        return None if sample.is_wrong else (0, 0, 0)
    mask = program.values[positions[name]]

    def filled(fill: Callable[[Tensor], Tensor]) -> Tensor | None:
        return program.edited({positions[name]: lambda at: fill(at.result())}).get(argument)

    kept, dropped = filled(torch.ones_like), filled(torch.zeros_like)
    if not scaled:
        case = point.record.evidence.case
        kept = wide(case.dy if argument != "y" else case.inputs[0])
    if kept is None or dropped is None or any(x.shape != sample.got.shape for x in (kept, dropped, mask)):
        return None
    tolerance = 2 * sample.allowance.max() + 2 * sample.slack * kept.abs()
    tells = sample.judged & kept.isfinite() & ((kept - dropped).abs() > 4 * tolerance)
    is_kept, is_dropped = ((sample.got - x).abs() <= tolerance for x in (kept, dropped))
    if not bool((is_kept | is_dropped | ~tells)[sample.judged].all()):
        return None
    more, less = tells & is_kept & ~mask.bool(), tells & ~is_kept & mask.bool()
    return int(tells.sum()), int(more.sum()), int(less.sum())


def own_mask(search: Search, candidate: Vjp | None, argument: str) -> str:
    """As `another_mask`, as a sentence."""
    words = another_mask(search, argument)
    return f"{argument} is {words}" if words else ""
