"""Diagnosis: why a candidate is wrong.

Every explanation is a hypothesis that says, for each case, what the candidate would have returned if it were true.  It
is reported only if the candidate returned that in *every* case that counts, within rounding, and if in some case that
is visibly not the right answer.  So a right candidate gets no diagnosis, and neither does one that is wrong without a
system.

A detector is a function that takes an Examination and yields Explanations; a family of them is a file.  Their order is
the ranking: an argument that one has explained is not explained again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

import torch

from manual_bp.oracle.conventions import Conventions
from manual_bp.oracle.diagnosis import (
    branches,
    calls,
    factors,
    finite,
    formulas,
    known,
    layout,
    masks,
    parts,
    precision,
    reductions,
    routing,
    substitutions,
    weighted_sums,
)
from manual_bp.oracle.diagnosis.deadline import Deadline, TimeIsUp
from manual_bp.oracle.diagnosis.examination import Examination
from manual_bp.oracle.diagnosis.forms import forms
from manual_bp.oracle.diagnosis.hypothesis import Explanation, Record
from manual_bp.oracle.diagnosis.wider import NARROW, in_float32
from manual_bp.oracle.evidence import OUR_CONVENTIONS
from manual_bp.oracle.words import listed
from manual_bp.rule import Rule, Vjp

__all__ = ["Diagnosis", "Record", "diagnose"]

# A search that was cut short is worth trying with so many times the time.
MORE_TIME = 10

Detector = Callable[[Examination], Iterator[Explanation]]

# What people have done before comes first; then what is said in the fewest words; then what is searched for most widely
# and so would be met most easily by chance.
NAMED: tuple[Detector, ...] = (
    known.whole_mistakes,
    routing.routing,
    layout.overwritten_value,
    factors.plain_factors,
    substitutions.default_hyperparameters,
    factors.any_factors,
    factors.terms,
    factors.terms_of_ones,
    substitutions.changed_hyperparameters,
    substitutions.cotangents,
    layout.contiguous,
    masks.read_off,
    parts.unfinished,
    layout.shapes,
    substitutions.inputs,
    reductions.sums_of_backward,
    reductions.sums_of_forward,
    parts.of_the_cotangent,
    parts.of_the_cost,
    substitutions.at_the_output,
    substitutions.neighbours,
    known.parts_of_mistakes,
    substitutions.usual_hyperparameters,
    formulas.formulas,
    weighted_sums.weighted_sums,
    substitutions.seldom,
    factors.multiplied,
    factors.scaled_inputs,
    layout.clipped,
    factors.added,
    layout.exchanged,
    formulas.polynomials,
)
# Asked about the cases in which an argument is wrong, where it is right in others.
FAILING: tuple[Detector, ...] = (
    parts.unfinished,
    factors.plain_factors,
    substitutions.default_hyperparameters,
    known.parts_of_mistakes,
    substitutions.usual_hyperparameters,
    substitutions.cotangents,
    reductions.sums_of_backward,
    reductions.sums_of_forward,
    parts.of_the_cotangent,
    parts.of_the_cost,
    layout.shapes,
    substitutions.inputs,
    substitutions.seldom,
    factors.any_factors,
    factors.terms,
)
# Asked about failing cases before a threshold is sought there, which would say less.
HYPERPARAMETERS: tuple[Detector, ...] = (
    substitutions.default_hyperparameters,
    substitutions.changed_hyperparameters,
    substitutions.usual_hyperparameters,
)
# What says how a candidate goes wrong rather than why.
DESCRIBED: tuple[Detector, ...] = (
    masks.own_masks,
    layout.ignored_cotangent,
    finite.not_finite,
    layout.reordered,
    precision.sixteen_bits,
    precision.few_bits,
)
# What wrong numbers have in common, where nobody knows why.
SHARED: tuple[Detector, ...] = (
    factors.varying_factors,
    precision.approximate,
    branches.approximations,
)


class Diagnosis(NamedTuple):
    """sentences: why it is wrong, best first, each with its evidence; none for a right candidate.
    explained: the arguments that they are about.  shared: of others, what all their wrong numbers have in common.
    search: that the search was cut short, or a part of it failed, if so, in words."""

    sentences: list[str]
    explained: set[str]
    shared: dict[str, str]
    search: str = ""


def diagnose(
    rule: Rule,
    candidate: Vjp | None,
    records: Sequence[Record],
    wrong: Collection[str],
    conventions: Conventions = OUR_CONVENTIONS,
    seconds: float = math.inf,
) -> Diagnosis:
    """Why a candidate is wrong.

    candidate: None for results that were recorded. wrong: the arguments ("y", "dx", ...) with a value that is wrong.
    conventions: those of the records' evidence. seconds: after which the search ends with what it has found so far; one
        call of the candidate, or one case of a hypothesis, may take it beyond.
    """
    found, deadline = Diagnosis([], set(), {}), Deadline(seconds)
    with torch.no_grad():
        try:
            for form, of_form in forms(rule, records):
                left = set(wrong) - found.explained
                examination = Examination(form, candidate, of_form, left, conventions, deadline)
                try:
                    _examine(examination)
                finally:
                    found = _with(found, examination)
        except TimeIsUp:
            more = f"more may be found with diagnose={MORE_TIME * seconds:g}"
            ended = f"the search for the cause ended after {seconds:g} s: {more}"
            found = found._replace(search="; ".join([ended, *filter(None, [found.search])]))
    return found


def _with(found: Diagnosis, examination: Examination) -> Diagnosis:
    """What was found, and what one more examination has found."""
    form, wrong = examination.rule, examination.reported
    shared = {
        name: sentence.replace("{}", name)
        for argument, sentence in examination.shared.items()
        for name in form.named(argument, wrong)
    }
    where = f", where {listed(form.absent)} {'is' if len(form.absent) == 1 else 'are'} absent" if form.absent else ""
    return Diagnosis(
        [*found.sentences, *(f"{sentence}{where}" for sentence in examination.found)],
        found.explained | {name for a in examination.explained for name in form.named(a, wrong)},
        {**shared, **found.shared},
        "; ".join(dict.fromkeys(filter(None, [found.search, *examination.failed]))),
    )


def _examine(found: Examination) -> None:
    if found.candidate is not None and found.records and found.open and found.dtype in NARROW:
        _search_in_float32(found)
    _search(found)


def _search_in_float32(found: Examination) -> None:
    wider = in_float32(found)
    asked = set(wider.open)
    try:
        _formulas(wider)
    finally:
        found.open -= asked - wider.open
        found.explained |= asked - wider.open
        found.failed += wider.failed
        found.found += [f"{sentence}; seen in float32, where it is wrong too" for sentence in wider.found]


def _search(found: Examination) -> None:
    _formulas(found)
    for detector in DESCRIBED:
        _ask(found, detector)
    for detector in SHARED if found.records and found.open else ():
        found.look(kinks=False, moderate=detector is not factors.varying_factors)
        for explanation in _explanations(found, detector):
            for argument in explanation.arguments:
                found.shared.setdefault(argument, explanation.sentence)


def _formulas(found: Examination) -> None:
    """Asks for what says why a candidate goes wrong."""
    _ask(found, calls.unsteady)
    _ask(found, known.whole_mistakes, kinks=True)
    for detector in NAMED:
        _ask(found, detector)
        _ask(found, detector, moderate=True)
    _ask(found, known.not_finite_as)
    for detector in HYPERPARAMETERS:
        _ask(found, detector, failing=True)
    _ask(found, branches.branches)
    for detector in FAILING:
        _ask(found, detector, failing=True)
        _ask(found, detector, moderate=True, failing=True)


def _ask(
    found: Examination, detector: Detector, kinks: bool = False, moderate: bool = False, failing: bool = False
) -> None:
    if not found.records or not found.open:
        return
    found.look(kinks, moderate, failing)
    for explanation in _explanations(found, detector):
        found.tell(explanation)


def _explanations(found: Examination, detector: Detector) -> Iterator[Explanation]:
    """What a detector says.  Pages are anybody's: where one raises, that is said, and what others find stands."""
    try:
        yield from detector(found) if found.asked else ()
    except Exception as error:
        name = getattr(detector, "__name__", str(detector))
        found.failed.append(f"of the search for the cause a part failed: {name} raised {type(error).__name__}: {error}")
