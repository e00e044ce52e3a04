"""Precision: arithmetic in fewer bits than the numbers have."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import Contract, widths
from manual_bp.oracle.cases import Case
from manual_bp.oracle.diagnosis.examination import Examination
from manual_bp.oracle.diagnosis.fitting import ROUNDINGS
from manual_bp.oracle.diagnosis.hypothesis import Explanation
from manual_bp.oracle.diagnosis.layout import is_telling

# A claim about an argument rests on as many cases, and on as many numbers in each.
NUMBERS = 3
# Arithmetic in 16 bits leaves more than this share of all numbers wrong in a longer format.
MOST = 0.5


def sixteen_bits(found: Examination) -> Iterator[Explanation]:
    """Off by no more than arithmetic in 16 bits is, in many cases and by no one factor."""
    if found.dtype not in (torch.float32, torch.float64):
        return
    for argument in found.unexplained():
        for name, half in (("float16", torch.float16), ("bfloat16", torch.bfloat16)):
            if share := _share_off(found, argument, half):
                words = f"its errors are those of sums accumulated, or numbers kept, in 16 bits ({name})"
                evidence = f"{share:.0%} of its numbers are off, none by more than that allows"
                yield Explanation({argument}, f"{{}} is computed in low precision: {words}; {evidence}")
                break


def _share_off(found: Examination, argument: str, half: torch.dtype) -> float:
    """The share of numbers that are visibly off, if it is most of them and all are within the width of 16 bits."""
    off, most = [], torch.finfo(half).eps * ROUNDINGS
    position = found.arguments.index(argument)
    for sample in found.column(argument):
        if not is_telling(sample) or sample.got.shape != sample.expected.shape:
            continue
        bound = _width(found, sample.case, position, half)
        error, largest = (sample.got - sample.expected).abs(), sample.expected[sample.judged].abs().max()
        if bound is None or bool((error > bound)[sample.judged].any()):
            return 0.0
        if bool((bound > most * largest)[sample.judged].any()):  # where nearly anything is allowed nothing is learnt
            continue
        if int(sample.judged.sum()) >= NUMBERS:
            off.append(float((error > sample.allowance)[sample.judged].double().mean()))
    share = sum(off) / max(len(off), 1)
    return share if len(off) >= NUMBERS and share >= MOST else 0.0


def _width(found: Examination, case: Case, position: int, half: torch.dtype) -> Tensor | None:
    """How far the page, or a formula of its that loses digits, may be off in 16 bits."""
    formulas = [None, *(m.backward for m in found.rule.mistakes if m.loses_digits)]
    contract = Contract(half, half)
    found_widths = [widths(found.rule, case.inputs, case.dy, contract, backward=f, **case.hyper) for f in formulas]
    bounds = [bound for w in found_widths if (bound := (w.y, *w.grads)[position]) is not None]
    return torch.stack(bounds).amax(0) if bounds else None
