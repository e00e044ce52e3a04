"""Evidence: what a gradient should be at a case, and how far off a right program may be.

The value never comes from the backward under test.  It is certified truth (ball arithmetic on the page's forward)
where that is possible: python-flint installed, everything finite, the case not large.  Elsewhere, and at kinks, where
there is no derivative but a convention, it is torch.autograd in float64: of torch's own function (the rule's twin), or
of the page's forward for a rule without one, whose convention at kinks is the page's own, if that is a subgradient.

The allowance is the running-error bound of the page under the contract, plus the reference's own width: one rounding of
float64 for certified truth, torch's own running-error bound in float64 otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import Contract, Widths, widths, widths_together
from manual_bp.oracle.case import Case, Further, WellConditioned
from manual_bp.oracle.cases.exponents import exponents, fits_float64
from manual_bp.oracle.cases.generated import one_row
from manual_bp.oracle.cases.variation import wide_case
from manual_bp.oracle.truth.by_torch import (
    NO_TWIN,
    declares_another,
    derivative,
    disputed,
    own_convention,
    twin_of,
    width_in_float64,
    with_own_convention,
    with_widths,
)
from manual_bp.oracle.truth.certified import (
    CERTIFIED_ELEMENTS,
    CERTIFIED_ON_THE_WAY,
    LeftOpen,
    Part,
    Values,
    certified_kinks,
    truth_at,
)
from manual_bp.oracle.truth.conventions import Conventions
from manual_bp.oracle.truth.either_side import is_close_by_rounding
from manual_bp.rule import Rule

OUR_CONVENTIONS = Conventions()

OF_THE_PAGE = "torch.autograd of the page's own forward in float64, as the rule has no twin"
OF_THE_FUNCTION = "torch's derivative of the function, as recorded, in float64"
OF_ITS_VALUES = "the page itself in float64, as the rule has no twin"

STOCHASTIC = "; what is allowed comes from stochastic arithmetic, as the bound of rounding errors is wide here"

UNDECIDED = "numbers on whose order something depends lie nearer to each other there than rounding errors"


class Later(Sequence[Tensor | None]):
    """What is found when it is first asked for: to certify kinks takes longer than all the rest of a case."""

    def __init__(self, find: Callable[[], Sequence[Tensor | None]]) -> None:
        self._find = find

    @cached_property
    def _found(self) -> Sequence[Tensor | None]:
        return self._find()

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, position: Any) -> Any:
        return self._found[position]


@dataclass(frozen=True, eq=False)
class Evidence:
    """A case with its expected results.

    expected, allowance: one entry per argument of the rule, float64 on the CPU; None for an input without cotangent,
        or one that is absent.
    kinks: bool masks like `expected`: where no derivative exists, so that the expected value is a convention.
    source: whence the expected values come.
    dispute: what certified truth and torch disagree about, in words; empty if they agree.
    row: the evidence of one row, where all rows of a large case are alike.
    is_smooth: whether it is known of somebody's function that there is no kink.
    largest: how many elements the largest tensor has that is made on the way.
    """

    case: Case
    expected: Values
    allowance: Values
    kinks: Sequence[Tensor | None]
    source: str
    dispute: str = ""
    row: Evidence | None = None
    is_smooth: bool = False
    largest: int = 0


def evidence(
    rule: Rule,
    case: Case,
    contract: Contract,
    conventions: Conventions = OUR_CONVENTIONS,
    known: Widths | None = None,
) -> Evidence | str:
    """The evidence at a case, or why there is none.  known: its widths, if they are."""
    if rule.elementwise and (row := one_row(case)) is not None:
        found = evidence(rule, row, contract, conventions)
        return found if isinstance(found, str) else repeated_in_rows(found, case)
    called, case = case, replace(case, hyper=conventions.hyper(rule, case.hyper))
    if hasattr(rule.page, "FUNCTION") and (why := raises(rule, wide_case(case)[0], case.hyper)):
        return why
    try:
        width = known or widths(rule, case.inputs, case.dy, contract, **case.hyper)
    except ValueError as error:
        if not hasattr(rule.page, "FUNCTION"):
            raise
        return str(error)  # somebody's function may be defined for some numbers alone
    is_open = width.is_close and _is_far(case) and is_close_by_rounding(rule, case, contract)
    if hasattr(rule.page, "FUNCTION") and (width.is_undecided or is_open):
        return UNDECIDED
    allowed_by = STOCHASTIC if width.stochastic else ""
    autograd = derivative(rule, case)
    is_cheap = isinstance(case, WellConditioned) and not rule.elementwise and not isinstance(autograd, str)
    try:
        certified = None if is_cheap or width.largest > CERTIFIED_ON_THE_WAY else truth_at(rule, case)
    except LeftOpen:
        return UNDECIDED
    if certified is None and width.is_order_tied and not is_cheap and case.elements <= CERTIFIED_ELEMENTS:
        return UNDECIDED  # truth depends on the order of equal numbers, and that on roundings
    if certified is not None and not isinstance(autograd, str) and declares_another(rule, case, certified, autograd):
        certified = None
    has_twin = twin_of(rule) is not None
    if not has_twin and certified is not None and not _is_complete(certified, len(rule.outputs)):
        autograd = own_convention(rule, case) or autograd
    if isinstance(autograd, str) and (certified is None or autograd != NO_TWIN):
        return autograd
    if certified is not None and (isinstance(autograd, str) or _is_complete(certified, len(rule.outputs))):
        parts = [None if c is None else (*c, c[0].isnan()) for c in certified]
    else:
        assert not isinstance(autograd, str)
        beside = (*width.outputs, *width.grads)
        twin = with_widths(rule, case, autograd, width_in_float64(rule, case, width, contract, is_cheap), beside)
        if not _fits_float64(case):
            twin = [part and (part[0].nan_to_num(), torch.full_like(part[1], torch.inf)) for part in twin]
        parts = [_prefer(c, t) for c, t in zip(certified or [None] * len(twin), twin, strict=True)]
    expected, own, uncertified = zip(*(part or (None, None, None) for part in parts), strict=True)
    kinks: Sequence[Tensor | None] = uncertified
    # Otherwise nothing depends on them until something is wrong.
    is_smooth = hasattr(rule.page, "FUNCTION") and _is_smooth(width)
    is_asked = conventions != OUR_CONVENTIONS and not (is_smooth and conventions.any_subgradient(rule))
    if certified is None and width.largest <= CERTIFIED_ON_THE_WAY and (not has_twin or is_asked):
        kinks = Later(lambda: certified_kinks(rule, case) or uncertified)
    if certified is None and not has_twin and rule.has_backward:
        expected = with_own_convention(rule, case, expected, kinks)
    allowance = tuple(
        None if w is None or o is None else w + o for w, o in zip((*width.outputs, *width.grads), own, strict=True)
    )
    expected, allowance = conventions.at_kinks(rule, case, expected, allowance, kinks, contract.storage)
    if certified is None:
        own_source = OF_THE_PAGE if rule.has_backward else OF_ITS_VALUES
        own_source = "torch.autograd in float64" if has_twin else own_source
        source = (OF_THE_FUNCTION if hasattr(rule.page, "FUNCTION") else own_source) + allowed_by
        return Evidence(called, expected, allowance, kinks, source, is_smooth=is_smooth, largest=width.largest)
    # Without a twin both are of the page's forward.
    dispute = "" if isinstance(autograd, str) or not has_twin else disputed(rule, case, certified, autograd)
    if dispute and hasattr(rule.page, "FUNCTION"):  # both are of one program
        return UNDECIDED
    return Evidence(called, expected, allowance, kinks, "certified truth" + allowed_by, dispute)


def widths_of_cases(
    rule: Rule, cases: Sequence[Case], contract: Contract, conventions: Conventions
) -> list[Widths | None]:
    """The widths of somebody's function at cases that differ in numbers alone, None where it is not defined."""
    points = [(case.inputs, case.dy) for case in cases]
    return widths_together(rule, points, contract, conventions.hyper(rule, cases[0].hyper))


