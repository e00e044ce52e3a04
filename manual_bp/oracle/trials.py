"""What is tried beside the cases, where a candidate was right: other ways to call it, and what the rule refuses."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manual_bp.oracle.calling.calls import call
from manual_bp.oracle.calling.invocation import parameters_of, passable
from manual_bp.oracle.calling.memory import overlap
from manual_bp.oracle.calling.results import same_bits
from manual_bp.oracle.calling.ways import ORDERS, named, other, other_hyper, refused, tried, ways, words
from manual_bp.oracle.case import Case
from manual_bp.oracle.cases.declared import Declared
from manual_bp.oracle.diagnosis import Record
from manual_bp.oracle.refusals import refusals
from manual_bp.oracle.truth.errors import errors
from manual_bp.oracle.truth.evidence import Evidence
from manual_bp.oracle.words import whose
from manual_bp.rule import Rule, Vjp

# State is looked for at small cases: what is kept does not depend on sizes beyond these.
LARGEST = 10**4
# Results of two right runs differ by twice the error of one at most.
RUNS = 2.0
SHOWN = 3


class Fault(NamedTuple):
    """argument, case: where.  text: in words.  is_error: otherwise it is a finding, and an error under strict.
    diagnosis: what to say of it first."""

    argument: str
    case: str
    text: str
    is_error: bool
    diagnosis: str = ""


def trials(
    candidate: Vjp, rule: Rule, dtype: torch.dtype, device: str, right: Sequence[Record], declared: Declared
) -> Iterator[Fault]:
    """What is wrong.  right: the cases that the candidate answered rightly, and its results there."""
    if small := next((record for record in right if _is_small(record)), None):
        yield from _other_ways(candidate, rule, small)
    # What a function refuses says nothing of what its axes mean, and torch's own kernels write beside such inputs.
    if right and not hasattr(rule.page, "FUNCTION"):
        yield from _answered(candidate, rule, refusals(rule, dtype, device, declared))


def _is_small(record: Record) -> bool:
    """Whether a case tells numbers apart and can be written into."""
    case = record.evidence.case
    tensors = case.tensors
    return (
        all(0 < x.numel() <= LARGEST and not overlap(x) for x in tensors)
        and all(bool(x.isfinite().all()) for x in tensors if x.is_floating_point())
        and any(x is not None and bool((x != 0).any()) for x in record.evidence.expected)
        and not _has_kinks(record.evidence)
    )


def _has_kinks(found: Evidence) -> bool:
    """Whether a declared convention may allow several values."""
    return any(k is not None and bool(k.any()) for k in found.kinks)


def _other_ways(candidate: Vjp, rule: Rule, record: Record) -> Iterator[Fault]:
    case = record.evidence.case
    present = case.named(rule)
    has_cotangent = {name: spec.cotangent and name in present for name, spec in rule.inputs.items()}
    others: list[tuple[Any, ...] | None] = []
    harmful = False
    for name, way, positions in tried(has_cotangent, ways(candidate)):
        if harmful and name not in ORDERS and len(positions) == 1:
            break  # that one input alone requires grad would say the same again
        called = call(way, rule, case)
        own_name = named(name, list(rule.inputs))
        if called.results is None:
            text = refused(own_name, called.traps[0][1].removeprefix("raised "))
            # An order that is refused is not silently wrong; but any input may be the only one that requires grad.
            is_error = name not in ORDERS
            yield Fault(rule.arguments[0], own_name, text, is_error, diagnosis=text if is_error else "")
            continue
        if not others:
            inputs = tuple(None if x is None else other(x) for x in case.inputs)
            taken = passable(candidate, rule, case.hyper)
            assert isinstance(taken, dict)  # it has answered at this case
            moved = replace(case, inputs=inputs, hyper={**case.hyper, **other_hyper(taken)})
            others.append(call(candidate, rule, moved).results)
        positions = [p + len(rule.outputs) for p in positions]
        faults = list(_departing(rule, record, called.results, positions, own_name, others[0]))
        harmful = harmful or (bool(faults) and name not in ORDERS)
        yield from faults


def _departing(
    rule: Rule,
    record: Record,
    results: Sequence[Any],
    positions: Sequence[int],
    name: str,
    others: Sequence[Any] | None,
) -> Iterator[Fault]:
    """The arguments that are not what they were when they were right, if any.  others: results at other numbers."""
    arguments = rule.arguments
    found = [p for p in positions if _departs(record, p, results[p])]
    if not found:
        return
    are_others = others is not None and all(_same(results[p], others[p]) for p in found)
    are_none = all(results[p] is None for p in found)
    diagnosis = words(name, [arguments[p] for p in found], are_none, are_others)
    for p in found:
        text = words(name, [arguments[p]], results[p] is None, are_others)
        yield Fault(arguments[p], name, text, is_error=True, diagnosis=diagnosis)


def _departs(record: Record, position: int, got: Any) -> bool:
    expected, allowance = (x[position] for x in (record.evidence.expected, record.evidence.allowance))
    before = record.results[position]
    if expected is None or allowance is None or not isinstance(before, Tensor):
        return False
    if not isinstance(got, Tensor) or (got.shape, got.dtype, got.device) != (before.shape, before.dtype, before.device):
        return True
    if same_bits(got, before):
        return False
    ratio, usual = (float(errors(x, expected, allowance, x.dtype)[0].max()) for x in (got, before))
    return not ratio <= max(1.0, RUNS * usual)


def _same(a: Any, b: Any) -> bool:
    return isinstance(a, Tensor) and isinstance(b, Tensor) and same_bits(a, b)


# -------------------------------------------------------------------------------------------------------- refusals


def _answered(candidate: Vjp, rule: Rule, cases: Sequence[Case]) -> Iterator[Fault]:
    """One finding for all that it answers and the rule refuses."""
    shown = [case for case in cases if isinstance(passable(candidate, rule, case.hyper), dict)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a candidate may well warn of what it is given here
        answered = [case.name for case in shown if call(candidate, rule, case).results is not None]
    if answered:
        more = f"; and {len(answered) - SHOWN} more" if len(answered) > SHOWN else ""
        where = "; ".join(answered[:SHOWN]) + more
        text = f"it answers where {whose(rule)} refuses, {len(answered)} of {len(shown)} times: {where}"
        yield Fault(rule.arguments[0], answered[0], text, is_error=False)


def own_defaults(candidate: Vjp, rule: Rule, names: Sequence[str]) -> str:
    """What to say of a candidate that is another function without hyperparameters of these names."""
    own = {name: p.default for name, p in (parameters_of(candidate) or {}).items() if name in names}
    others = {n: v for n, v in own.items() if isinstance(v, Real) and v != rule.defaults[n]}
    differing = [f"{n}={v} differs from {whose(rule)}'s {rule.defaults[n]}" for n, v in others.items()]
    text = " and ".join(differing) or f"for {' or '.join(names)} differs from {whose(rule)}'s"
    return f"its own default {text}: called without it, it is another function"
