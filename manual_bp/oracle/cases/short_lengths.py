"""Short lengths of axes: every one that no other case gives an axis."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from manual_bp import axes
from manual_bp.inputs import Edge
from manual_bp.oracle.case import Case, Sized
from manual_bp.oracle.cases.drawing import sizes_of
from manual_bp.oracle.cases.values import named
from manual_bp.rule import Rule

# Lengths for which programs have a way of their own: kernels, windows, heads, groups, vectors.  Where one of these is
# longer than the usual length of another axis, as a window may be, the others are so long.
SHORT, ROOMY = (2, 3, 4, 5, 6, 7, 8), 9


def of_short_lengths(rule: Rule, found: Sequence[Case], cases: Callable[[Edge], Iterator[Case]]) -> Iterator[Sized]:
    """Cases in which every axis has every short length that no other case gives it, at which a program has a way of its
    own (a window of 5, a head of 8): many axes at once, or one where the rule is not defined for all of them.

    cases: makes that of an edge, if the rule is defined there.
    """
    if rule.elementwise:  # whose shapes are told by how many elements they have
        return
    usual = sizes_of(rule)
    missing = _untried(rule, found, usual)
    few = getattr(rule.page, "FEW_STEPS", {})

    def first(alternatives: Iterable[dict[str, int | tuple[int, ...]]], name: str) -> Iterator[Sized]:
        made = (case for sizes in alternatives for case in cases(Edge(name, sizes=sizes)))
        yield from (Sized(**vars(case)) for case in islice(made, 1))

    while any(missing.values()):
        chosen = {axis: lengths.pop(0) for axis, lengths in missing.items() if lengths}
        together = list(first([{**few, **chosen}], named(chosen)))
        yield from together
        for axis, length in chosen.items() if not together else ():
            roomy = {other: (ROOMY,) * len(lengths) for other, lengths in usual.items()}
            yield from first([{**few, axis: length}, {**roomy, **few, axis: length}], named({axis: length}))


def _untried(rule: Rule, found: Iterable[Case], usual: axes.Sizes) -> dict[str, list[int | tuple[int, ...]]]:
    """Of each axis the SHORT lengths that it has in no case, from another one on for each; of a list of axes those that
    one of them lacks."""
    tried: dict[str, set[tuple[int, int]]] = {name: set() for name in rule.axis_names}
    for case in found:
        sizes: axes.Sizes = {}
        shapes = {name: tuple(x.shape) for name, x in case.named(rule).items() if name in rule.inputs}
        axes.bind(rule.annotations, shapes, sizes, {**rule.ordinary, **case.hyper})
        for name in tried:
            tried[name].update(enumerate(reversed(sizes.get(name, ()))))
    missing: dict[str, list[int | tuple[int, ...]]] = {}
    for turn, (name, variadic) in enumerate(rule.axis_names.items()):
        rank, start = len(usual[name]), turn % len(SHORT)
        lengths = [n for n in (*SHORT[start:], *SHORT[:start]) if not {(i, n) for i in range(rank)} <= tried[name]]
        missing[name] = [(n,) * rank if variadic else n for n in lengths]
    return missing
