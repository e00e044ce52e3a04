"""State: programs whose results depend on earlier calls, or which change what they are given."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from manual_bp.oracle.audit.programs import Answer, Program, Results, judged
from manual_bp.oracle.audit.seen import Seen, digest
from manual_bp.oracle.case import Case
from manual_bp.rule import Rule

STATE = "depends on earlier calls"
OVERWRITES = "overwrites what it is given"
SECOND, MET = "wrong when the same numbers come again", "right only at numbers that it has met"


def _fits(kept: Results | None, right: Results) -> bool:
    """Whether results of an earlier call can be taken for those of this one."""
    return kept is not None and all(
        (a is None) == (b is None) and (a is None or (a.shape == b.shape and a.dtype == b.dtype))
        for a, b in zip(kept.values(), right.values(), strict=True)
    )


def _shapes(case: Case) -> object:
    return tuple((tuple(x.shape), x.dtype) for x in case.tensors)


def stateful(rule: Rule, seen: Seen) -> Iterator[Program]:
    """Programs that remember.  seen: what the checker has shown the right programs; one is right there alone."""
    arguments = judged(rule)

    def spoiled(right: Results) -> Results:
        return {a: 2 * x + 1 if a in arguments and x is not None else x for a, x in right.items()}

    def cotangents_of(kept: Results, right: Results) -> Results:
        return {a: kept[a] if a in arguments else x for a, x in right.items()}

    def before() -> Answer:
        kept: Results | None = None

        def answer(_: Case, right: Results) -> Results:
            nonlocal kept
            last, kept = kept, right
            return cotangents_of(last, right) if last is not None and _fits(last, right) else right

        return answer

    def by_shape() -> Answer:
        kept: dict[object, Results] = {}

        def answer(case: Case, right: Results) -> Results:
            first = kept.setdefault(_shapes(case), right)
            return cotangents_of(first, right) if _fits(first, right) else right

        return answer

    def accumulating() -> Answer:
        sums: dict[object, Results] = {}

        def answer(case: Case, right: Results) -> Results:
            shapes = _shapes(case)
            last = sums.get(shapes)
            if last is not None and _fits(last, right):
                added = {a: x + last[a] if isinstance(x, Tensor) else x for a, x in right.items()}
                right = cotangents_of(added, right)
            sums[shapes] = right
            return right

        return answer

    def other_the_second_time() -> Answer:
        met: set[bytes] = set()

        def answer(case: Case, right: Results) -> Results:
            key = digest(case)
            again = key in met
            met.add(key)
            return spoiled(right) if again else right

        return answer

    def only_where_met() -> Answer:
        return lambda case, right: right if digest(case) in seen.digests else spoiled(right)

    yield Program(STATE, "returns the result of the call before", before, unmet=_one_of_a_shape)
    yield Program(STATE, "remembers results by shape", by_shape, unmet=_one_of_a_shape)
    yield Program(STATE, "adds to the result of the call before", accumulating, unmet=_one_of_a_shape)
    yield Program(STATE, SECOND, other_the_second_time, unmet=_never_again)
    yield Program(STATE, MET, only_where_met, unmet=_always_the_same)
    names = [*rule.cotangents, *(name for name in rule.inputs if rule.is_number(name))]
    for name in names if rule.has_backward else names[len(rule.cotangents) :]:
        yield Program(OVERWRITES, f"writes zeros into {name}", lambda name=name: _overwriting(rule, name))  # type: ignore[misc]


def _overwriting(rule: Rule, name: str) -> Answer:
    def answer(case: Case, right: Results) -> Results:
        given: Any = case.named(rule).get(name)
        if isinstance(given, Tensor):
            with torch.no_grad():
                given.detach().zero_()
        return right

    return answer


def _one_of_a_shape(seen: Seen) -> str:
    if seen.calls_each <= 1:
        return "each program is called once"
    return "no two calls of a shape are made with other numbers"


def _never_again(_: Seen) -> str:
    return "no program is called twice with the same numbers"


def _always_the_same(_: Seen) -> str:
    return "it tries the same numbers every time it is run (a fixed seed, or typed in)"
