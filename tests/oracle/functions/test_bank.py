"""The bank of functions: `compare` takes torch's own derivative and right programs for right, and rejects wrong ones.

By default a few functions with one right and one wrong program each; all of it under --exhaustive.
"""

from collections.abc import Collection, Iterator
from typing import Any

import pytest
import torch

import torch_ref
from manual_bp.oracle import compare
from manual_bp.oracle.functions import reference
from manual_bp.oracle.reports.report import Report
from tests.judging import ordinary
from tests.oracle.function_bank import CANDIDATES, FUNCTIONS, Candidate, Function
from tests.oracle.function_bank.entry import SIXTEEN, WIDE

# Of so many functions one is tried by default.
THINNED = 12

NOT_YET = {
    "soft_pool_by_mean": "overflows at inputs times 1000, where the function does not: labelled at inputs without it",
    "segments_one_maximum": "0/0 at inputs times 1000 in a segment far below the maximum of all: labelled without them",
    "residual_rms_norm_added_in_bf16": "a 16-bit note, and a mismatch under strict alone",
}
"""Programs of which the verdict is not their label, and why."""


def verdict(candidate: Candidate, dtype: torch.dtype) -> Report:
    """Of a wrong program at one case, which shows most of them; at all cases if that does not."""
    function = candidate.function
    inputs, hyper = {**function.inputs, **candidate.shown_by}, function.hyper or None
    how: dict[str, Any] = {"inputs": inputs, "hyper": hyper, "dtype": dtype, "diagnose": 0}
    if not candidate.right:
        cases = [ordinary(reference(function.forward, inputs, hyper), dtype)]
        report = compare(candidate.vjp, function.forward, cases=cases, **how)
        if report.mismatches:
            return report
    return compare(candidate.vjp, function.forward, **how)


def torchs(function: Function) -> Candidate:
    """torch's own derivative: right, but in 16 bits, where torch computes in 16 bits, which no contract grants to a
    right program."""
    return Candidate(f"torch_s_{function.name}", function, torch_ref.vjp(function.forward), True, "by torch.autograd")


def by_turns(position: int, dtypes: Collection[torch.dtype]) -> Iterator[torch.dtype]:
    """One of the wide dtypes and one of 16 bits, each for every other function."""
    for both in (WIDE, SIXTEEN[::-1]):
        there = [dtype for dtype in both if dtype in dtypes]
        yield from there[position % len(there) :][:1] if there else ()


def programs() -> Iterator[Any]:
    """Every labelled program and torch's, function by function, since those of one share evidence: in one wide dtype
    and one of 16 bits by turns.  What a dtype has of its own is in the contract, and not in a function: each is tried
    on every other one.
    By default those of a few functions, the first right and the first wrong one in float32."""
    for position, function in enumerate(FUNCTIONS):
        seen: set[bool] = set()
        for dtype in (dtype for dtype in by_turns(position, function.dtypes) if dtype in WIDE):
            name = f"torch_s_{function.name}-{str(dtype).removeprefix('torch.')}"
            yield pytest.param(torchs(function), dtype, marks=pytest.mark.exhaustive, id=name)
        for candidate in (c for c in CANDIDATES if c.function is function):
            for dtype in by_turns(position, function.dtypes if candidate.right else candidate.shows):
                is_first = dtype is torch.float32 and candidate.right not in seen and not candidate.shown_by
                seen |= {candidate.right} if is_first else set()
                marks = [] if is_first and position % THINNED == 1 else [pytest.mark.exhaustive]
                if candidate.name in NOT_YET:
                    marks.append(pytest.mark.xfail(reason=NOT_YET[candidate.name], strict=False))
                name = f"{candidate.name}-{str(dtype).removeprefix('torch.')}"
                yield pytest.param(candidate, dtype, marks=marks, id=name)


@pytest.mark.parametrize(("candidate", "dtype"), list(programs()))
def test_a_verdict_is_the_label(candidate: Candidate, dtype: torch.dtype) -> None:
    report = verdict(candidate, dtype)
    assert report.passed is candidate.right, f"{candidate.cause}: {report}"
    assert candidate.right or report.mismatches, "a wrong program is rejected for what is wrong, and not as untested"
