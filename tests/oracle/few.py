"""A few cases of a page, with evidence: what is enough to see one thing, in a hundredth of the time of all cases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import contract_of
from manual_bp.inputs import Edge
from manual_bp.oracle.calling.calls import call
from manual_bp.oracle.case import Case, Further, in_dtype
from manual_bp.oracle.cases.drawing import draw
from manual_bp.oracle.cases.layouts import laid_out
from manual_bp.oracle.diagnosis import Record
from manual_bp.oracle.truth.errors import errors
from manual_bp.oracle.truth.evidence import Evidence, evidence
from manual_bp.rule import Rule

# Lengths of axes, in order of appearance, beside the usual ones.
LENGTHS = ((2, 6, 3, 4, 2, 3, 2), (7, 4, 5, 2, 3, 2, 3), (19, 3, 2, 3, 2, 2, 2))


# Of more edges and values of hyperparameters so many, evenly spread.
EDGES, OPTIONS = 12, 6
# Layouts are to show what is read as if it were contiguous, which dy alone shows.
LAYOUTS = ("cotangent of ones", "inputs times 1000", "everything", "dy")


def few_cases(rule: Rule, dtype: torch.dtype = torch.float32) -> Iterator[Case]:
    """The ordinary case, edges, other sizes, with the edges' hyperparameters and without each input that may be absent,
    and other layouts."""
    generator = torch.Generator().manual_seed(0)
    edges = spread([edge for edge in rule.edges if not edge.raises], EDGES)
    options = [{name: value for name, value in edge.given.items() if name in rule.hyper} for edge in rule.edges]
    options = spread([given for i, given in enumerate(options) if given and given not in options[:i]], OPTIONS)
    sizes = [dict(zip(rule.axis_names, lengths, strict=False)) for lengths in LENGTHS]
    absent = [{name: None} for name in sorted(rule.absentable)]
    sized = [
        Edge(f"sizes {i}, {given}", given, sizes[(i + j) % len(sizes)])
        for j in range(2)
        for i, given in enumerate([*({} for _ in sizes[j:]), *options, *absent])
    ]
    for edge in (Edge("ordinary"), *edges, *sized):
        try:
            case = in_dtype(Case(*draw(rule, edge, generator), edge.name), dtype, "cpu")
            rule.forward(*case.inputs, **case.hyper)
        except ValueError:  # the page is not defined at such sizes
            continue
        yield case
        if edge.name == "ordinary":
            yield from (each for each in laid_out(rule, case) if each.name.startswith(LAYOUTS))


def spread(several: list[Any], most: int) -> list[Any]:
    """At most so many, evenly spread."""
    count = min(most, len(several))
    return [several[i * len(several) // count] for i in range(count)]


@lru_cache(maxsize=64)
def few_evidence(rule: Rule, dtype: torch.dtype = torch.float32) -> tuple[Evidence, ...]:
    """What is due at a few cases."""
    found = [evidence(rule, case, contract_of(dtype)) for case in few_cases(rule, dtype)]
    return tuple(each for each in found if isinstance(each, Evidence))


def few_records(
    rule: Rule, candidate: Callable[..., Any], dtype: torch.dtype = torch.float32
) -> tuple[list[Record], set[str]]:
    """What a candidate returned at a few cases, and which arguments are wrong."""
    return judged(rule, candidate, few_evidence(rule, dtype), dtype)


def judged(
    rule: Rule, candidate: Callable[..., Any], every: Iterable[Evidence], dtype: torch.dtype
) -> tuple[list[Record], set[str]]:
    """What a candidate returned at those cases at which it did, and which arguments are wrong."""
    records: list[Record] = []
    wrong: set[str] = set()
    for found in every:
        if wrong and isinstance(found.case, Further):  # these come last, and compare leaves them out too
            break
        results = call(candidate, rule, found.case).results
        if results is None:
            continue
        records.append(Record(found, results))
        arguments = zip(rule.arguments, results, found.expected, found.allowance, strict=True)
        wrong |= {
            name
            for name, got, expected, allowance in arguments
            if name not in wrong and _is_wrong(got, expected, allowance, dtype)
        }
    return records, wrong


def _is_wrong(got: Any, expected: Tensor | None, allowance: Tensor | None, dtype: torch.dtype) -> bool:
    if expected is None or allowance is None or not isinstance(got, Tensor):
        return False
    if got.shape != expected.shape:
        return True
    return bool(got.numel()) and bool((errors(got, expected, allowance, dtype)[0] > 1).any())
