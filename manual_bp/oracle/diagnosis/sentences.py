"""Sentences: what a search has found, with its evidence."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import torch

from manual_bp.oracle.diagnosis import conditions
from manual_bp.oracle.diagnosis.deadline import Deadline
from manual_bp.oracle.diagnosis.edit import PAGE, PAGES
from manual_bp.oracle.diagnosis.points import LARGE, Point
from manual_bp.oracle.diagnosis.program import PAGE as PROGRAM
from manual_bp.oracle.diagnosis.samples import Sample
from manual_bp.oracle.diagnosis.search import EVIDENT, Search
from manual_bp.oracle.diagnosis.verdict import Verdict
from manual_bp.oracle.diagnosis.words import place_of
from manual_bp.oracle.words import counted, listed, some, told_apart
from manual_bp.rule import Vjp

# Where a case, and an element, is said to be wrong, so many may be right for one that is wrong.
SOME_RIGHT, FEW_RIGHT = 1.0, 0.5
# So many cases are named.
NAMED = 3
# Of so many edits that give what is wrong in some cases it is asked what these have in common.
ASKED = 8
# In so many seconds they are asked in all right cases.
COMPLETED = 0.5
# What is said without a condition rests on so many numbers, and what is said of some elements on so many.
MANY, SEVERAL = 12, 8
# Ratios that differ by less are one factor: three digits of it are shown.
ALIKE = 1e-3
# What is due is near 0 where it is smaller than this share of the largest number that is due in its case.
NEAR_0 = 1e-3
# An edit that gives less than this share of what is wrong is not near.
NEAR = 0.5


class Said(NamedTuple):
    """A sentence about some arguments."""

    arguments: list[str]
    sentence: str


def told(search: Search) -> list[Said]:
    """What was found of every argument: one sentence of all that one edit explains."""
    found: list[Said] = []
    left = [a for a in search.points if search.exact.get(a)]
    while left:
        best = max(
            (v for a in left for v in search.exact[a]),
            key=lambda v: (len(_explained(search, v, left)), _alike(search, v, left), -v.cost),
        )
        arguments = _explained(search, best, left)
        left = [a for a in left if a not in arguments]
        found.append(Said(arguments, _exact(search, best, arguments)))
    for argument in search.points:
        if argument not in search.exact and (said := _partial(search, argument)):
            found.append(Said([argument], said))
    return found


def _explained(search: Search, verdict: Verdict, arguments: Sequence[str]) -> list[str]:
    return [a for a in arguments if any(v.edit is verdict.edit for v in search.exact.get(a, ()))]


def _alike(search: Search, verdict: Verdict, arguments: Sequence[str]) -> int:
    """Of a mistake that the page lists, in how many cases it is what came, computed in one precision or another, to the
    last kink and the same NaN: of several that hold where they tell, as one of which the other is a part, that is named
    which is more often the same."""
    if not verdict.edit.is_registered:
        return 0
    same = ((a, v) for a in arguments for v in search.exact.get(a, ()) if v.edit.words == verdict.edit.words)
    return len({(a, point) for a, v in same for point in v.alike})


PLURAL = {"equals": "equal", "is": "are", "has": "have", "takes": "take"}


def _subject(verdict: Verdict, arguments: Sequence[str], point: Point) -> str:
    """What is said, of whom, and where it stands."""
    edit = verdict.edit
    names = listed(arguments)
    if verdict.by != PROGRAM:
        said = _of("torch's derivative", edit.words)
    elif hasattr(point.rule.page, "FUNCTION"):
        is_value = not any(argument.startswith("d") and argument[1:] in point.rule.inputs for argument in arguments)
        said = _of(point.rule.name if is_value else f"the derivative of {point.rule.name}", edit.words)
    else:
        said = edit.words
    place = ""
    if edit.position is not None:
        place = place_of(point.traced(verdict.by), edit.position, edit.operand, arguments)
    if "{}" in edit.words:
        words = edit.words.replace("{} is", f"{{}} {'is' if len(arguments) == 1 else 'are'}")
        return words.replace("{}", names, 1) + place
    verb, _, rest = said.partition(" ")
    return f"{names} {verb if len(arguments) == 1 else PLURAL.get(verb, verb)} {rest}{place}"


def _of(derivative: str, words: str) -> str:
    """Words about a page as words about a derivative."""
    return words.replace(PAGE, f"equals {derivative} with ").replace(PAGES, f"that of {derivative} with ")


def _exact(search: Search, verdict: Verdict, arguments: list[str]) -> str:
    verdicts = [v for a in arguments for v in search.exact[a] if v.edit is verdict.edit]
    most = max(verdicts, key=lambda v: len(v.agreeing))
    point = search.probe(arguments[0])
    seen, cases = len(most.agreeing), len(most.agreed)
    if cases == 1:
        evidence = "so in the only case, and visibly not right there"
    else:
        looked_at = " looked at" if arguments[0] in search.left_out else ""
        evidence = f"so in all {cases} cases{looked_at}, and visibly not right in {seen if seen < cases else 'each'}"
    drawn = most.fresh or most
    agreeing, undefined = [*most.agreeing, *drawn.agreeing], [*most.undefined, *drawn.undefined]
    where = _of_cases(agreeing, undefined)  # elsewhere the page does not come by there
    return f"{_subject(verdict, arguments, point)}{f', where {where}' if where else ''}; {evidence}{_silent(most)}"


def _silent(verdict: Verdict) -> str:
    return f"; in {counted(verdict.silent, 'more case')} it is not defined" if verdict.silent else ""


def _partial(search: Search, argument: str) -> str:
    """What is wrong in some cases, or in some elements, and what these have in common."""
    verdicts = sorted(search.partial.get(argument, ()), key=lambda v: v.cost)[:ASKED]
    point = search.probe(argument)
    deadline = Deadline(COMPLETED)
    without = ""
    for verdict in verdicts:
        verdict.complete(deadline)
        fresh = search.fresh(argument, [*verdict.agreeing, *verdict.mixed], verdict.contrary)
        if not verdict.in_others(fresh, deadline) or verdict.fresh is None:
            continue
        subject = _subject(verdict, [argument], point).replace("0 everywhere", "0")
        agreeing = [*verdict.agreeing, *verdict.fresh.agreeing]
        contrary = [*verdict.contrary, *verdict.fresh.contrary]
        is_whole = not verdict.mixed and not verdict.fresh.mixed
        if is_whole and not contrary:  # or it were exact
            where = _of_cases(verdict.agreeing, verdict.undefined) if verdict.silent else ""
            return f"{subject}{f', where {where}' if where else ''}; so in {_in(verdict)}{_silent(verdict)}"
        rest = f"; it is right in {counted(len(contrary), 'other case')} that would show it"
        if is_whole and (found := _of_cases(agreeing, contrary)):
            return f"{subject}, where {found}; so in {_in(verdict)}{rest}"
        found, count = _of_elements(verdict, argument)
        if found and count >= SEVERAL:
            return f"{subject}, where {found}; so in all of {counted(count, 'number')} that are wrong"
        numbers = sum(int(p.samples[argument].wrong.sum()) for p in verdict.agreeing)
        # Of elements without a rule anything might be said.
        if not without and is_whole and len(verdict.agreeing) >= EVIDENT and numbers >= MANY:
            without = f"{subject}, in {_in(verdict)}{rest}"
    return without


def _in(verdict: Verdict) -> str:
    """In which of the wrong cases an edit gives what came."""
    points = [*verdict.agreeing, *verdict.mixed]
    names = some((repr(p.name) for p in points), NAMED)
    if verdict.silent:
        return f"{counted(len(points), 'case')} in which it is wrong: {names}"
    if len(points) == 1:
        return f"the only case in which it is wrong: {names}"
    return f"all {len(points)} cases in which it is wrong: {names}"


def _of_cases(those: Sequence[Point], others: Sequence[Point], spare: float = 0.0) -> str:
    """What some cases have in common, and no other (or few, as a share of those); "" if nothing is found."""
    holds = torch.tensor([True] * len(those) + [False] * len(others))
    return conditions.condition(conditions.of_cases([*those, *others]), holds, spare) if those and others else ""


def _of_elements(verdict: Verdict, argument: str) -> tuple[str, int]:
    """What the wrong elements have in common, over all cases that tell."""
    pairs = []
    for point in [*verdict.mixed, *verdict.agreeing, *verdict.contrary]:
        sample, value = point.samples[argument], None
        with suppress(Exception):  # it is not defined there
            value = point.given(verdict.edit, verdict.by, argument)
        if value is not None and value.shape == sample.got.shape and value.numel():
            differs = sample.differs(value)
            pairs.append((point, differs & (sample.wrong | sample.right_by(sample.expected))))
    return _where(pairs, argument)


def _where(pairs: Sequence[tuple[Point, torch.Tensor]], argument: str, spare: float = 0.0) -> tuple[str, int]:
    """What the wrong elements have in common of those that count in some cases, and how many there are."""
    found: list[conditions.Features] = []
    holds: list[torch.Tensor] = []
    for point, counts in pairs:
        every = conditions.of_elements(point.traced(), argument, tuple(counts.shape))
        found.append({n: f._replace(numbers=f.numbers[counts.flatten()]) for n, f in every.items()})
        holds.append(point.samples[argument].wrong[counts])
    names = [n for n in (found[0] if found else {}) if all(n in own for own in found)]
    features = {n: found[0][n]._replace(numbers=torch.cat([own[n].numbers for own in found])) for n in names}
    wrong = torch.cat(holds) if features else torch.zeros(0)
    if int(wrong.sum()) < EVIDENT:
        return "", 0
    return conditions.condition(features, wrong, spare), int(wrong.sum())


def _parted(points: Sequence[Point], argument: str) -> tuple[list[Point], list[Point]]:
    """Those that are wrong, and those that are right where something else than 0 is due."""
    samples = [(p, p.samples[argument]) for p in points]
    right = [
        p for p, s in samples if not s.is_wrong and bool((s.judged & (s.expected.double().abs() > s.allowance)).any())
    ]
    return [p for p, s in samples if s.is_wrong], right


def circumstances(search: Search, candidate: Vjp | None, argument: str) -> str:
    """In which cases, or else at which elements, it is wrong, where no edit says why; "" if these have nothing in
    common."""
    points = search.points[argument]
    wrong, right = _parted(points, argument)
    several = _parted([*points, *search.fresh(argument, wrong, right)], argument)
    looked_at = " looked at" if argument in search.left_out else ""
    count = len(wrong)
    if found := _of_cases(*several, SOME_RIGHT):
        of = f"{count} of {len(points)} cases{looked_at}"
        return f"{argument} is wrong only where {found}; in {of}, for no reason that an edit of one place gives"
    pairs = []
    for point in points:
        sample = point.samples[argument]
        if point.size <= LARGE and sample.got.shape == sample.expected.shape:  # what is due 0 may be right by chance
            pairs.append((point, sample.judged & (sample.wrong | (sample.expected.double().abs() > sample.allowance))))
    found, _ = _where(pairs, argument, FEW_RIGHT)
    if not found:
        return ""
    where = f"{counted(count, 'case')} in which it is wrong{looked_at}"
    return f"{argument} is wrong only at elements where {found}; so in {where}, for no reason that an edit gives"


def ratios_of(sample: Sample) -> tuple[torch.Tensor, bool]:
    """By what wrong numbers are too large, and whether some are left out, as what is due is near 0: there a ratio says
    nothing."""
    if sample.got.shape != sample.expected.shape:
        return torch.zeros(0), False
    due = sample.expected.abs()
    where = sample.wrong & (due != 0) & sample.got.isfinite()
    telling = where & (due >= NEAR_0 * due.nan_to_num(posinf=0.0).amax()) if due.numel() else where
    return (sample.got / sample.expected)[telling], bool((where & ~telling).any())


def silence(search: Search, argument: str) -> str:
    """What is said of an argument that no edit explains."""
    whose = "the function's derivative" if hasattr(search.rule.page, "FUNCTION") else "the page"
    tried = f"no single edit of {whose} gives this, of the {search.tried} that were tried"
    said = [tried if search.tried else f"no edit of {whose} was tried"]
    found = [ratios_of(p.samples[argument]) for p in search.points[argument] if p.samples[argument].is_wrong]
    ratios = [r for r, _ in found if r.numel() >= EVIDENT]
    if ratios:
        said.append(of_ratios(ratios) + (", but for what is due near 0" if any(near for _, near in found) else ""))
    nearest = search.nearest.get(argument)
    if nearest is not None and nearest.share >= NEAR:
        words = nearest.edit.words.removeprefix(PAGE).replace("{} is that", "that")
        numbers = f"{int(100 * nearest.share)}% of the numbers that are wrong in {nearest.case!r}"
        said.append(f"closest: {words}, which gives {numbers}")
    return "; ".join(said)


def of_ratios(ratios: Sequence[torch.Tensor]) -> str:
    """By what the wrong numbers of each case are too large."""
    least, most = min(float(r.min()) for r in ratios), max(float(r.max()) for r in ratios)
    low, high = told_apart(least + 0.0, most + 0.0, 3)  # -0 is 0
    if least == most or low == high:
        return f"what is wrong is {low} times what is due"
    are_factors = all(bool(r.isfinite().all() and (r != 0).all()) for r in ratios)
    if (
        are_factors
        and len(ratios) > 1
        and all(float(r.max() - r.min()) <= ALIKE * float(r.abs().max()) for r in ratios)
    ):
        return f"off by one factor that differs from case to case, from {low} to {high}"
    return f"what is wrong is {low} to {high} times what is due"
