"""What somebody's function may have where the precision under test cannot tell on which side of a kink it is.

    underflow   a step underflows on its way to the kink
    rounding    numbers are equal or nearly so, and ball arithmetic does not tell which are larger; or the arithmetic
                is one in 16 bits

There a right program has what comes of either side, or a number between (manual_bp/arithmetic/sides.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import Contract, How, run_bounded
from manual_bp.arithmetic.sides import Between, IsOpen, between, by_rounding, by_underflow
from manual_bp.oracle.case import Case
from manual_bp.rule import Rule

# No larger case is looked at, which takes up to thirty runs of the page: where sides are open, small ones tell.
LARGEST = 2**17
# Where nothing is right for that reason in so many cases of an argument, further ones are not asked about.
PLAIN = 4


class Way(NamedTuple):
    """Where a branch is open, in which arithmetic, and why, in words.  accumulate: in which sums are added up, if that
    is another precision."""

    is_open: IsOpen
    contract: Contract
    words: str
    accumulate: torch.dtype | None = None


class EitherSide:
    """Tells whether what is beyond its allowance is right on one side of a kink, or between."""

    def __init__(self, rule: Rule, dtype: torch.dtype, contract: Contract, strict: bool) -> None:
        said, few = (str(precision).removeprefix("torch.") for precision in (contract.compute, dtype))
        narrow = Contract(dtype, dtype)
        self._rule = rule
        self._plain: Counter[int] = Counter()
        self._underflow = Way(by_underflow, contract, f"where a step underflows in {said} to a kink")
        self._rounding = Way(by_rounding, contract, f"where roundings of {said} leave a branch open")
        self._few_bits: list[Way] = []
        if narrow != contract and not strict:
            words = f"16-bit: where roundings of {few} leave a branch open"
            # Of sums that are added up in 16 bits nearly every branch is open, and each counts for less.
            sums = (contract.compute, None)
            self._few_bits = [Way(by_rounding, narrow, words, accumulate) for accumulate in sums]

    def told(
        self, case: Case, position: int, got: Tensor, beyond: Tensor, certified: bool, few_bits: Callable[[], Tensor]
    ) -> Iterator[tuple[str, Tensor]]:
        """Where it is, each with why, in words.

        beyond: where it is asked.  certified: whether ball arithmetic tells on which side the case is, and which
        subgradients are right at ties.  few_bits: where arithmetic in 16 bits is as far off anyway.
        """
        too_large = case.elements > LARGEST or self._plain[position] >= PLAIN
        if too_large or not hasattr(self._rule.page, "FUNCTION") or not bool(beyond.any()):
            return
        number, left = got.detach().cpu().double(), beyond.clone()
        for way in (self._underflow, *(() if certified else (self._rounding,)), *self._few_bits):
            left &= ~few_bits() if way in self._few_bits else True
            found = _between(self._rule, case, way) if bool(left.any()) else ()
            ends = found[position] if found else None
            if ends is not None:
                here = left & (number >= ends.least) & (number <= ends.most) & number.isfinite()
                left &= ~here
                if bool(here.any()):
                    yield f"{way.words}, another valid subgradient there", here
        self._plain[position] += bool(left.any())


@lru_cache(maxsize=8)  # of the arguments of a case, one after the other
def _between(rule: Rule, case: Case, way: Way) -> tuple[Between | None, ...]:
    return between(rule, case.inputs, case.dy, way.contract, way.is_open, way.accumulate, **case.hyper)


def is_close_by_rounding(rule: Rule, case: Case, contract: Contract) -> bool:
    """Whether a branch that errors leave open would be so if nothing underflowed."""
    how = How(underflows=False)
    *_, paging = run_bounded(rule, case.inputs, case.dy, contract, (None, None), how, dict(case.hyper), lambda x: x)
    return paging.is_close