def raises(rule: Rule, inputs: Sequence[Any], hyper: Mapping[str, Any]) -> str:
    """What somebody's function raises at a case, which is none then: it may look at numbers before it does what was
    recorded; "" if nothing."""
    try:
        with torch.no_grad():
            rule.page.FUNCTION(*(None if x is None else x.clone() for x in inputs), **hyper)
    except Exception as error:  # whatever it is that a function of somebody's raises
        return f"{rule.name} raises {type(error).__name__} there: {error}"
    return ""


def _is_smooth(width: Widths) -> bool:
    """Whether nothing that may be a kink was met: equal numbers on which a branch or an order depends, or an error
    without a bound, as beside a root of 0."""
    unbounded = any(w is not None and bool(w.isinf().any()) for w in (*width.outputs, *width.grads))
    return not width.is_tied and not unbounded


def _is_far(case: Case) -> bool:
    """Whether a case is one of many of unusual numbers: where a branch is open in any other, it is so at few elements,
    and rarely."""
    return isinstance(case, Further) and case.elements <= CERTIFIED_ELEMENTS


def repeated_in_rows(found: Evidence, case: Case) -> Evidence:
    """What holds for one row of an element-wise rule holds for every row that is like it."""
    expected, allowance, kinks = (
        tuple(None if x is None else x.expand(case.inputs[0].shape) for x in values)
        for values in (found.expected, found.allowance, found.kinks)
    )
    return replace(found, case=case, expected=expected, allowance=allowance, kinks=kinks, row=found)


def _is_complete(certified: list[Part], outputs: int) -> bool:
    """Whether every cotangent is known, kinks or not, so that torch's is not needed."""
    return not any(bool(part[0].isnan().any()) for part in certified[outputs:] if part)


def _prefer(certified: Part, twin: Part) -> tuple[Tensor, Tensor, Tensor] | None:
    """Expected value, its own width, and where it is a convention: truth where there is truth, torch at kinks."""
    if twin is None:
        return None
    if certified is None:
        return *twin, torch.zeros_like(twin[0], dtype=torch.bool)
    unknown = certified[0].isnan()
    return torch.where(unknown, twin[0], certified[0]), torch.where(unknown, twin[1], certified[1]), unknown


def _fits_float64(case: Case) -> bool:
    """Whether no product of the case's numbers over- or underflows in float64, so that torch can be the reference."""
    return fits_float64(exponents(case))
