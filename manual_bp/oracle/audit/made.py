"""The programs of a rule: right ones, and wrong ones of which each is wrong at some case of the audit's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import torch

from manual_bp.arithmetic.bounded import contract_of
from manual_bp.oracle.audit.conditions import conditions, wrong_where
from manual_bp.oracle.audit.degenerate import degenerate
from manual_bp.oracle.audit.equivalents import equivalents
from manual_bp.oracle.audit.formulas import formulas, options_ignored
from manual_bp.oracle.audit.handed import is_wrong_at
from manual_bp.oracle.audit.places import misplaced
from manual_bp.oracle.audit.programs import Program, Results, results_at
from manual_bp.oracle.audit.seen import Condition, visible_at
from manual_bp.oracle.audit.sizes import sized_programs
from manual_bp.oracle.case import Case, in_dtype
from manual_bp.oracle.truth.kept import generated_evidence
from manual_bp.rule import Rule
from manual_bp.signature import DTYPES

# Larger cases show nothing of a wrong program that these do not.
LARGEST = 2**18


@dataclass(frozen=True)
class Made:
    """The programs of one rule in one dtype that remember nothing.

    ordinary: an ordinary case.  right: right programs.  wrong: wrong ones, each with the name of a case at which it is.
    """

    ordinary: Case
    conditions: list[Condition]
    right: list[Program]
    wrong: dict[Program, str]


def made(rule: Rule, dtype: torch.dtype) -> Made:
    """The programs of a rule, made when it is first asked for them, and kept for the next checker."""
    return _made(rule, (rule.page.forward, getattr(rule.page, "backward", None)), dtype)


@lru_cache(maxsize=16)
def _made(rule: Rule, text: object, dtype: torch.dtype) -> Made:
    # `text` is in the signature since a page whose functions are replaced is another.
    found = generated_evidence(rule, dtype, "cpu", contract_of(dtype)).cases
    cases = [case for case in found if max(x.numel() for x in case.tensors) <= LARGEST]
    ordinary, several = cases[0], conditions(rule)
    wrong = {**dict(_sized(rule, ordinary)), **dict(_elsewhere(rule, dtype, cases, several))}
    return Made(ordinary, several, list(equivalents(rule, ordinary)), wrong)


def _sized(rule: Rule, ordinary: Case) -> Iterator[tuple[Program, str]]:
    """Errors that some element of an ordinary case shows beside rounding."""
    visible = {a: v.relative for a, v in visible_at(rule, ordinary).items()}
    for program in sized_programs(rule):
        if program.size is not None and program.size > visible.get(program.argument, 1.0):
            yield program, ordinary.name


def _elsewhere(
    rule: Rule, dtype: torch.dtype, cases: list[Case], several: list[Condition]
) -> Iterator[tuple[Program, str]]:
    """Every other wrong program, and the first case at which it is wrong; what is wrong at none is left out."""
    ordinary = cases[0]
    others = [in_dtype(ordinary, d, "cpu") for d in DTYPES if d != dtype]
    probes: list[tuple[Case, Results]] = [(case, results_at(rule, case)) for case in (*cases, *others)]
    programs = chain(
        degenerate(rule), formulas(rule, ordinary), misplaced(rule), options_ignored(rule), wrong_where(rule, several)
    )
    for program in programs:
        wrong_at = (case.name for case, right in probes if is_wrong_at(rule, program.begin(), case, right))
        if (name := next(wrong_at, None)) is not None:
            yield program, name
