"""Masks: an answer that follows another mask than the one that was given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from manual_bp.oracle.case import Case
from manual_bp.oracle.diagnosis.examination import Examination
from manual_bp.oracle.diagnosis.hypothesis import Explanation, Prediction, Sample, Values, wide

# A claim rests on so many numbers that follow the other mask: as many coins fall so by chance once in 4096 times.
ENOUGH = 12


def read_off(found: Examination) -> Iterator[Explanation]:
    """A mask that was not kept, but read off x or y."""
    for position, name in enumerate(found.rule.inputs):
        if found.rule.is_mask(name):
            sentence = (
                f"{{}}: {name} is read off y ≠ 0 and not kept, so that what is kept counts as dropped where x = 0"
            )
            yield from found.matched(partial(_of_non_zero, found, position), sentence)


def _of_non_zero(found: Examination, position: int, case: Case) -> Prediction:
    inputs = list(case.inputs)
    x = next(x for x, n in zip(inputs, found.rule.inputs, strict=True) if found.rule.is_number(n))
    inputs[position] = torch.where(x == 0, torch.zeros_like(inputs[position]), inputs[position])
    return Prediction((None, *found.at(case, inputs=tuple(inputs)).values[1:]))


def own_masks(found: Examination) -> Iterator[Explanation]:
    """Every number is that of a kept or of a dropped element, but by no mask that was given."""
    for argument in found.unexplained():
        if words := of_another_mask(found, argument):
            yield Explanation({argument}, f"{{}} is {words}")


def of_another_mask(found: Examination, argument: str) -> str:
    """In what way an argument follows another mask, in words; "" if it follows none, or that of the case."""
    for position, name in enumerate(found.rule.inputs):
        if not found.rule.is_mask(name):
            continue
        for scaled in (True, False):
            pairs = [_followed(found, argument, position, scaled, s) for s in found.column(argument)]
            known = [pair for pair in pairs if pair is not None]
            total, other = sum(n for n, _ in known), sum(k for _, k in known)
            if len(known) == len(pairs) and other >= ENOUGH:
                scale = "" if scaled else ", and without its scale"
                return (
                    f"that of another {name} than the given one (a fresh one?){scale}: each of {total} numbers is that "
                    f"of a kept or of a dropped element, and {other} of them are the other of the two"
                )
    return ""


def _followed(found: Examination, argument: str, position: int, scaled: bool, sample: Sample) -> tuple[int, int] | None:
    """How many numbers tell kept from dropped, and how many of these are the other one; None if any is neither."""
    if sample.got.shape != sample.expected.shape:
        return None
    if not sample.got.numel():
        return 0, 0
    index, case = found.arguments.index(argument), sample.case
    kept = _values(found, case, position, torch.ones_like)[index]
    dropped = _values(found, case, position, torch.zeros_like)[index]
    if not scaled:
        kept = wide(case.dy if argument != "y" else case.inputs[0])
    if any(x is None or x.shape != sample.got.shape for x in (kept, dropped, case.inputs[position])):
        return None
    assert kept is not None
    assert dropped is not None
    tolerance = 2 * sample.allowance.max() + 2 * found.slack * kept.abs()
    tells = sample.judged & kept.isfinite() & ((kept - dropped).abs() > 4 * tolerance)
    is_kept, is_dropped = ((sample.got - x).abs() <= tolerance for x in (kept, dropped))
    if not bool((is_kept | is_dropped | ~tells)[sample.judged].all()):
        return None
    was_kept = wide(case.inputs[position]).bool()
    return int(tells.sum()), int((tells & (is_kept != was_kept)).sum())


def _values(found: Examination, case: Case, position: int, filled: Callable[[Tensor], Tensor]) -> Values:
    inputs = list(case.inputs)
    inputs[position] = filled(inputs[position])
    return found.at(case, inputs=tuple(inputs)).values
