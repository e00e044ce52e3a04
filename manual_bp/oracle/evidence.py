"""Evidence: what a gradient should be at a case, and how far off a right program may be.

The value never comes from the backward under test.  It is certified truth (ball arithmetic on the page's forward)
where that is possible: python-flint installed, everything finite, the case not large.  Elsewhere, and at kinks, where
there is no derivative but a convention, it is torch.autograd in float64: of torch's own function (the rule's twin), or
of the page's forward for a rule without one, whose convention at kinks is the page's own, if that is a subgradient.

The allowance is the running-error bound of the page under the contract, plus the reference's own width: one rounding of
float64 for certified truth, torch's own running-error bound in float64 otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import Contract, Widths, contract_of, widths
from manual_bp.oracle.candidates import candidate
from manual_bp.oracle.case import Case, Further, WellConditioned
from manual_bp.oracle.cases import one_row
from manual_bp.oracle.conventions import Conventions
from manual_bp.oracle.elements import exponents, fits_float64
from manual_bp.oracle.kinks import is_subgradient, kinks_of
from manual_bp.oracle.words import told_apart
from manual_bp.outputs import parts
from manual_bp.rule import Rule, as_vjp

Values = tuple[Tensor | None, ...]

OUR_CONVENTIONS = Conventions()

NO_TWIN = (
    "torch has no twin of this rule, and the candidate registered as torch offers no autograd(forward), so cases that "
    "are not certified were not judged"
)
OTHER_ARGUMENTS = "torch's function of this name takes other arguments"
OF_THE_PAGE = "torch.autograd of the page's own forward in float64, as the rule has no twin"
OF_THE_FUNCTION = "torch's derivative of the function, as recorded, in float64"
OF_ITS_VALUES = "the page itself in float64, as the rule has no twin"

STOCHASTIC = "; what is allowed comes from stochastic arithmetic, as the bound of rounding errors is wide here"

UNDECIDED = "numbers on whose order something depends lie nearer to each other there than rounding errors"

# A case of at most this many input elements is certified.  The work grows with the operations, whatever they couple: of
# no rule it takes more than 0.1 s on one core.
CERTIFIED_ELEMENTS = 2000

# Of an element-wise rule, which has few operations for each.
CERTIFIED_ALONE = 2**13

# Nor has any tensor more that the page makes of them on the way, such as all logits of few features: at 10 operations
# for each and 3 µs for one of them, half a second.
CERTIFIED_ON_THE_WAY = 2**14

# At numbers of moderate condition no formula loses so much: a factor of 2^11 beside the page's own width, that is 11 of
# 53 bits.  torch's width in float64 is then that part of the width in float32, which grows at least as its roundings.
MODERATE_LOSS = 2.0**11

# torch's value within so many roundings of truth, at each element, is that of the same function: no slip is so small.
AGREED = 64


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


def evidence(rule: Rule, case: Case, contract: Contract, conventions: Conventions = OUR_CONVENTIONS) -> Evidence | str:
    """The evidence at a case, or why there is none."""
    if rule.elementwise and (row := one_row(case)) is not None:
        found = evidence(rule, row, contract, conventions)
        return found if isinstance(found, str) else repeated_in_rows(found, case)
    called, case = case, replace(case, hyper=conventions.hyper(rule, case.hyper))
    try:
        width = widths(rule, case.inputs, case.dy, contract, **case.hyper)
    except ValueError as error:
        if not hasattr(rule.page, "FUNCTION"):
            raise
        return str(error)  # somebody's function may be defined for some numbers alone
    if hasattr(rule.page, "FUNCTION") and (width.is_undecided or (width.is_close and _is_far(case))):
        return UNDECIDED
    allowed_by = STOCHASTIC if width.stochastic else ""
    autograd = _autograd(rule, case)
    is_cheap = isinstance(case, WellConditioned) and not rule.elementwise and not isinstance(autograd, str)
    certified = None if is_cheap or width.largest > CERTIFIED_ON_THE_WAY else _certified(rule, case)
    has_twin = _twin(rule) is not None
    if not has_twin and certified is not None and not _is_complete(certified, len(rule.outputs)):
        autograd = _own_convention(rule, case) or autograd
    if isinstance(autograd, str) and (certified is None or autograd != NO_TWIN):
        return autograd
    if certified is not None and (isinstance(autograd, str) or _is_complete(certified, len(rule.outputs))):
        parts = [None if c is None else (*c, c[0].isnan()) for c in certified]
    else:
        assert not isinstance(autograd, str)
        beside = (*width.outputs, *width.grads)
        twin = _with_widths(rule, case, autograd, _in_float64(rule, case, width, contract, is_cheap), beside)
        if not _fits_float64(case):
            twin = [part and (part[0].nan_to_num(), torch.full_like(part[1], torch.inf)) for part in twin]
        parts = [_prefer(c, t) for c, t in zip(certified or [None] * len(twin), twin, strict=True)]
    expected, own, uncertified = zip(*(part or (None, None, None) for part in parts), strict=True)
    kinks: Sequence[Tensor | None] = uncertified
    # Otherwise nothing depends on them until something is wrong.
    is_smooth = hasattr(rule.page, "FUNCTION") and _is_smooth(width)
    is_asked = conventions != OUR_CONVENTIONS and not (is_smooth and conventions.any_subgradient(rule))
    if certified is None and width.largest <= CERTIFIED_ON_THE_WAY and (not has_twin or is_asked):
        kinks = Later(lambda: _kinks(rule, case) or uncertified)
    if certified is None and not has_twin and rule.has_backward:
        expected = _with_own_convention(rule, case, expected, kinks)
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
    dispute = "" if isinstance(autograd, str) or not has_twin else _dispute(rule, case, certified, autograd)
    if dispute and hasattr(rule.page, "FUNCTION"):  # both are of one program
        return UNDECIDED
    return Evidence(called, expected, allowance, kinks, "certified truth" + allowed_by, dispute)


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


_Part = tuple[Tensor, Tensor] | None
"""One expected tensor (nan where it is not known) and its own width."""


def _dispute(rule: Rule, case: Case, certified: list[_Part], torchs: Values) -> str:
    """Whether the page's forward, of which truth is the derivative, and torch's y are of two functions.

    Only the values are compared: where they agree, truth is the derivative of torch's function as well, and torch's own
    derivative may have lost its digits.
    """
    compared = [
        (position, part, (part[0] - y).abs(), y)
        for position, (part, y) in enumerate(zip(certified, torchs, strict=True))
        if position < len(rule.outputs) and part is not None and y is not None
    ]
    if not any(bool((error > AGREED * part[1]).any()) for _, part, error, _ in compared):
        return ""  # nearly always, and torch's bound takes time
    owns: list[tuple[Tensor | None, ...]] = []
    for formula in (None, *(value.forward for value in rule.values)):  # torch's own may be one that loses digits
        given = _wide_case(case)
        own = widths(rule, *given, contract_of(torch.float64), lambda **_: (), forward=formula, **case.hyper).outputs
        owns.append(own)
        far = []
        for position, part, error, y in compared:
            # torch's own width twice: once for torch, once for the page in float64, which is another program.
            widest = torch.stack([width for each in owns if (width := each[position]) is not None]).amax(0)
            beyond = error > part[1] + 2 * widest
            if bool(beyond.any()):
                far.append((position, beyond, part[0], y))
        if not far:
            return ""
    position, beyond, ours, theirs = far[0]
    index = tuple(beyond.nonzero()[0].tolist())
    place = f"{rule.arguments[position]}{list(index) if index else ''}"
    told = told_apart(float(ours[index]), float(theirs[index]))
    return f"{place} is {told[0]} by the page and {told[1]} by torch"


def _is_complete(certified: list[_Part], outputs: int) -> bool:
    """Whether every cotangent is known, kinks or not, so that torch's is not needed."""
    return not any(bool(part[0].isnan().any()) for part in certified[outputs:] if part)


