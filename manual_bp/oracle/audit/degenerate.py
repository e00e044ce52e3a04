"""Results that are no gradient at all: NaN, None, a constant, another sign, shape or dtype, an exception."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from manual_bp.oracle.audit.programs import Program, Results, all_changed, changed, judged, steady
from manual_bp.oracle.case import Case
from manual_bp.rule import Rule

NOT_A_NUMBER, INFINITE, NOTHING, RAISES = "NaN", "infinite", "None", "raises"
SHAPE, DTYPE, CONSTANT, VALUE = "another shape", "another dtype", "a constant", "y is wrong"
SIGN = "the wrong sign"


def one_nan(x: Tensor) -> Tensor:
    wrong = x.clone(memory_format=torch.contiguous_format)
    wrong.view(-1)[:1] = torch.nan
    return wrong


def other_dtype(x: Tensor) -> Tensor:
    return x.to(torch.float32 if x.dtype == torch.float64 else torch.float64)


CHANGES: dict[str, dict[str, Callable[[Tensor], Any]]] = {
    NOT_A_NUMBER: {"NaN everywhere": lambda x: torch.full_like(x, torch.nan), "NaN in one element": one_nan},
    INFINITE: {"infinite everywhere": lambda x: torch.full_like(x, torch.inf)},
    NOTHING: {"None": lambda _: None},
    SIGN: {"× -1": torch.neg},
    CONSTANT: {"0 everywhere": torch.zeros_like, "1 everywhere": torch.ones_like},
    SHAPE: {"with one axis more, of length 1": lambda x: x[None], "its sum alone": lambda x: x.sum()},
    DTYPE: {"in another dtype": other_dtype},
}


class ProgramError(RuntimeError):
    """What a program raises that is to be seen to fail."""


def _raises(_: Case, __: Results) -> Results:
    raise ProgramError("this program always raises, so it must not be accepted")


def degenerate(rule: Rule) -> Iterator[Program]:
    """Each result, and all of them, replaced by no gradient; and values that are wrong where the gradients are not."""
    arguments = judged(rule)
    for kind, changes in CHANGES.items():
        for words, change in changes.items():
            if len(arguments) > 1:
                yield steady(kind, f"every result {words}", all_changed(arguments, change))
            for argument in arguments:
                yield steady(kind, f"{argument} {words}", changed(argument, change), argument=argument)
    yield steady(RAISES, "raises an exception", _raises)
    for output in rule.arguments[: len(rule.outputs)] if rule.has_backward else ():
        for words, value in {f"{output} × 2 + 1": lambda x: 2 * x + 1, f"{output} NaN": one_nan}.items():
            yield steady(VALUE, words, changed(output, value), argument=output)
