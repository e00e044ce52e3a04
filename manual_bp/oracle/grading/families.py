"""The family of inputs that a case stands for, in words: what somebody is told who does not know the cases."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import starmap

from torch import Tensor

from manual_bp.oracle.calling.memory import overlap
from manual_bp.oracle.case import Case, Further
from manual_bp.rule import Rule

# The size of a vector load, for which torch's own memory is aligned.
VECTOR = 16
LENGTH = r"(\w+) = (\(.*?\)|\d+)"


def family(rule: Rule, case: Case) -> str:
    """In words: "strided dy", "batch of length 1025", "the same shape again with other numbers"; else the case's own
    name."""
    laid = _layouts(rule, case)
    if _all_strided(rule, case):
        return "every tensor strided"
    if len(laid) == 1:
        ((name, words),) = laid.items()
        return f"{words} {name}"
    lengths = re.findall(LENGTH, case.name)
    if lengths and all(name in rule.axis_names for name, _ in lengths):
        return ", ".join(starmap(_length, lengths)) + re.sub(rf"{LENGTH}(, )?", "", case.name)
    return "ordinary inputs" if case.name == "ordinary" else case.name


def _length(name: str, length: str) -> str:
    """That of an axis, or the shape of a list of them, whose own name may be one of these words."""
    kind = "shape" if length.startswith("(") else "length"
    return f"{kind} {length}" if name == kind else f"{name} of {kind} {length}"


def in_order(rule: Rule, cases: Iterable[Case]) -> list[Case]:
    """Cases with what is laid out oddly in all tensors after what is so in one of them, which says more."""
    return sorted(cases, key=lambda case: 2 if isinstance(case, Further) else int(_all_strided(rule, case)))


def _all_strided(rule: Rule, case: Case) -> bool:
    return len(_layouts(rule, case)) == len(case.tensors) > 1


def _layouts(rule: Rule, case: Case) -> dict[str, str]:
    """How those tensors lie in memory that do not lie there as usual."""
    return {name: words for name, x in case.named(rule).items() if (words := _layout(x))}


def _layout(x: Tensor) -> str:
    """How a tensor lies in memory; "" if as usual."""
    if overlap(x):
        return "expanded"
    if not x.is_contiguous():
        return "strided"
    return "misaligned" if x.numel() and (x.storage_offset() * x.element_size()) % VECTOR else ""
