"""The family of inputs that a case stands for, in words: what somebody is told who does not know the cases."""

from __future__ import annotations

import re

from torch import Tensor

from manual_bp.oracle.case import Case
from manual_bp.oracle.memory import overlap
from manual_bp.rule import Rule

# The size of a vector load, for which torch's own memory is aligned.
VECTOR = 16
LENGTH = r"(\w+) = (\(.*?\)|\d+)"


def family(rule: Rule, case: Case) -> str:
    """In words: "strided dy", "batch of length 1025", "the same shape again with other numbers"; else the case's own
    name."""
    laid = {name: words for name, x in case.named(rule).items() if (words := _layout(x))}
    if laid and len(laid) == len(case.tensors) > 1:
        return "every tensor strided"
    if len(laid) == 1:
        ((name, words),) = laid.items()
        return f"{words} {name}"
    lengths = re.findall(LENGTH, case.name)
    if lengths and all(name in rule.axis_names for name, _ in lengths):
        said = [f"{name} of {'shape' if length.startswith('(') else 'length'} {length}" for name, length in lengths]
        return ", ".join(said) + re.sub(rf"{LENGTH}(, )?", "", case.name)
    return "ordinary inputs" if case.name == "ordinary" else case.name


def _layout(x: Tensor) -> str:
    """How a tensor lies in memory; "" if as usual."""
    if overlap(x):
        return "expanded"
    if not x.is_contiguous():
        return "strided"
    return "misaligned" if x.numel() and (x.storage_offset() * x.element_size()) % VECTOR else ""
