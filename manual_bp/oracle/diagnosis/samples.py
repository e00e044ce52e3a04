"""What a candidate returned beside what is due, and whether what an edit gives is that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from manual_bp.oracle.calling.results import is_dense
from manual_bp.oracle.case import Case
from manual_bp.oracle.cases.generated import is_moderate
from manual_bp.oracle.diagnosis.records import Record
from manual_bp.signature import computing_dtype

# What rounding may do beyond the allowance of the right formula, where what is computed no longer cancels as it does
# there: so many units roundoff of the largest number.
ROUNDINGS = 64
# A prediction is told from the right answer where they are so many tolerances apart.
APART = 4
# What chance does once in 1000 times is not told, in bits.
CERTAIN = 10
# Of the numbers of one case so many count as independent: what is wrong in many often hangs on a few sums.
INDEPENDENT = 6
# Whatever is left out, underflows or is cut off gives 0: that a value is 0 where 0 came is of one edit in four.
OF_ZERO = 2.0
# A rounding of bfloat16 is 2^-9; of sums of some such terms the largest need not be as large as these.
LITTLE = 2**-6
# Keeps 0 / 0 from being NaN where nothing may be off; the quotient is judged only where it means something.
NO_ALLOWANCE = 1e-320


def slack_of(dtype: torch.dtype) -> float:
    """What roundings may add to the allowance, relative to the largest number."""
    return ROUNDINGS * torch.finfo(computing_dtype(dtype)).eps + 2 * torch.finfo(dtype).eps


@dataclass(frozen=True, eq=False)
class Sample:
    """One argument in one record, in float64 on the CPU; judged: where a derivative exists and is finite, or infinite
    where NaN came."""

    case: Case
    got: Tensor
    expected: Tensor
    allowance: Tensor
    judged: Tensor
    slack: float

    @cached_property
    def error(self) -> float:
        """The largest error over allowance where it is judged."""
        if self.got.shape != self.expected.shape:
            return math.inf
        ratio = ((self.got - self.expected).abs() / self.allowance.clamp(min=NO_ALLOWANCE))[self.judged]
        return float(ratio.nan_to_num(nan=math.inf).max()) if ratio.numel() else 0.0

    @property
    def is_wrong(self) -> bool:
        return self.error > 1

    @cached_property
    def wrong(self) -> Tensor:
        """Where it is wrong."""
        if self.got.shape != self.expected.shape:
            return torch.zeros_like(self.judged)
        return self.judged & ~((self.got - self.expected).abs() <= self.allowance)

    @property
    def is_off_by_little(self) -> bool:
        """Whether nothing is off by more than a few roundings of 16 bits, relative to the largest number."""
        if self.got.shape != self.expected.shape or not bool(self.wrong.any()):
            return False
        error = (self.got - self.expected)[self.judged].abs().max()
        return bool(error <= LITTLE * self.expected[self.judged].abs().max())

    @cached_property
    def is_telling(self) -> bool:
        """Whether numbers are moderate and finite here, and the right formula does not lose its digits: elsewhere a
        candidate that is wrong in one way often overflows or loses digits too."""
        if not is_moderate(self.case) or not bool(self.got.isfinite().all()):
            return False
        if self.got.shape != self.expected.shape:
            return True
        if not self.expected.numel():
            return False
        largest = float(self.expected.abs().nan_to_num(0, 0, 0).max())
        return float(self.allowance.nan_to_num(0, 0, 0).max()) <= 2 * self.slack * largest

    def tolerance(self, value: Tensor) -> Tensor:
        """How far off a program that computes this value may be."""
        return 4 * self.allowance + self.slack * value.abs().nan_to_num(0, 0, 0).max()

    def agrees(self, value: Tensor, where: Tensor | None = None) -> bool:
        """Whether the candidate returned this, where it is judged (or in some of these places).  What is not finite
        never counts as a match."""
        if value.shape != self.got.shape:
            return False
        if not value.numel():
            return True
        if self.got.shape != self.expected.shape:
            return bool(((value - self.got).abs() <= self.slack * value.abs().max()).all())
        where = self.judged if where is None else where
        return not bool((~((value - self.got).abs() <= self.tolerance(value)) & where).any())

    def evidence(self, value: Tensor) -> float:
        """How improbable it is, in bits, that a value comes so near to what is wrong by chance: of numbers that vary
        independently each is so many times nearer with that probability."""
        if not value.shape == self.got.shape == self.expected.shape:
            return math.inf
        where = self.wrong & self.got.isfinite()
        error, rest = ((self.got - x)[where].norm() for x in (self.expected, value))
        if not error > 0:
            return 0.0
        if error.isinf():  # a number where an infinity is due
            error, rest = torch.ones_like(error), torch.where(rest.isinf(), 1.0, 0.0)
        nearer = max(float(rest / error), torch.finfo(torch.float32).eps)
        bits = -math.log2(nearer) if bool(self.got[where].any()) else min(-math.log2(nearer), OF_ZERO)
        return bits * min(int(self.wrong.sum()), INDEPENDENT)

    def shows(self, value: Tensor) -> bool:
        """Whether it is seen here that a value, which came, is not the right one."""
        return bool(self.differs(value).any()) or self.evidence(value) >= CERTAIN

    def breaks_as(self, value: Tensor) -> bool:
        """Whether the candidate returned this, and is not finite where this is not, which is somewhere."""
        if not value.shape == self.got.shape == self.expected.shape or not value.numel():
            return False
        broken = ~value.isfinite() & self.judged
        same = torch.where(broken, ~self.got.isfinite(), self.right_by(value))
        return bool(broken.any()) and bool(same[self.judged].all())

    def is_far_from(self, value: Tensor | None) -> bool:
        """Whether a value is off by more than its roundings, where numbers are moderate; None: it is what is due."""
        if value is None or not self.is_telling or not value.shape == self.got.shape == self.expected.shape:
            return value is None and bool(self.wrong.any())
        error, size = ((x * self.judged).abs().max() for x in (value - self.got, self.got))
        return bool(error > LITTLE * size.maximum((value * self.judged).abs().max()))

    def is_finite_where(self, value: Tensor) -> bool:
        """Whether the candidate is right where this is not finite, which is somewhere."""
        if not value.shape == self.got.shape == self.expected.shape:
            return False
        broken = ~value.isfinite() & self.judged
        return bool(broken.any()) and not bool((broken & ~self.got.isfinite()).any())

    def reproduced(self, value: Tensor) -> int:
        """How many of the wrong numbers a value gives within the allowance: one that is huge elsewhere widens nothing,
        and what is due never counts."""
        if not value.shape == self.got.shape == self.expected.shape or value.is_complex():
            return 0
        return int((((value.double() - self.got).abs() <= self.allowance) & self.wrong).sum())

    def right_by(self, value: Tensor) -> Tensor:
        """Where the candidate returned this."""
        return (value - self.got).abs() <= self.tolerance(value)

    def differs(self, value: Tensor) -> Tensor:
        """Where a value is visibly not the right one."""
        if value.shape != self.expected.shape:
            return torch.ones(1, dtype=torch.bool)
        if not value.numel():
            return torch.zeros_like(self.judged)
        beyond = APART * (self.tolerance(value) + self.allowance)
        return self.judged & ((value - self.expected).abs() > beyond)


def samples_of(arguments: Sequence[str], record: Record, kinks: bool, dtype: torch.dtype) -> dict[str, Sample]:
    """What was returned for each argument; kinks: whether values where no derivative exists are judged too."""
    found, samples = record.evidence, {}
    outputs = len(arguments) - len(found.case.inputs)
    are_values = all(x is None for x in record.results[outputs:])
    for position, (name, got) in enumerate(zip(arguments, record.results, strict=True)):
        expected, allowance, kink = (x[position] for x in (found.expected, found.allowance, found.kinks))
        if not isinstance(got, Tensor) or not is_dense(got) or expected is None or allowance is None:
            continue
        judged = expected.to(dtype).isfinite() & allowance.isfinite()
        if got.shape == expected.shape:
            returned = got.detach().cpu()
            # NaN is told from an infinity that is due, whatever is allowed there; so is a number, where values are all
            # that there is: of a derivative it may be that nothing overflows on the way.
            is_number = expected.isinf() & returned.isfinite() & are_values
            judged = judged | (expected.isinf() & returned.isnan()) | is_number
            allowance = torch.where(is_number, 0.0, allowance)
            # An exact 0 is right where what is due is no normal number, as the comparison has it (errors.py).
            flushed = (returned == 0) & (expected.abs() < torch.finfo(dtype).smallest_normal)
            expected = torch.where(flushed, 0.0, expected)
        judged = judged if kink is None or kinks else judged & ~kink
        if position >= outputs:
            x = found.case.inputs[position - outputs].cpu()
            judged = judged & ~x.isnan() if x.is_floating_point() else judged
        samples[name] = Sample(found.case, got.detach().cpu().double(), expected, allowance, judged, slack_of(dtype))
    return samples
