"""Records: a case with its evidence and what a candidate returned there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manual_bp.oracle.case import Case
from manual_bp.oracle.truth.evidence import Evidence


class Record(NamedTuple):
    """A case with its evidence, and what the candidate returned there: the outputs, then one entry per input."""

    evidence: Evidence
    results: tuple[Any, ...]


def dtype_of(cases: Iterable[Case]) -> torch.dtype:
    """In which a candidate is called."""
    numbers = (x.dtype for case in cases for x in case.tensors if x.is_floating_point())
    return next(numbers, torch.float64)  # of indices alone all is exact


def end_of(record: Record) -> Record | None:
    """The last rows of a case of very many, of which an element-wise rule needs no other; they begin at a multiple of
    every usual block, so that a tail is where it was.  None if the results are of another shape."""
    found, results = record
    shape = found.case.inputs[0].shape
    start = 1 << ((shape[0] - 1).bit_length() - 1)

    def cut(x: Tensor | None) -> Tensor | None:
        return None if x is None else x[start:]

    if any(isinstance(x, Tensor) and x.shape != shape for x in results):
        return None
    case = found.case.with_tensors(x[start:] for x in found.case.tensors)
    case = replace(case, name=f"last rows of {found.case.name}")
    expected, allowance, kinks = (tuple(map(cut, xs)) for xs in (found.expected, found.allowance, found.kinks))
    end = replace(found, case=case, expected=expected, allowance=allowance, kinks=kinks)
    return Record(end, tuple(cut(x) if isinstance(x, Tensor) else x for x in results))
