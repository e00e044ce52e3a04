"""Calling a candidate, once and again: what it does beside its results is seen, and what it remembers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from manual_bp.foreign import named
from manual_bp.oracle.calling.accepted import Elsewhere
from manual_bp.oracle.calling.invocation import (
    Call,
    invoked,
    parts_of,
    passable,
    returned_by,
    traceback_of,
    unreadable,
)
from manual_bp.oracle.calling.memory import copies, overlap, shares_elements
from manual_bp.oracle.calling.replaced import functions_kept, modes_kept
from manual_bp.oracle.calling.results import (
    LARGEST,
    all_kept,
    is_dense,
    plain,
    preserved,
    same_bits,
)
from manual_bp.oracle.calling.settings import kept as settings_kept
from manual_bp.oracle.calling.surroundings import users_defaults
from manual_bp.oracle.calling.unwritten import NEVER, NUMBER, READ, Filled, never_written, unwritten
from manual_bp.oracle.case import Case
from manual_bp.oracle.pattern import place
from manual_bp.outputs import parts
from manual_bp.rule import Rule, Vjp

# So many calls on the same numbers find what goes wrong once in 50 calls with a probability of 1 - 0.98^200 = 98 %.
# What is slow is called as often as it can be in so many seconds.
OFTEN = 200
SECONDS = 0.25


def call(candidate: Vjp, rule: Rule, case: Case, reference: Sequence[Tensor | None] = ()) -> Call:
    """Call a candidate at a case.  reference: expected values, which it must not return themselves."""
    if isinstance(candidate, Elsewhere):
        return candidate.call("call", rule, case)
    found, raw, given = invoked(candidate, rule, case)
    if raw is not None:
        try:
            _see_memory(rule, raw, given, reference, found)
            found.results = all_kept(raw, case)
        except Exception as error:  # a tensor that nobody can read
            found.traps.append(unreadable(error, rule))
    return found


def call_again(candidate: Vjp, rule: Rule, case: Case, first: tuple[Any, ...]) -> Call:
    """More calls: on the same input, which must give the same bits; on the negated cotangent, which must leave alone
    what the call before returned; and on other numbers in the very tensors of the first, which must give what these
    numbers give elsewhere.  first: the results of `call` at this case."""
    if isinstance(candidate, Elsewhere):
        return candidate.call("call_again", rule, case)
    found, raw, given = invoked(candidate, rule, case)
    if found.raised:
        found.traps = [(a, f"{text}, when it was called again") for a, text in found.traps]
    if raw is None:
        return found
    arguments, outputs = rule.arguments, rule.arguments[: len(rule.outputs)]
    try:
        kept = all_kept(raw, case)
    except Exception as error:
        found.traps.append(unreadable(error, rule))
        return found
    for argument, a, b in zip(arguments, first, kept, strict=True):
        if isinstance(a, Tensor) and isinstance(b, Tensor) and not same_bits(a, b):
            found.differences.append((argument, f"{argument} differs between two runs on the same input"))
    negated = tuple(None if d is None else -d for d in parts(case.dy))
    other = replace(case, dy=negated if isinstance(case.dy, tuple) else negated[0])
    _, after, _ = invoked(candidate, rule, other)
    for argument, x, before, later in zip(arguments, raw, kept, after or (None,) * len(raw), strict=True):
        if not all(isinstance(t, Tensor) and is_dense(t) for t in (x, before)):
            continue
        if not same_bits(x, before):
            words = "returned in memory that the next call overwrote: whoever keeps it over a call loses it"
            found.findings.append((argument, f"{argument} was {words}"))
        elif (
            argument not in outputs and isinstance(later, Tensor) and shares_elements(x, later) and bool((x != 0).any())
        ):
            words = "the very tensor of an earlier call, though dy was another; it is cached, and nothing was tested"
            found.traps.append((argument, words))
    if not found.differences and not found.traps:
        found.traps += _remembered(candidate, rule, case, given)
    return found


def _remembered(candidate: Vjp, rule: Rule, case: Case, given: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """What a candidate remembers of tensors whose numbers have changed since.  given: those of a call; if they share
    memory, other numbers cannot be put into them."""
    if any(map(overlap, given.values())) or any(shares_elements(a, b) for a, b in combinations(given.values(), 2)):
        return
    flipped = (x.flip(tuple(range(x.ndim))) for x in case.tensors)
    other = case.with_tensors(flipped)
    doubled = tuple(None if d is None else 2 * d for d in parts(other.dy))
    other = replace(other, dy=doubled if isinstance(case.dy, tuple) else doubled[0])
    try:
        _, due, _ = invoked(candidate, rule, other)
        due = all_kept(due or (), other)
        _, got, _ = invoked(candidate, rule, other, given)
        got = all_kept(got or (), other)
    except Exception as error:
        yield unreadable(error, rule)
        return
    for argument, a, b in zip(rule.arguments, due, got, strict=False):
        if all(isinstance(x, Tensor) and is_dense(x) for x in (a, b)) and _are_of_other_numbers(a, b):
            words = "remembered from an earlier call on the same tensors, though their numbers have changed"
            yield argument, f"is {words}"


def _are_of_other_numbers(a: Tensor, b: Tensor) -> bool:
    """Whether results differ by more than what roundings do in other memory (an optimised product or solver takes other
    steps where a tensor is aligned in another way): by more than half of the digits, where what is remembered is wrong
    in all of them."""
    if same_bits(a, b):
        return False
    if not a.is_floating_point() or a.shape != b.shape or not bool((a.isfinite() & b.isfinite()).all()):
        return True
    return bool((a.double() - b.double()).abs().max() > math.sqrt(torch.finfo(a.dtype).eps) * a.double().abs().max())


def call_often(candidate: Vjp, rule: Rule, case: Case, first: tuple[Any, ...], times: int = OFTEN) -> Call:
    """Many calls on the same tensors, compared bit by bit.  first: the results of `call` at this case.

    `results` holds for each argument the result that differed most; None if none did.
    """
    if isinstance(candidate, Elsewhere):
        return candidate.call("call_often", rule, case)
    found = Call()
    hyper = passable(candidate, rule, case.hyper)
    assert isinstance(hyper, dict)
    own = case.with_tensors(copies(case.tensors))
    differing = Differing(first)
    end = time.monotonic() + SECONDS
    replaced: list[str] = []  # which the calls before have told
    like = case.tensors[0]
    with modes_kept(replaced), users_defaults(like), settings_kept(replaced), functions_kept(replaced):
        try:
            for _ in range(times):
                y, grads = returned_by(candidate, rule, own, hyper)
                differing.note((*parts_of(y, rule), *grads))
                if time.monotonic() > end:
                    break
        except KeyboardInterrupt:  # it is the user's
            raise
        except BaseException as error:
            found.raised = traceback_of(error)
            found.traps.append((rule.arguments[0], f"raised {named(error)} when it was called again and again"))
    found.results = differing.results
    return found


class Differing:
    """Of the results of many calls alike, for each argument the one that differs most from that of the first call."""

    def __init__(self, first: Sequence[Any]) -> None:
        self._first, self._found = first, list(first)
        self._worst = {i: 0.0 for i, x in enumerate(first) if isinstance(x, Tensor) and is_dense(x)}

    def note(self, results: Sequence[Any]) -> None:
        """Take in one more call."""
        for i, worst in self._worst.items():
            first, got = self._first[i], preserved(plain(results[i]), self._first[i])
            difference = math.inf
            if isinstance(got, Tensor) and is_dense(got) and got.shape == first.shape:
                if same_bits(first, got):
                    continue
                difference = float((got.double() - first.double()).abs().nan_to_num(nan=math.inf).max())
            if difference > worst:
                self._worst[i], self._found[i] = difference, got

    @property
    def results(self) -> tuple[Any, ...] | None:
        """None if none did."""
        return tuple(self._found) if any(self._worst.values()) else None


def call_filled(candidate: Vjp, rule: Rule, case: Case, first: tuple[Any, ...]) -> dict[str, str]:
    """Which elements the candidate never writes, or computes from memory that it never wrote, by argument in words,
    found by one more call, and two if there are any.  first: the results of `call` at this case.  Nothing is learnt of
    a candidate that does not return so."""
    if isinstance(candidate, Elsewhere):
        return dict(candidate.call("call_filled", rule, case).traps)
    if any(isinstance(x, Tensor) and x.is_meta for x in first):
        return {}

    def with_memory(value: float) -> tuple[Any, ...]:
        with Filled(value):
            return invoked(candidate, rule, case)[1] or (None,) * len(first)

    return told_by_memory(rule, first, with_memory)


def told_by_memory(rule: Rule, first: Sequence[Any], with_memory: Callable[[float], Sequence[Any]]) -> dict[str, str]:
    """`call_filled`.  with_memory: what is returned where all that is allocated without a value is filled with one."""
    suspects = tuple(map(unwritten, first, with_memory(torch.nan)))
    if all(where is None for where in suspects):
        return {}
    found = {}
    values = zip(rule.arguments, suspects, with_memory(NUMBER), with_memory(-NUMBER), strict=True)
    for argument, where, plus, minus in values:
        if where is not None:
            never = never_written(where, plus, minus)
            found[argument] = f"{NEVER}: {place(never)}" if bool(never.any()) else f"{READ}: {place(where)}"
    return found


# ---------------------------------------------------------------------------------------------------------- memory


def _see_memory(
    rule: Rule, raw: Sequence[Any], given: Mapping[str, Tensor], reference: Sequence[Tensor | None], found: Call
) -> None:
    """Which results share memory, with what was given, with one another, or with the reference."""
    arguments, outputs = rule.arguments, rule.arguments[: len(rule.outputs)]
    strided = {a: x for a, x in zip(arguments, raw, strict=True) if isinstance(x, Tensor)}
    strided = {a: x for a, x in strided.items() if is_dense(x) and 0 < x.numel() <= LARGEST}
    is_dy = []
    for position, (argument, x) in enumerate(strided.items()):
        if any(shares_elements(x, e) for e in reference if e is not None):
            found.traps.append((argument, "it is the reference's own tensor: nothing was tested"))
        if overlap(x):
            found.notes.append(
                f"{argument} is expanded: its elements share memory, so that writing into it fails or changes others"
            )
        for name, other in given.items():
            is_cotangent = name in rule.cotangents
            dys = [given[d] for d in rule.cotangents if d in given]
            if not shares_elements(x, other) or (not is_cotangent and any(shares_elements(other, d) for d in dys)):
                continue
            if is_cotangent and argument not in outputs:
                is_dy.append(argument)
                found.notes.append(f"{argument} shares memory with {name}: adding to one in place changes the other")
            elif argument in outputs:
                found.notes.append(
                    f"{argument} shares memory with {name}: writing into {argument} changes what backward is due for"
                )
            else:
                words = f"{argument} shares memory with {name}: adding to the gradient in place changes the input"
                found.findings.append((argument, words))
        for other_argument, other in list(strided.items())[:position]:
            if shares_elements(x, other) and not {argument, other_argument} <= set(is_dy):
                words = f"{other_argument} and {argument} share memory: adding to one in place changes the other"
                found.findings.append((argument, words))