def _prefer(certified: _Part, twin: _Part) -> tuple[Tensor, Tensor, Tensor] | None:
    """Expected value, its own width, and where it is a convention: truth where there is truth, torch at kinks."""
    if twin is None:
        return None
    if certified is None:
        return *twin, torch.zeros_like(twin[0], dtype=torch.bool)
    unknown = certified[0].isnan()
    return torch.where(unknown, twin[0], certified[0]), torch.where(unknown, twin[1], certified[1]), unknown


def _autograd(rule: Rule, case: Case) -> Values | str:
    """y and the cotangents by torch.autograd in float64."""
    torch_ = candidate("torch")
    twin = _twin(rule)
    of_the_page = twin is None
    if twin is None and not rule.has_backward:
        twin = rule.values_alone
    if twin is None:
        differentiate = getattr(torch_, "autograd", None)
        if differentiate is None:
            return NO_TWIN
        twin = differentiate(lambda *inputs, **hyper: rule.pure(*inputs, **hyper)[0])
    try:
        y, grads = as_vjp(rule, twin)(*_wide_case(case), **case.hyper)
    except (RuntimeError, ValueError, IndexError) as error:
        return f"torch raises {type(error).__name__} here: {error}"
    except TypeError as error:
        return f"{OTHER_ARGUMENTS}: {error}. Write torch_ref/twins/{rule.name}.py, which takes the rule's"
    if of_the_page:
        # A branch that is not taken may still give 0 times infinity there.
        wanted = [g for g, due in zip(grads, _wanted(rule, case)[len(rule.outputs) :], strict=True) if due]
        known = not any(bool(x.isnan().any()) for x in case.tensors if x.is_floating_point())
        if any(g is None or (known and bool(g.isnan().any())) for g in wanted):
            return "torch.autograd of the page's own forward gives no gradient, or NaN, here"
    return (*map(_as_number, parts(y)), *grads)


