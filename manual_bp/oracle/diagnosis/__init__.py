"""Diagnosis: why a candidate is wrong, as one edit of the page's own lines.

Most wrong backwards are the right program with one edit, and the right program is at hand.  A page is written down
operation by operation (`program`), and what every edit of it gives (`edits`, `whole`, `multiples`) is compared with
what the candidate returned (`search`): an edit that gives it in every case, and in some case is visibly not right, is
the cause, and is said in words made from the edit (`sentences`), with the line where it stands.  Where only some cases
or some elements are wrong, it is said what these have in common (`conditions`), if that holds in cases drawn to tell it
from chance too (`drawn`).

What no edit can be is seen otherwise: another answer in another call, in another layout (`calls`), NaN (`numbers`).  So
a right candidate gets no diagnosis, and neither does one that is wrong without a system.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import NamedTuple

import torch

from manual_bp.oracle.diagnosis import calls, numbers, precision
from manual_bp.oracle.diagnosis.deadline import Deadline, TimeIsUp
from manual_bp.oracle.diagnosis.drawn import FEW, Drawn, in_float32, lost_digits, more_records
from manual_bp.oracle.diagnosis.lengths import longer
from manual_bp.oracle.diagnosis.records import Record, dtype_of
from manual_bp.oracle.diagnosis.search import Search
from manual_bp.oracle.diagnosis.sentences import circumstances, silence, told
from manual_bp.oracle.truth.conventions import Conventions
from manual_bp.oracle.truth.evidence import OUR_CONVENTIONS
from manual_bp.rule import Rule, Vjp

__all__ = ["Diagnosis", "Record", "diagnose"]

# 16 bits have too few digits to tell one cause from another.
NARROW = (torch.float16, torch.bfloat16)
# For edits this share of the time is taken; what is left is for how it goes wrong.
SEARCH = 0.75
# A search that was cut short is worth trying with so many times the time.
MORE_TIME = 10

BEFORE: tuple[Callable[[Search, Vjp, str], str], ...] = (calls.unsteady, calls.contiguous, calls.overflown)
"""What calls the candidate again: no edit is what it depends on.  Of an argument is said what is so, and else ""."""
AFTER: tuple[Callable[[Search, Vjp | None, str], str], ...] = (
    numbers.not_finite,
    numbers.misplaced,
    precision.sixteen_bits,
    circumstances,
)
"""What says how it goes wrong, where no edit says why."""


class Diagnosis(NamedTuple):
    """sentences: why it is wrong, best first, each with its evidence; none for a right candidate.
    explained: the arguments that they are about.  shared: of others, what all their wrong numbers have in common.
    search: that the search was cut short, or a part of it failed, if so, in words.
    has_cause: whether some of the sentences say why, and not only where."""

    sentences: list[str]
    explained: set[str]
    shared: dict[str, str]
    search: str = ""
    has_cause: bool = False


class _Examination:
    """What has been found so far."""

    def __init__(
        self, rule: Rule, candidate: Vjp | None, wrong: Collection[str], conventions: Conventions, deadline: Deadline
    ) -> None:
        self.rule, self.candidate, self.conventions, self.deadline = rule, candidate, conventions, deadline
        self.left = set(wrong)
        self.sentences: list[str] = []
        self.explained: set[str] = set()
        self.shared: dict[str, str] = {}
        self.failed: list[str] = []
        self.cut = self.has_cause = False

    def ask(self, search: Search, detector: Callable[..., str], seen: str = "") -> None:
        """Pages are anybody's: where one raises, that is said, and what others find stands."""
        for argument in [a for a in search.points if a in self.left]:
            try:
                sentence = detector(search, self.candidate, argument)
            except Exception as error:
                name = getattr(detector, "__name__", str(detector))
                failure = f"{name} raised {type(error).__name__}: {error}"
                self.failed.append(f"of the search for the cause a part failed: {failure}")
                return
            if sentence:
                self.tell([argument], sentence + seen, detector is not circumstances)

    def tell(self, arguments: Sequence[str], sentence: str, is_cause: bool = True) -> None:
        self.sentences.append(sentence)
        self.has_cause |= is_cause
        self.explained |= set(arguments)
        self.left -= set(arguments)

    def examine(self, records: Sequence[Record], seen: str = "", excused: Collection[tuple[str, str]] = ()) -> None:
        """Seek why it is wrong in these records."""
        dtype = dtype_of(r.evidence.case for r in records)
        search = Search(self.rule, records, self.left, dtype, self.deadline, self.conventions, excused)
        drawn = Drawn(search, self.candidate)
        search.fresh = drawn.fresh
        try:
            try:
                for before in BEFORE if self.candidate is not None else ():
                    self.ask(search, before, seen)
            finally:
                search.points = {a: points for a, points in search.points.items() if a in self.left}
                search.thin()
                search.run_listed()
            try:
                search.deadline = Deadline(SEARCH * self.deadline.left)
                search.run()
            except TimeIsUp:
                self.cut = True
            search.deadline = self.deadline
        finally:
            for arguments, sentence in told(search):
                self.tell(arguments, sentence + seen)
            self.shared |= {a: silence(search, a) for a in search.points if a in self.left}
        self.ask(search, partial(longer, drawn), seen)
        for after in AFTER:
            self.ask(search, after, seen)


def diagnose(
    rule: Rule,
    candidate: Vjp | None,
    records: Sequence[Record],
    wrong: Collection[str],
    conventions: Conventions = OUR_CONVENTIONS,
    deadline: Deadline | None = None,
    excused: Collection[tuple[str, str]] = (),
) -> Diagnosis:
    """Why a candidate is wrong.

    candidate: None for results that were recorded. wrong: the arguments ("y", "dx", ...) with a value that is wrong.
    conventions: those of the records' evidence. deadline: when the search ends with what it has found so far; one call
        of the candidate, or one case of an edit, may take it beyond. excused: arguments and cases in which what is off
        has another reason, as lost digits: they tell nothing.
    """
    deadline = deadline or Deadline()
    found = _Examination(rule, candidate, wrong, conventions, deadline)
    every = [r for r in records if len(r.results) == len(rule.arguments)]
    if not every or not found.left:
        return Diagnosis([], set(), {})
    with torch.no_grad():
        try:
            if candidate is not None and len(every) < FEW:
                every += more_records(rule, candidate, every[0].evidence.case, conventions, deadline)
            if candidate is not None and dtype_of(r.evidence.case for r in every) in NARROW:
                wider = list(in_float32(rule, candidate, every, conventions, deadline))
                if wider:
                    lost = lost_digits(rule, candidate, wider, deadline)
                    found.examine(wider, "; seen in float32, where it is wrong too", lost)
            if found.left:
                found.examine(every, excused=excused)
        except TimeIsUp:
            found.cut = True
    more = f"more may be found with diagnose={MORE_TIME * deadline.seconds:g}"
    ended = f"the search for the cause ended after {deadline.seconds:g} s: {more}" if found.cut else ""
    shared = {a: text for a, text in found.shared.items() if a in found.left}
    said = "; ".join(filter(None, [ended, *found.failed]))
    return Diagnosis(found.sentences, found.explained, shared, said, found.has_cause)
