"""What is several things at once: conventions that nobody declared, and known mistakes, of a page without backward.

The page says its own formula but for what is named (`varied`), and any number may be named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, product
from typing import NamedTuple

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import Contract
from manual_bp.oracle.cases.variation import wide
from manual_bp.oracle.diagnosis import Record
from manual_bp.oracle.diagnosis.deadline import Deadline, TimeIsUp
from manual_bp.oracle.truth.conventions import varied_mistakes, varied_rule
from manual_bp.oracle.truth.errors import errors
from manual_bp.oracle.truth.evidence import Evidence, evidence
from manual_bp.outputs import parts
from manual_bp.rule import Rule

# A formula that gives the results of so many cases, wrong ones first, is the candidate's.
CASES = 12
# What is nearer to what came than what is due by a factor of this is asked in all of them.
NEARER = 64


class Formula(NamedTuple):
    """What the page names, and a sentence about it."""

    names: frozenset[str]
    sentence: str


def known(
    rule: Rule,
    records: Sequence[Record],
    wrong: Sequence[str],
    contract: Contract,
    dtype: torch.dtype,
    deadline: Deadline,
) -> tuple[list[str], list[str]]:
    """What a candidate is if it is several things at once, or else one, of those that the page knows: a sentence."""
    if not hasattr(rule.page, "varied"):
        return [], []
    try:
        found = formula_of(rule, records, wrong, contract, dtype, deadline.check)
    except TimeIsUp:
        return [], []
    if found is None:
        return [], []
    return ([found.sentence], []) if len(found.names) > 1 else ([], [found.sentence])


def formula_of(
    rule: Rule,
    records: Sequence[Record],
    wrong: Sequence[str],
    contract: Contract,
    dtype: torch.dtype,
    check: Callable[[], None],
) -> Formula | None:
    """The conventions, the mistake or the two mistakes by which every one of these cases is right: the fewest that
    are; None if none are.

    records: cases and what came; those named in `wrong` are asked first.  check: raises when the time is up.
    """
    asked = sorted((r for r in records if r.evidence.row is None), key=lambda r: r.evidence.case.name not in wrong)
    for formula in sorted(formulas(rule), key=lambda formula: len(formula.names)):
        check()
        if asked and _is_near(rule, formula.names, asked[0]):
            other = varied_rule(rule, formula.names)
            if all(_is(other, record, contract, dtype) for record in asked[:CASES]):
                return formula
    return None


def formulas(rule: Rule) -> Iterator[Formula]:
    """Every set of conventions, every mistake, and every two."""
    options = {
        name: [None, *(choice for choice, c in of_name.items() if c.varied)]
        for name, of_name in rule.conventions.items()
    }
    every = [
        {name: choice for name, choice in zip(options, choices, strict=True) if choice}
        for choices in product(*options.values())
    ]
    for chosen in filter(None, every):
        found = [rule.conventions[name][choice] for name, choice in chosen.items()]
        yield Formula(
            frozenset(c.varied or "" for c in found),
            f"it equals the page with {'another convention' if len(chosen) == 1 else 'other conventions'} "
            f"({'; '.join(c.meaning for c in found)}): declare conventions={chosen} where that is meant",
        )
    known = varied_mistakes(rule)
    for m in known:
        yield Formula(frozenset({m.name}), f"it equals the known mistake '{m.name}': it forgets {m.forgets}")
    for a, b in combinations(known, 2):
        yield Formula(
            frozenset({a.name, b.name}),
            f"it equals two known mistakes at once, '{a.name}' and '{b.name}': it forgets {a.forgets}; and {b.forgets}",
        )


def _is_near(rule: Rule, names: frozenset[str], record: Record) -> bool:
    """Whether, in one case, a formula in float64 is much nearer to what came than what is due."""
    case = record.evidence.case
    named = {name: None if x is None else wide(x) for name, x in zip(rule.inputs, case.inputs, strict=True)}
    try:
        with torch.no_grad():
            values = parts(rule.page.varied(names, **named, **{**rule.ordinary, **case.hyper}))
    except (ArithmeticError, ValueError, TypeError):
        return False
    for got, value, due in zip(record.results, values, record.evidence.expected, strict=False):
        if not (isinstance(got, Tensor) and isinstance(value, Tensor) and isinstance(due, Tensor)):
            continue
        if not got.is_floating_point():
            continue
        if got.shape != value.shape or got.shape != due.shape:
            return False
        off, apart = (got.cpu().double() - value).abs().nan_to_num(), (got.cpu().double() - due).abs().nan_to_num()
        # What is right may be as far off as roundings are.
        if got.numel() and float(off.max()) > max(
            float(apart.max()) / NEARER, NEARER * torch.finfo(got.dtype).eps * float(due.abs().nan_to_num(0, 0).max())
        ):
            return False
    return True


def _is(rule: Rule, record: Record, contract: Contract, dtype: torch.dtype) -> bool:
    try:
        found = evidence(rule, record.evidence.case, contract)
    except (ArithmeticError, ValueError):
        return False
    if not isinstance(found, Evidence):
        return False
    return all(
        _agrees(got, expected, allowance, dtype)
        for got, expected, allowance in zip(
            record.results[: len(rule.outputs)], found.expected, found.allowance, strict=False
        )
    )


def _agrees(got: object, expected: Tensor | None, allowance: Tensor | None, dtype: torch.dtype) -> bool:
    if expected is None or allowance is None or not isinstance(got, Tensor):
        return got is None or expected is None
    if got.shape != expected.shape:
        return False
    if not got.is_floating_point():
        return bool((got.cpu().double() == expected.double()).all())
    ratio, _ = errors(got, expected, allowance, dtype)
    return bool((ratio <= 1).all())