def _twin(rule: Rule) -> Callable[..., Any] | None:
    """torch's own function for a rule, or None.  Of a function as reference it is torch's derivative, as recorded."""
    if hasattr(rule.page, "FUNCTION"):
        return rule.vjp
    found: Callable[..., Any] | None = candidate("torch")(rule.name)
    return found


def _own_convention(rule: Rule, case: Case) -> Values | None:
    """y and what the page's own backward gives, if that is certified to be a subgradient."""
    balls = certified_module()
    assert balls is not None
    inputs, dy = _wide_case(case)
    y, grads = rule.vjp(inputs, dy, **case.hyper)
    try:
        passes = balls.passes_as_subgradient(rule, inputs, dy, grads, **case.hyper)
    except balls.UnknownHere:
        return None
    return (*parts(y), *grads) if passes else None


def _with_own_convention(rule: Rule, case: Case, expected: Values, kinks: Sequence[Tensor | None]) -> Values:
    """The expected values with those of the page's own backward at kinks, if they are certified to be a subgradient."""
    balls = certified_module()
    if balls is None or not any(k is not None and bool(k.any()) for k in kinks[len(rule.outputs) :]):
        return expected
    wide = replace(case, inputs=_wide_case(case)[0], dy=_wide_case(case)[1])
    y, grads = rule.vjp(wide.inputs, wide.dy, **wide.hyper)
    if not is_subgradient(rule, wide, kinks, grads, balls):
        return expected
    return tuple(
        x if x is None or k is None or own is None else torch.where(k, own, x)
        for x, k, own in zip(expected, kinks, (*parts(y), *grads), strict=True)
    )


def _with_widths(rule: Rule, case: Case, results: Values, width: Values, beside: Values) -> list[_Part]:
    """torch's results with how far off they may be in float64: as far as the page, or where the page is further from
    them, as any formula of the page that loses digits, since torch's own formula may be one of them.  beside: the
    widths under the contract, to which these are added."""
    losing = [m.instead for m in rule.mistakes if m.loses_digits] + [v.instead for v in rule.values]
    inputs, dy = _wide_case(case)
    if losing and not _agree(rule, case, results, width):
        float64 = contract_of(torch.float64)
        found = [widths(rule, inputs, dy, float64, beside=beside, **f, **case.hyper) for f in losing]
        columns = zip(width, *((*w.outputs, *w.grads) for w in found), strict=True)
        width = tuple(None if column[0] is None else torch.stack(column).amax(0) for column in columns)
    return [
        None if w is None or not is_wanted else (torch.full_like(w, torch.nan) if x is None else x, w)
        for x, w, is_wanted in zip(results, width, _wanted(rule, case), strict=True)
    ]


