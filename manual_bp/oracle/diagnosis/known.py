"""Known mistakes: the wrong formulas that the page lists."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from manual_bp.arithmetic.bounded import contract_of
from manual_bp.inputs import Mistake
from manual_bp.oracle.case import Case
from manual_bp.oracle.diagnosis.examination import Examination
from manual_bp.oracle.diagnosis.fitting import ROUNDINGS
from manual_bp.oracle.diagnosis.hypothesis import Explanation, Prediction, Sample, Values, wide
from manual_bp.oracle.words import counted


def whole_mistakes(found: Examination) -> Iterator[Explanation]:
    """Registered mistakes, with all that they change."""
    return _mistakes(found, whole=True)


def parts_of_mistakes(found: Examination) -> Iterator[Explanation]:
    """Registered mistakes of which only a part was made."""
    return _mistakes(found, whole=False)


def _mistakes(found: Examination, whole: bool) -> Iterator[Explanation]:
    matching = []
    for mistake in found.rule.mistakes:
        if not mistake.loses_digits:
            match = found.match(partial(_mistaken, found, mistake), mistake.name)
            if not match.seen:  # a formula that rounds on the way rounds other numbers in float64
                match = found.match(partial(_mistaken_here, found, mistake), f"{mistake.name}, in its own precision")
            if match.seen and not (whole and match.contradicted):
                matching.append((mistake, match.seen))
    # The more it explains the better; sorting is stable, so of equals the page's first stands first.
    for mistake, seen in sorted(matching, key=lambda pair: -len(pair[1])):
        words = f"the known mistake '{mistake.name}': it forgets {mistake.forgets}{_address(mistake)}"
        yield Explanation(seen.keys(), f"{{}} equals {words}; {found.cases(seen)}")


def _mistaken(found: Examination, mistake: Mistake, case: Case) -> Prediction:
    inputs, dy = tuple(map(wide, case.inputs)), wide(case.dy)
    y, grads = found.rule.mistaken(mistake)(inputs, dy, **case.hyper)

    def tolerance() -> Values:
        try:
            return found.rule.widths(case, contract_of(found.dtype), mistake)
        except Exception:  # the formula uses a function of which no width is known
            return (None,) * len(found.arguments)

    return Prediction((y, *grads), tolerance)


def _mistaken_here(found: Examination, mistake: Mistake, case: Case) -> Prediction:
    y, grads = found.rule.mistaken(mistake)(case.inputs, case.dy, **case.hyper)
    return Prediction(tuple(None if x is None else wide(x) for x in (y, *grads)))


def _address(mistake: Mistake) -> str:
    return f" (seen: {mistake.seen})" if mistake.seen else ""


def not_finite_as(found: Examination) -> Iterator[Explanation]:
    """NaN or infinite exactly where a known mistake is, and equal to it elsewhere."""
    for mistake in found.rule.mistakes:
        for argument in found.unexplained():
            seen = 0 if argument == "y" else _breaks_as(found, mistake, argument)
            if seen:
                words = f"NaN or infinite where the known mistake '{mistake.name}' is, and equals it elsewhere"
                evidence = f"it forgets {mistake.forgets}{_address(mistake)}; in {counted(seen, 'case')}"
                yield Explanation({argument}, f"{{}} is {words}: {evidence}")


def _breaks_as(found: Examination, mistake: Mistake, argument: str) -> int:
    """In how many cases the mistake is not finite; 0 if the candidate differs from it anywhere."""
    seen = 0
    for sample in found.column(argument):
        here = _breaks_here(found, mistake, argument, sample)
        if here is None:
            return 0
        seen += here
    return seen


def _breaks_here(found: Examination, mistake: Mistake, argument: str, sample: Sample) -> bool | None:
    """Whether the mistake is not finite in one case; None if the candidate differs from it there."""
    case = sample.case
    try:
        _, grads = found.rule.mistaken(mistake)(case.inputs, case.dy, **case.hyper)
    except Exception:  # not defined there
        return False
    value = grads[found.arguments.index(argument) - 1]
    if value is None or not value.shape == sample.got.shape == sample.expected.shape:
        return None
    value = value.cpu().double()
    broken = ~value.isfinite()
    tolerance = sample.allowance + ROUNDINGS * torch.finfo(found.dtype).eps * value.abs()
    equal = torch.where(broken, ~sample.got.isfinite(), (value - sample.got).abs() <= tolerance)
    return bool(broken[sample.judged].any()) if bool(equal[sample.judged].all()) else None
