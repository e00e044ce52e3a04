"""What torch in float64 says of a case, and how far off that may be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import Contract, Widths, contract_of, widths
from manual_bp.oracle.calling.candidates import candidate
from manual_bp.oracle.case import Case
from manual_bp.oracle.cases.variation import wide_case
from manual_bp.oracle.truth.certified import Part, Values, certified_module
from manual_bp.oracle.truth.kinks import is_subgradient
from manual_bp.oracle.words import told_apart
from manual_bp.outputs import parts
from manual_bp.rule import Rule, as_vjp

NO_TWIN = (
    "torch has no twin of this rule, and the candidate registered as torch offers no autograd(forward), so cases that "
    "are not certified were not judged"
)

OTHER_ARGUMENTS = "torch's function of this name takes other arguments"

# At numbers of moderate condition no formula loses so much: a factor of 2^11 beside the page's own width, that is 11 of
# 53 bits.  torch's width in float64 is then that part of the width in float32, which grows at least as its roundings.
MODERATE_LOSS = 2.0**11

# torch's value within so many roundings of truth, at each element, is that of the same function: no slip is so small.
AGREED = 64

# Of the largest element, in float64: another derivative is further off, and roundings are nearly always nearer.
APART = 2.0**-20


def derivative(rule: Rule, case: Case) -> Values | str:
    """y and the cotangents by torch.autograd in float64."""
    torch_ = candidate("torch")
    twin = twin_of(rule)
    of_the_page = twin is None
    if twin is None and not rule.has_backward:
        twin = rule.values_alone
    if twin is None:
        differentiate = getattr(torch_, "autograd", None)
        if differentiate is None:
            return NO_TWIN
        twin = differentiate(lambda *inputs, **hyper: rule.pure(*inputs, **hyper)[0])
    try:
        y, grads = as_vjp(rule, twin)(*wide_case(case), **case.hyper)
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


def twin_of(rule: Rule) -> Callable[..., Any] | None:
    """torch's own function for a rule, or None.  Of a function as reference it is torch's derivative, as recorded."""
    if hasattr(rule.page, "FUNCTION"):
        return rule.vjp
    found: Callable[..., Any] | None = candidate("torch")(rule.name)
    return found


def own_convention(rule: Rule, case: Case) -> Values | None:
    """y and what the page's own backward gives, if that is certified to be a subgradient."""
    balls = certified_module()
    assert balls is not None
    inputs, dy = wide_case(case)
    y, grads = rule.vjp(inputs, dy, **case.hyper)
    try:
        passes = balls.passes_as_subgradient(rule, inputs, dy, grads, **case.hyper)
    except balls.UnknownHere:
        return None
    return (*parts(y), *grads) if passes else None


def with_own_convention(rule: Rule, case: Case, expected: Values, kinks: Sequence[Tensor | None]) -> Values:
    """The expected values with those of the page's own backward at kinks, if they are certified to be a subgradient."""
    balls = certified_module()
    if balls is None or not any(k is not None and bool(k.any()) for k in kinks[len(rule.outputs) :]):
        return expected
    wide = replace(case, inputs=wide_case(case)[0], dy=wide_case(case)[1])
    y, grads = rule.vjp(wide.inputs, wide.dy, **wide.hyper)
    if not is_subgradient(rule, wide, kinks, grads, balls):
        return expected
    return tuple(
        x if x is None or k is None or own is None else torch.where(k, own, x)
        for x, k, own in zip(expected, kinks, (*parts(y), *grads), strict=True)
    )


def disputed(rule: Rule, case: Case, certified: list[Part], torchs: Values) -> str:
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
        given = wide_case(case)
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


def declares_another(rule: Rule, case: Case, certified: list[Part], torchs: Values) -> bool:
    """Whether what torch gives as the derivative of somebody's function is that of other values than it has, as is the
    0 of a padding row, the mean over the uses of a row (scale_grad_by_freq), or what a hook makes of it: that is then
    what the function declares, and truth is the derivative of its values alone."""
    if not hasattr(rule.page, "FUNCTION"):
        return False
    compared = [
        (position, part[0], (part[0] - torch_).abs())
        for position, (part, torch_) in enumerate(zip(certified, torchs, strict=True))
        if position >= len(rule.outputs) and part is not None and torch_ is not None and torch_.numel()
    ]
    far = [(i, off) for i, due, off in compared if bool((off > APART * due.nan_to_num().abs().max()).any())]
    if not far:
        return False
    found = widths(rule, *wide_case(case), contract_of(torch.float64), **case.hyper)
    own = (*found.outputs, *found.grads)
    return any(bool((off > 2 * width).any()) for i, off in far if (width := own[i]) is not None)


def with_widths(rule: Rule, case: Case, results: Values, width: Values, beside: Values) -> list[Part]:
    """torch's results with how far off they may be in float64: as far as the page, or where the page is further from
    them, as any formula of the page that loses digits, since torch's own formula may be one of them.  beside: the
    widths under the contract, to which these are added."""
    losing = [m.instead for m in rule.mistakes if m.loses_digits] + [v.instead for v in rule.values]
    inputs, dy = wide_case(case)
    if losing and not _agree(rule, case, results, width):
        float64 = contract_of(torch.float64)
        found = [widths(rule, inputs, dy, float64, beside=beside, **f, **case.hyper) for f in losing]
        columns = zip(width, *((*w.outputs, *w.grads) for w in found), strict=True)
        width = tuple(None if column[0] is None else torch.stack(column).amax(0) for column in columns)
    return [
        None if w is None or not is_wanted else (torch.full_like(w, torch.nan) if x is None else x, w)
        for x, w, is_wanted in zip(results, width, _wanted(rule, case), strict=True)
    ]


def width_in_float64(rule: Rule, case: Case, width: Widths, contract: Contract, is_cheap: bool) -> Values:
    """How far off the page may be in float64, whose width under the contract is known."""
    if is_cheap and contract.compute is torch.float32:
        share = MODERATE_LOSS * torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps
        return tuple(None if w is None else share * w for w in (*width.outputs, *width.grads))
    if contract != contract_of(torch.float64):
        inputs, dy = wide_case(case)
        beside = (*width.outputs, *width.grads)
        width = widths(rule, inputs, dy, contract_of(torch.float64), beside=beside, **case.hyper)
    return (*width.outputs, *width.grads)


def _agree(rule: Rule, case: Case, results: Values, width: Values) -> bool:
    """Whether the page in float64 is nowhere further from these results than that."""
    y, grads = rule.vjp(*wide_case(case), **case.hyper)
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
