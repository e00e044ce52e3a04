"""Evidence of every generated case of a rule: found when it is first asked for, once, and kept for the next candidate.

Many cases are the same numbers in another layout, and an element-wise rule is looked at element by element.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from itertools import islice, takewhile
from typing import Any

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import Contract, Widths
from manual_bp.oracle.calling.surroundings import plain
from manual_bp.oracle.case import Case, Further
from manual_bp.oracle.cases.declared import NOTHING, Declared
from manual_bp.oracle.cases.generated import first_block, generating, one_row, repeated
from manual_bp.oracle.cases.variation import wide
from manual_bp.oracle.truth.by_torch import NO_TWIN, OTHER_ARGUMENTS
from manual_bp.oracle.truth.certified import CERTIFIED_ELEMENTS
from manual_bp.oracle.truth.conventions import Conventions
from manual_bp.oracle.truth.elements import Bin, binned, together
from manual_bp.oracle.truth.evidence import (
    OUR_CONVENTIONS,
    Evidence,
    evidence,
    repeated_in_rows,
    widths_of_cases,
)
from manual_bp.outputs import parts
from manual_bp.rule import Rule


class AsAskedFor(Sequence[Case]):
    """Cases, each made when it is first asked for: those that lie further out are not made for a candidate that is
    wrong before."""

    def __init__(self, make: Callable[[], Iterator[Case]]) -> None:
        self._make = make
        self._made: list[Case] = []
        self._rest: Iterator[Case] | None = None

    def __iter__(self) -> Iterator[Case]:
        position = 0
        while position < len(self._made) or self._next():
            yield self._made[position]
            position += 1

    def __len__(self) -> int:
        while self._next():
            pass
        return len(self._made)

    def __getitem__(self, position: Any) -> Any:
        is_ahead = isinstance(position, int) and position >= 0
        while (not is_ahead or position >= len(self._made)) and self._next():
            pass
        return self._made[position]

    def _next(self) -> bool:
        """Make one more; whether there is one."""
        with plain():
            if self._rest is None:
                self._rest = islice(self._make(), len(self._made), None)
            try:
                self._made.append(next(self._rest))
            except StopIteration:
                return False
            except BaseException:  # an interrupted iterator would say that there are no more
                self._rest = None
                raise
        return True


class Generated:
    """The evidence at the generated cases of a rule, found when it is first asked for: who stops early, as at the first
    mismatch, waits for no other."""

    def __init__(
        self,
        rule: Rule,
        dtype: torch.dtype,
        device: str,
        contract: Contract,
        conventions: Conventions,
        declared: Declared = NOTHING,
        seed: int = 0,
    ) -> None:
        self.rule, self.contract, self.conventions = rule, contract, conventions
        self.cases = AsAskedFor(lambda: generating(rule, dtype, device, seed, declared))
        self._found: dict[int, Evidence | str] = {}
        self._kept: dict[object, Evidence | str] = {}  # many cases are the same numbers in another layout
        self._widths: dict[object, Widths | None] = {}  # of cases that are asked about later

    def __iter__(self) -> Iterator[Evidence | str]:
        return (self.at(position) for position, _ in enumerate(self.cases))

    def at(self, position: int) -> Evidence | str:
        """The evidence at the case of that position, or why there is none."""
        if position not in self._found:
            case = self.cases[position]
            with plain():
                found = self._of_elements(position) if self.rule.elementwise else self._at(case)
            self._found[position] = said(case, found) if isinstance(found, str) else found
        return self._found[position]

    def _at(self, case: Case) -> Evidence | str:
        numbers = numbers_of(case)
        if numbers not in self._kept:
            known = self._widths_at(case, numbers) if hasattr(self.rule.page, "FUNCTION") else None
            self._kept[numbers] = evidence(self.rule, case, self.contract, self.conventions, known)
        found = self._kept[numbers]
        return found if isinstance(found, str) else replace(found, case=case)

    def _widths_at(self, case: Case, numbers: object) -> Widths | None:
        """The widths at a case, found together with those of all cases that differ from it in numbers alone."""
        if isinstance(case, Further):  # which is made when it is asked for
            return None
        alike = self._alike.pop(_but_for_numbers(case), {})
        if numbers in alike and len(alike) > 1:
            found = widths_of_cases(self.rule, list(alike.values()), self.contract, self.conventions)
            self._widths.update(zip(alike, found, strict=True))
        return self._widths.pop(numbers, None)

    @cached_property
    def _alike(self) -> dict[object, dict[object, Case]]:
        """The cases that are none further out, by what they are but for their numbers, and by these."""
        found: dict[object, dict[object, Case]] = {}
        for case in takewhile(lambda case: not isinstance(case, Further), self.cases):
            found.setdefault(_but_for_numbers(case), {}).setdefault(numbers_of(case), case)
        return found

    def _of_elements(self, position: int) -> Evidence | str:
        """The evidence of one row or block where a large case repeats it, found together with that of other cases."""
        if position not in self._kept:
            (these,) = (each.positions for each in self._bins if position in each.positions)
            cases = [self._blocks[other] for other in these]
            joined, apart = together(cases)
            found = evidence(self.rule, joined, self.contract, self.conventions)
            if isinstance(found, str) or found.dispute:  # which is about one of the cases, and is said of that one
                self._kept[position] = evidence(self.rule, self._blocks[position], self.contract, self.conventions)
            else:
                self._kept.update(zip(these, apart(found), strict=True))
        found, case = self._kept[position], self.cases[position]
        if isinstance(found, str) or self._blocks[position] is case:
            return found
        return _in_blocks(found, case) if isinstance(case, Further) else repeated_in_rows(found, case)

    @cached_property
    def _blocks(self) -> list[Case]:
        """Of each case of an element-wise rule the row or block that it repeats, or itself."""
        return [(first_block(case) if isinstance(case, Further) else one_row(case)) or case for case in self.cases]

    @cached_property
    def _bins(self) -> list[Bin]:
        return binned(self._blocks)


@plain()
def generated_evidence(
    rule: Rule,
    dtype: torch.dtype,
    device: str,
    contract: Contract,
    conventions: Conventions = OUR_CONVENTIONS,
    declared: Declared = NOTHING,
) -> Generated:
    """The evidence at every generated case of a rule, kept for the next candidate."""
    text = (rule.page.forward, getattr(rule.page, "backward", None))
    return _generated(rule, text, dtype, device, contract, conventions, declared)


@lru_cache(maxsize=128)  # every rule in every dtype, twice over
def _generated(
    rule: Rule,
    text: object,
    dtype: torch.dtype,
    device: str,
    contract: Contract,
    conventions: Conventions,
    declared: Declared,
) -> Generated:
    # `text` is in the signature because the evidence depends on it: a page whose functions are replaced is another.
    return Generated(rule, dtype, device, contract, conventions, declared)


def forget_evidence() -> None:
    """Let go of what is kept: some 40 MB for a rule in a dtype, of no use to whoever judges each but once."""
    _generated.cache_clear()


def _in_blocks(found: Evidence, case: Case) -> Evidence:
    """What holds for one block of an element-wise rule holds for every block that is like it."""
    expected, allowance, kinks = (
        tuple(None if x is None else repeated(x, tuple(case.inputs[0].shape)) for x in values)
        for values in (found.expected, found.allowance, found.kinks)
    )
    return replace(found, case=case, expected=expected, allowance=allowance, kinks=kinks)


def said(case: Case, why: str) -> str:
    """Why there is no evidence at a case; what holds for all of them is said without one."""
    return why if why == NO_TWIN or why.startswith(OTHER_ARGUMENTS) else f"case {case.name!r}: {why}"


def numbers_of(case: Case) -> object:
    """What a case is but for its layout and name; a large one is like no other."""
    if any(x.numel() > CERTIFIED_ELEMENTS for x in case.tensors):
        return case
    absent = tuple(x is None for x in case.inputs)
    return (absent, *case.hyper.items(), *((tuple(x.shape), wide(x).numpy().tobytes()) for x in case.tensors))


def _but_for_numbers(case: Case) -> object:
    """What cases have in common that differ in numbers alone."""
    absent = tuple(x is None for x in (*case.inputs, *parts(case.dy)))
    kinds = ((tuple(x.shape), x.dtype, _bytes_of_positions(x)) for x in case.tensors)
    return (absent, *case.hyper.items(), *kinds)


def _bytes_of_positions(x: Tensor) -> bytes:
    """Those of what is no number."""
    return b"" if x.is_floating_point() else x.numpy(force=True).tobytes()
