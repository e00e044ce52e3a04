"""Diagnosis: why a candidate is wrong.

Every explanation is a hypothesis that says, for each case, what the candidate would have returned if it were true.  It
is reported only if the candidate returned that in *every* case that counts, within rounding, and if in some case that
is visibly not the right answer.  So a right candidate gets no diagnosis, and neither does one that is wrong without a
system.

A detector is a function that takes an Examination and yields Explanations; a family of them is a file.  Their order is
the ranking: an argument that one has explained is not explained again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

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
from manual_bp.oracle.diagnosis.examination import Examination
from manual_bp.oracle.diagnosis.hypothesis import Explanation, Record
from manual_bp.oracle.diagnosis.wider import NARROW, in_float32
from manual_bp.oracle.evidence import OUR_CONVENTIONS
from manual_bp.rule import Rule, Vjp

__all__ = ["Record", "diagnose"]

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
    factors.varying_factors,
)


def diagnose(
    rule: Rule,
    candidate: Vjp | None,
    records: Sequence[Record],
    wrong: Collection[str],
    conventions: Conventions = OUR_CONVENTIONS,
) -> list[str]:
    """Plain sentences, best first, each with its evidence; empty for a right candidate.

    candidate: None for results that were recorded. wrong: the arguments ("y", "dx", ...) with a value that is wrong.
    conventions: those of the records' evidence.
    """
    with torch.no_grad():
        found = Examination(rule, candidate, records, wrong, conventions)
        sentences = []
        if candidate is not None and found.records and found.dtype in NARROW:
            wider = in_float32(found)
            asked = set(wider.open)
            _formulas(wider)
            found.open -= asked - wider.open
            sentences = [f"{sentence}; seen in float32, where it is wrong too" for sentence in wider.found]
        _formulas(found)
        for detector in DESCRIBED:
            _ask(found, detector)
        _ask(found, precision.approximate, moderate=True)
        _ask(found, branches.approximations, moderate=True)
        return sentences + found.found


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
    for explanation in detector(found) if found.asked else ():
        found.tell(explanation)