def _in_float64(rule: Rule, case: Case, width: Widths, contract: Contract, is_cheap: bool) -> Values:
    """How far off the page may be in float64, whose width under the contract is known."""
    if is_cheap and contract.compute is torch.float32:
        share = MODERATE_LOSS * torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps
        return tuple(None if w is None else share * w for w in (*width.outputs, *width.grads))
    if contract != contract_of(torch.float64):
        inputs, dy = _wide_case(case)
        beside = (*width.outputs, *width.grads)
        width = widths(rule, inputs, dy, contract_of(torch.float64), beside=beside, **case.hyper)
    return (*width.outputs, *width.grads)


def _agree(rule: Rule, case: Case, results: Values, width: Values) -> bool:
    """Whether the page in float64 is nowhere further from these results than that."""
    y, grads = rule.vjp(*_wide_case(case), **case.hyper)
    return all(
        own is None
        or x is None
        or w is None
        or not bool(((own - x).abs() > w).any())  # a NaN is no number to be near to
        for own, x, w in zip((*map(_as_number, parts(y)), *grads), results, width, strict=True)
    )


def _wanted(rule: Rule, case: Case) -> list[bool]:
    """Of each argument, whether there is something to judge."""
    there = [True] * len(rule.outputs) + [x is not None for x in case.inputs]
    return [due and is_there for due, is_there in zip(rule.wanted, there, strict=True)]


def _as_number(x: Tensor | None) -> Tensor | None:
    """A count or a truth value that is an output, as a number to compare with."""
    return x if x is None or x.is_floating_point() else x.double()


def _certified(rule: Rule, case: Case) -> list[_Part] | None:
    """Certified truth, rounded to float64 once; nan at kinks.  None of a derivative that is not that of forward."""
    balls = certified_module() if getattr(rule.page, "CERTIFIED", True) else None
    numbers = [x for x in case.tensors if x.is_floating_point()]
    fitting = CERTIFIED_ALONE if rule.elementwise else CERTIFIED_ELEMENTS
    too_large = case.elements > fitting
    if balls is None or too_large or not all(bool(x.isfinite().all()) for x in numbers):
        return None
    own = case.with_tensors(x.detach().cpu() for x in case.tensors)
    try:
        found = balls.truth(rule, own.inputs, own.dy, **case.hyper)
    except balls.PrecisionError:
        if not hasattr(rule.page, "FUNCTION"):
            raise
        return None  # numbers of somebody's function are equal there by no operation that ball arithmetic can tell
    except balls.UnknownFunction as unknown:
        if not hasattr(rule.page, "FUNCTION"):
            raise
        if not isinstance(unknown, balls.UnknownHere):
            vars(rule.page).update(CERTIFIED=False, UNCERTIFIED=unknown.function)  # nor is it at any other case
        return None
    u = torch.finfo(torch.float64).eps / 2
    smallest = torch.finfo(torch.float64).smallest_normal * 2 * u
    parts: list[_Part] = []
    for each in (*found.outputs, *found.grads):
        value = None if each is None else each.midpoint()
        parts.append(None if value is None else (value, (u * value.abs().nan_to_num()).clamp(min=smallest)))
    return parts


def _kinks(rule: Rule, case: Case) -> Values | None:
    """Where no derivative exists, if that can be certified row by row."""
    balls = certified_module() if getattr(rule.page, "CERTIFIED", True) else None
    return None if balls is None else kinks_of(rule, case, balls)


def _fits_float64(case: Case) -> bool:
    """Whether no product of the case's numbers over- or underflows in float64, so that torch can be the reference."""
    return fits_float64(exponents(case))


@cache
def certified_module() -> ModuleType | None:
    """manual_bp.arithmetic.certified, or None if python-flint is not installed."""
    try:
        from manual_bp.arithmetic import certified
    except ImportError:
        return None
    return certified


def _wide_case(case: Case) -> tuple[tuple[Any, ...], Any]:
    """The inputs and dy in float64 on the CPU."""
    own = case.with_tensors(map(wide, case.tensors))
    return own.inputs, own.dy


def wide(x: Tensor) -> Tensor:
    x = x.detach().cpu()
    return x.to(torch.float64) if x.is_floating_point() else x
