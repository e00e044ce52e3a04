"""Wrong places: right numbers that stand elsewhere, or elements that are never written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations

import torch
from torch import Tensor

from manual_bp.oracle.audit.programs import Answer, Program, Results, changed, judged, steady
from manual_bp.oracle.case import Case
from manual_bp.rule import Rule

PLACE, UNWRITTEN = "in the wrong place", "part never written"

# What programs work in: vectors, warps, blocks of threads.
BLOCKS = (4, 32, 128)


def transposed(x: Tensor) -> Tensor:
    """Written in the order of the transposed matrix; of a square one the transposed matrix itself."""
    return x.mT.reshape(x.shape) if x.ndim > 1 else x


def without_last_row(x: Tensor) -> Tensor:
    wrong = x.clone()
    if x.ndim:
        wrong[-1:] = 0
    return wrong


def without_last(x: Tensor) -> Tensor:
    wrong = x.clone(memory_format=torch.contiguous_format)
    wrong.view(-1)[-1:] = 0
    return wrong


def without_tail(x: Tensor, block: int) -> Tensor:
    """What lies after the last full block is 0, as memory is that nobody wrote."""
    wrong = x.clone(memory_format=torch.contiguous_format)
    wrong.view(-1)[x.numel() // block * block :] = 0
    return wrong


MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": transposed,
    "back to front": lambda x: x.flip(tuple(range(x.ndim))),
    "one place further": lambda x: x.roll(1) if x.ndim else x,
    "the first row in all rows": lambda x: x[:1].expand(x.shape).clone() if x.ndim else x,
    "the last row never written": without_last_row,
    "the last element never written": without_last,
}


def misplaced(rule: Rule) -> Iterator[Program]:
    """Each result in a wrong order, or not written everywhere."""
    arguments = judged(rule)
    for argument in arguments:
        for name, change in MOVES.items():
            kind = UNWRITTEN if "never" in name else PLACE
            yield steady(kind, f"{argument}: {name}", changed(argument, change), argument=argument)
        for block in BLOCKS:
            yield steady(
                UNWRITTEN,
                f"{argument}: what is left after full blocks of {block} is never written",
                changed(argument, lambda x, block=block: without_tail(x, block)),  # type: ignore[misc]
                argument=argument,
            )
    for a, b in combinations(arguments, 2):
        yield steady(PLACE, f"{a} and {b} swapped", _swapped(a, b))


def _swapped(a: str, b: str) -> Answer:
    def answer(_: Case, right: Results) -> Results:
        fits = isinstance(right[a], Tensor) and isinstance(right[b], Tensor) and right[a].shape == right[b].shape
        return {**right, a: right[b], b: right[a]} if fits else right

    return answer
