"""Cases at which a candidate is called beside those that came: the same in another precision, others where they are
few, and such as tell one claim from another: what is said of the cases that came has to hold in these too.

What is due in the last is what the page gives in float64, and what is off is so visibly: by more than the root of a
rounding, so that nothing hangs on how far off a right program may be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from manual_bp import axes
from manual_bp.arithmetic.bounded import contract_of
from manual_bp.hyperparameters import kinds
from manual_bp.inputs import Edge
from manual_bp.oracle.calling.calls import call
from manual_bp.oracle.case import Case
from manual_bp.oracle.cases.drawing import draw
from manual_bp.oracle.cases.variation import in_precision, wide_case
from manual_bp.oracle.diagnosis.deadline import Deadline
from manual_bp.oracle.diagnosis.looked_at import evenly
from manual_bp.oracle.diagnosis.points import LARGE, Point
from manual_bp.oracle.diagnosis.program import by_name
from manual_bp.oracle.diagnosis.records import Record, dtype_of
from manual_bp.oracle.diagnosis.samples import samples_of
from manual_bp.oracle.diagnosis.search import Search
from manual_bp.oracle.truth.conventions import Conventions
from manual_bp.oracle.truth.evidence import OF_ITS_VALUES, Evidence, evidence
from manual_bp.rule import Rule, Vjp

# So few records leave factors of lengths and hyperparameters open, and more are drawn, of these lengths.
FEW = 4
MORE = ((5, 3, 2, 4), (3, 4, 5, 2), (7, 2, 3, 3))
# How a case is called is put together with the lengths of another, of so many that are wrong and right.
OF_EACH = 4
# For so many seconds they are drawn for one question.
SECONDS = 0.3
# So many are drawn whatever the time is: of none everything holds.
AT_LEAST = 4
# By what hyperparameters are multiplied, each by less than the last: a share stays one.
OTHER = 0.9
# A case of more elements takes long.
MOST = 16 * LARGE


def lengths_of(rule: Rule, case: Case) -> axes.Sizes:
    """Every axis of a case by name, with its lengths."""
    sizes: axes.Sizes = {}
    shapes = {n: tuple(x.shape) for n, x in zip(rule.inputs, case.inputs, strict=True) if x is not None}
    axes.bind(rule.annotations, shapes, sizes, case.hyper)
    return sizes


def drawn_as(rule: Rule, like: Case, sizes: Mapping[str, Any], hyper: Mapping[str, Any], seed: int = 0) -> Case:
    """Numbers of such lengths, in the precision of another case, and without the inputs that are absent there."""
    name = ", ".join(f"{axis} = {length}" for axis, length in sizes.items())
    absent = [name for name, x in zip(rule.inputs, like.inputs, strict=True) if x is None]
    edge = Edge(f"{name} (drawn)", given={**hyper, **dict.fromkeys(absent)}, sizes=sizes)
    case = Case(*draw(rule, edge, torch.Generator().manual_seed(seed)), edge.name)
    return in_precision(case, dtype_of([like]))


def recorded(rule: Rule, candidate: Vjp, case: Case, conventions: Conventions) -> Record | None:
    """What a candidate returns at a case, with what is due there; None where either is nothing."""
    results = call(candidate, rule, case).results
    found = evidence(rule, case, contract_of(dtype_of([case])), conventions) if results else None
    return Record(found, results) if results and isinstance(found, Evidence) else None


def more_records(
    rule: Rule, candidate: Vjp, like: Case, conventions: Conventions, deadline: Deadline
) -> Iterator[Record]:
    """A few more cases, of other sizes."""
    for seed, lengths in enumerate(MORE):
        deadline.check()
        with suppress(ValueError):  # the page is not defined for these sizes
            case = drawn_as(rule, like, dict(zip(rule.axis_names, lengths, strict=False)), {}, seed)
            if (record := recorded(rule, candidate, case, conventions)) is not None:
                yield record


def in_float32(
    rule: Rule, candidate: Vjp, records: Sequence[Record], conventions: Conventions, deadline: Deadline
) -> Iterator[Record]:
    """The same cases in float32."""
    for each in records:
        if each.evidence.row is None:
            deadline.check()
            case = in_precision(each.evidence.case, torch.float32)
            if (record := recorded(rule, candidate, case, conventions)) is not None:
                yield record


def lost_digits(rule: Rule, candidate: Vjp, records: Sequence[Record], deadline: Deadline) -> set[tuple[str, str]]:
    """Arguments and cases of float32 in which what is off is right in float64: digits are lost there, and the formula
    is none of a mistake."""
    found = set()
    for record in records:
        case = record.evidence.case
        if off := _off(rule, record):
            deadline.check()
            results = call(candidate, rule, in_precision(case, torch.float64)).results
            if results and len(results) == len(record.results):
                found |= {(argument, case.name) for argument in off - _off(rule, record._replace(results=results))}
    return found


def _off(rule: Rule, record: Record) -> set[str]:
    samples = samples_of(rule.arguments, record, True, torch.float32)
    return {argument for argument, sample in samples.items() if sample.is_wrong}


class Drawn:
    """Of a search: the cases that were drawn, each once."""

    def __init__(self, search: Search, candidate: Vjp | None) -> None:
        self.search, self.candidate = search, candidate
        self._points: dict[Any, Point | None] = {}

    def point(self, like: Case, sizes: Mapping[str, Any], seed: int = 0) -> Point | None:
        """A case that is called as another one, with such lengths; None where the page is not defined or the candidate
        gives nothing."""
        key = str([x is None for x in like.inputs]), str(like.hyper), str(sizes), seed
        if key not in self._points:
            self._points[key] = None
            with suppress(Exception):  # the page is not defined for these lengths or numbers
                self._points[key] = self._drawn(like, sizes, seed)
        return self._points[key]

    def _drawn(self, like: Case, sizes: Mapping[str, Any], seed: int) -> Point | None:
        search, rule, conventions = self.search, self.search.rule, self.search.conventions
        case = drawn_as(rule, like, sizes, like.hyper, seed)
        results = call(self.candidate, rule, case).results if self.candidate is not None else None
        if not results:
            return None
        given = by_name(rule, *rule.vjp(*wide_case(case), **conventions.hyper(rule, case.hyper)))
        due = [None if (x := given.get(name)) is None else x.double() for name in rule.arguments]
        visible = torch.finfo(search.dtype).eps ** 0.5
        beyond = tuple(None if x is None else _of_largest(x, visible) for x in due)
        record = Record(Evidence(case, tuple(due), beyond, (None,) * len(due), OF_ITS_VALUES), results)
        samples = samples_of(rule.arguments, record, False, search.dtype)
        return Point(record, {a: replace(s, slack=visible) for a, s in samples.items()}, rule, conventions)

    def fresh(self, argument: str, wrong: Sequence[Point], right: Sequence[Point]) -> list[Point]:
        """Cases that are called as one that is wrong, or right, with the lengths of another, so that what came together
        by chance comes apart; and longer ones than those that are wrong, and such as have one more on one axis."""
        if self.candidate is None:
            return []
        several = [[p for p in points if p.size <= MOST and not p.is_part] for points in (wrong, right)]
        one, two = ([p.case for p in evenly(points, OF_EACH)] for points in several)
        deadline, found = Deadline(SECONDS), []
        for seed, (like, lengths) in enumerate(self._wanted(one, two)):
            point = self.point(like, lengths, seed) if deadline.left or seed < AT_LEAST else None
            found += [point] if point is not None and argument in point.samples else []
        return found

    def _wanted(self, wrong: Sequence[Case], right: Sequence[Case]) -> Iterator[tuple[Case, axes.Sizes]]:
        """As what a case is to be called, and of which lengths."""
        lengths = {id(case): lengths_of(self.search.rule, case) for case in (*wrong, *right)}
        beside = (*wrong[:2], *right[:2])
        for case in beside:
            for other in self._at_other_numbers(case):
                yield other, lengths[id(case)]
        count = OF_EACH if wrong and right else 0
        crossed = [(wrong[i % len(wrong)], right[i % len(right)]) for i in range(count)]
        for like, other in (*crossed, *((b, a) for a, b in crossed), *((case, case) for case in wrong)):
            yield like, lengths[id(other)]
        for case in wrong[:2]:
            for longer in _longer(lengths[id(case)]):
                yield case, longer
        for case in beside:
            for next_to in _one_more(lengths[id(case)]):
                yield case, next_to

    def _at_other_numbers(self, case: Case) -> list[Case]:
        """Of a function, which may have been called with the same hyperparameters in all cases, the case with others: a
        number is told from what it is made of."""
        rule = self.search.rule
        given = {**rule.defaults, **case.hyper}
        numbers = [n for n, h in given.items() if type(h) in (int, float) and float in kinds(rule.annotations[n])]
        if not hasattr(rule.page, "FUNCTION") or not numbers:
            return []
        others = {name: given[name] * (OTHER - i / 10) for i, name in enumerate(numbers)}
        return [replace(case, hyper={**case.hyper, **others})]


def _longer(sizes: axes.Sizes) -> Iterator[axes.Sizes]:
    """One axis longer: one short of a power of two, which leaves another remainder of every block, or the longest twice
    as long and one."""
    lengths = {axis: length[0] for axis, length in sizes.items() if len(length) == 1}
    for axis, n in lengths.items():
        yield {**sizes, axis: ((1 << (n + 1).bit_length()) - 1,)}
        if n == max(lengths.values()):
            yield {**sizes, axis: (2 * n + 1,)}


def _one_more(sizes: axes.Sizes) -> Iterator[axes.Sizes]:
    """One axis longer by one: an odd length becomes an even one, and a multiple of a block none."""
    for axis, length in sizes.items():
        if len(length) == 1:
            yield {**sizes, axis: (length[0] + 1,)}


def _of_largest(x: Tensor, share: float) -> Tensor:
    """A share of the largest number, for each."""
    largest = float(x.abs().nan_to_num(0, 0, 0).max()) if x.numel() else 0.0
    return torch.full(x.shape, share * largest, dtype=torch.float64)
