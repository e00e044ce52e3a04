"""What somebody's function may have where a step underflows on its way to a kink (manual_bp/arithmetic/sides.py)."""

from __future__ import annotations

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import Contract, How, run_bounded
from manual_bp.arithmetic.sides import between
from manual_bp.oracle.case import Case
from manual_bp.rule import Rule

# No larger case is looked at, which takes up to thirty runs of the page: where it underflows, small ones do.
LARGEST = 2**15


def is_either_side(rule: Rule, case: Case, position: int, got: Tensor, contract: Contract) -> Tensor:
    """Where an argument is what a right program may have that sees the kink itself, or any slope beside it."""
    nowhere = torch.zeros(got.shape, dtype=torch.bool)
    if not hasattr(rule.page, "FUNCTION") or case.elements > LARGEST:
        return nowhere
    found = between(rule, case.inputs, case.dy, contract, **case.hyper)
    ends = found[position] if found else None
    if ends is None:
        return nowhere
    number = got.detach().cpu().double()
    return (number >= ends.least) & (number <= ends.most) & number.isfinite()


def is_close_by_rounding(rule: Rule, case: Case, contract: Contract) -> bool:
    """Whether a branch that errors leave open would be so if nothing underflowed."""
    how = How(underflows=False)
    *_, paging = run_bounded(rule, case.inputs, case.dy, contract, (None, None), how, dict(case.hyper), lambda x: x)
    return paging.is_close
