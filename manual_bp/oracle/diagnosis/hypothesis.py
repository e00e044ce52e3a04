"""What is compared: records of a candidate, and what a hypothesis predicts."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from torch import Tensor

from manual_bp.oracle.case import Case
from manual_bp.oracle.evidence import Evidence

Values = tuple[Tensor | None, ...]
"""y, then one entry per input."""

# Keeps 0 / 0 from being NaN where nothing may be off; the quotient is judged only where it means something.
NO_ALLOWANCE = 1e-320


@dataclass(frozen=True, eq=False)
class Sample:
    """One argument in one record, in float64 on the CPU; judged: where a derivative exists and is finite."""

    case: Case
    got: Tensor
    expected: Tensor
    allowance: Tensor
    judged: Tensor

    @cached_property
    def error(self) -> float:
        """The largest error over allowance where it is judged."""
        if self.got.shape != self.expected.shape:
            return math.inf
        ratio = ((self.got - self.expected).abs() / self.allowance.clamp(min=NO_ALLOWANCE))[self.judged]
        return float(ratio.nan_to_num(nan=math.inf).max()) if ratio.numel() else 0.0


class Record(NamedTuple):
    """A case with its evidence, and what the candidate returned there: y, then one entry per input."""

    evidence: Evidence
    results: tuple[Any, ...]


class Prediction(NamedTuple):
    """What a candidate would return if a hypothesis held (None: nothing is said), and how far off rounding may take it,
    which takes longer to find and so is asked for only where it matters (None: not derived)."""

    values: Values
    tolerance: Callable[[], Values] | None = None


Predict = Callable[[Case], Prediction]


Row = tuple[Record, list[Sample | None]]
"""A record, with one sample per argument."""


class Match(NamedTuple):
    """seen: the arguments that a hypothesis explains, and in how many cases each visibly is not the right answer.
    contradicted: arguments that it would change, and that the candidate did not return so.
    silent: at how many wrong results it is not defined, of the argument with the most."""

    seen: dict[str, int]
    contradicted: set[str]
    silent: int = 0


class Explanation(NamedTuple):
    """What is wrong with some arguments; `{}` in the sentence stands for their names."""

    arguments: Collection[str]
    sentence: str


def wide(x: Tensor) -> Tensor:
    """In float64 on the CPU, unless it is a mask."""
    x = x.detach().cpu()
    return x.double() if x.is_floating_point() else x
