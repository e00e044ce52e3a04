"""Images in memory: channels as the last axis, for every rule whose first input may have two axes of space or three.

Programs for images ask how they lie in memory and take another way there, which no other layout leads to.  Where all
axes are of one length, who takes one for another on that way returns what has the right shape: so there is an image of
each kind, with axes unlike and alike.  And since two programs that follow each other need not agree on the layout,
each tensor has it alone, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import cycle, islice

from torch import Tensor

from manual_bp import axes
from manual_bp.inputs import Edge
from manual_bp.oracle.case import Case, WellConditioned
from manual_bp.oracle.cases.drawing import SMALL, sizes_of
from manual_bp.rule import Rule

IMAGE, VOLUME = 4, 5
"""Axes: batch, channels, and two or three of space."""

LENGTH = 4
"""Of each axis, where all are alike: windows of 2 have two positions there."""


def images(rule: Rule, ordinary: Case, cases: Callable[[Iterable[Edge]], Iterator[Case]]) -> Iterator[Case]:
    """The cases.  cases: makes those of edges, without the sizes at which the rule is not defined."""
    x = ordinary.inputs[0]
    if x is not None and x.ndim >= IMAGE:
        yield _all_channels_last(rule, ordinary)
    fixed, several = _axes_of(rule)
    if several is None and len(fixed) < IMAGE:
        return
    if several is not None and (x is None or x.ndim < IMAGE) and len(fixed) < IMAGE:
        unlike = tuple(islice(cycle(SMALL), len(fixed), IMAGE))  # SMALL is what the other axes begin with
        edge = Edge("an image", sizes={several: unlike})
        yield from (_all_channels_last(rule, case) for case in cases([edge]))
    if several is not None and not _ends_in_space(rule):
        return
    for case in cases(_alike(rule, several, "an image with axes alike", IMAGE - len(fixed))):
        yield _all_channels_last(rule, case)
        yield from _each_channels_last(rule, case)
    if len(fixed) == IMAGE - 2:  # batch and channels, and then space
        for case in cases(_alike(rule, several, "a volume with axes alike", VOLUME - len(fixed))):
            yield _all_channels_last(rule, case)


def _axes_of(rule: Rule) -> tuple[list[str], str | None]:
    """Of the first input the axes that it always has, and the name of those of which there may be several."""
    tokens = axes.tokens(rule.annotations[next(iter(rule.inputs))])
    several = [token[1:] for token in tokens if token.startswith("*")]
    return [token for token in tokens if not token.startswith("*")], several[0] if several else None


def _ends_in_space(rule: Rule) -> bool:
    """Whether the list of axes comes last in the first input: otherwise it is a batch, and the last axis its features,
    which are no height and width."""
    return axes.tokens(rule.annotations[next(iter(rule.inputs))])[-1].startswith("*")


def _alike(rule: Rule, several: str | None, name: str, rank: int) -> Iterator[Edge]:
    """An edge whose axes all have one length, as far as each has one of its own.

    A list of axes that goes along with the first one, as a kernel does, has a length of its own.
    """
    if rank < 1 and several is not None:
        return
    usual = sizes_of(rule)
    sizes: dict[str, int | tuple[int, ...]] = {}
    for axis, is_list in rule.axis_names.items():
        if axis == several:
            sizes[axis] = (LENGTH,) * rank
        elif axis in rule.alike:
            sizes[axis] = (min(usual[axis]),) * rank
        elif not is_list:
            sizes[axis] = _length(rule, axis) or usual[axis]
    yield Edge(name, sizes=sizes)


def _length(rule: Rule, axis: str) -> int | None:
    """With which length of an axis that which it is a factor of has LENGTH places; None if it has no such length."""
    tokens = (token for name in rule.inputs for token in axes.tokens(rule.annotation(name)))
    product = next((p for token in tokens for p in axes.products(token) if axis in p), [axis])
    others = [rule.ordinary.get(factor) for factor in product if factor != axis]
    if not all(isinstance(other, int) for other in others):
        return None
    times = math.prod(other for other in others if isinstance(other, int))
    return LENGTH // times if times and LENGTH % times == 0 else None


def _all_channels_last(rule: Rule, case: Case) -> Case:
    return _laid_out(rule, case, [*case.named(rule)], "everything")


def _each_channels_last(rule: Rule, case: Case) -> Iterator[Case]:
    with_space = [name for name, x in case.named(rule).items() if x.ndim >= IMAGE]
    if len(with_space) > 1:
        yield from (_laid_out(rule, case, [name], name) for name in with_space)


def _laid_out(rule: Rule, case: Case, names: list[str], words: str) -> Case:
    changed = (_channels_last(x) if name in names else x for name, x in case.named(rule).items())
    found = replace(case.with_tensors(changed), name=f"{case.name}: {words} channels last")
    return found if rule.elementwise else WellConditioned(**vars(found))  # of all these axes truth would take long


def _channels_last(x: Tensor) -> Tensor:
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if x.ndim >= IMAGE else x
