"""Inputs of a user's own sizes, made small for all cases but one.

Tensors of millions of elements are what a kernel is for, and far too many for a hundred cases.  Axes of one length
become short together, as far as the function is still defined; one case of the user's own sizes is judged beside the
others (manual_bp/oracle/own_sizes.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

from manual_bp.oracle.functions.spoken import Spoken

Shapes = dict[str, tuple[int, ...]]

# Inputs of so many elements in all stay as they are: a case takes a hundredth of a second.
SMALL_ENOUGH = 2**14
# Axes up to this length stay.  Longer ones get one of these, none of which is another's, and all of which are even.
SHORT = 16
SHORTER = (6, 10, 14, 18, 22, 26)


def shrunk(
    given: Mapping[str, Spoken], runs: Callable[[Mapping[str, Spoken]], bool]
) -> tuple[dict[str, Spoken], dict[str, Spoken]]:
    """What was said of each input, of small shapes, and what was said of those that had larger ones.

    runs: whether the function is defined for inputs like these.
    """
    shapes = {name: said.shape for name, said in given.items() if said.shape is not None}
    if sum(map(math.prod, shapes.values())) <= SMALL_ENOUGH:
        return dict(given), {}
    lengths = sorted({n for shape in shapes.values() for n in shape if n > SHORT}, reverse=True)
    new: dict[int, int] = {}
    small = dict(given)
    for length, shorter in zip(lengths, SHORTER, strict=False):
        tried = _with_lengths(given, {**new, length: shorter})
        if runs(tried):
            new[length], small = shorter, tried
    return small, {name: said for name, said in given.items() if small[name].shape != said.shape}


def _with_lengths(given: Mapping[str, Spoken], new: Mapping[int, int]) -> dict[str, Spoken]:
    found = {}
    for name, said in given.items():
        shape = said.shape and tuple(new.get(n, n) for n in said.shape)
        found[name] = said if shape == said.shape else replace(said, shape=shape, is_fixed=False)
    return found
