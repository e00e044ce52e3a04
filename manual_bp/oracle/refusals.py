"""Refusals: what the rule rejects with an error, shown to a candidate that had better reject it too.

A page's edges that raise, and, from its annotations, every input in turn with a shape that does not fit the others: an
axis of length 1 where another is due, one too long, a missing or an additional axis, two axes swapped.  Many of these
broadcast, so that a program answers with numbers that nobody asked for.  Whatever the candidate raises there is right.

The last calls of a comparison: a kernel without checks may read or write beside such an input.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor

from manual_bp import axes
from manual_bp.inputs import Edge, Index
from manual_bp.oracle.case import Case, in_dtype
from manual_bp.oracle.cases.declared import Declared
from manual_bp.oracle.cases.drawing import draw, sizes_of
from manual_bp.rule import Rule

Shape = tuple[int, ...]

# An index far beyond any axis, and no special number.
FAR = 10**6 + 1


@lru_cache(maxsize=128)  # as many as evidence is kept for
def refusals(rule: Rule, dtype: torch.dtype, device: str, declared: Declared) -> tuple[Case, ...]:
    """The cases at which the rule raises a ValueError, each named by what is wrong with it; small ones.

    Those among them for which the candidate is not meant, as was declared, are left out.
    """
    generator = torch.Generator().manual_seed(0)
    found = []
    for edge in rule.edges:
        if edge.raises and all(edge.given.get(name, value) == value for name, value in declared.hyper):
            found.append(Case(*draw(rule, edge, generator), edge.name))
    found += _misfits(rule, declared, generator)
    found += _beyond(rule, generator)
    return tuple(
        in_dtype(case, dtype, device)
        for case in found
        if declared.fits(rule, case.inputs, case.hyper) and _is_refused(rule, case)
    )


def _is_refused(rule: Rule, case: Case) -> bool:
    try:
        rule.forward(*case.inputs, **case.hyper)
    except ValueError:
        return not _is_answered(rule, case)
    return False


def _is_answered(rule: Rule, case: Case) -> bool:
    """Whether a function as reference is defined there all the same: it may broadcast, and so may the candidate."""
    if not hasattr(rule.page, "FUNCTION"):
        return False
    try:
        rule.page.FUNCTION(*case.inputs, **case.hyper)
    except Exception:  # whatever a function of somebody's raises
        return False
    return True


def _misfits(rule: Rule, declared: Declared, generator: torch.Generator) -> Iterator[Case]:
    """Each input in turn with another shape than the others want; whether the rule minds is not known here."""
    hyper = rule.ordinary
    drawn: dict[tuple[str, Shape], Tensor] = {}
    seen: set[tuple[Shape, ...]] = set()
    for sizes, unit in _sizes(rule, declared):
        shapes = {name: axes.shape_of(rule.annotations[name], sizes, hyper) for name in rule.inputs}
        try:
            _, dy, _ = draw(rule, Edge("", sizes=sizes), generator)
        except ValueError:  # of such lengths there is no y
            continue
        for name in rule.inputs:
            for shape in _without_units(shapes[name]) if unit else _misshapen(shapes[name]):
                came = {**shapes, name: shape}
                if tuple(came.values()) in seen:
                    continue
                seen.add(tuple(came.values()))
                for key in came.items():
                    drawn[key] = drawn[key] if key in drawn else _value(rule, key[0], key[1], sizes, generator)
                words = ", ".join(f"{n} {s}" for n, s in came.items())
                yield Case(tuple(drawn[key] for key in came.items()), dy, hyper, words)


def _value(rule: Rule, name: str, shape: Shape, sizes: axes.Sizes, generator: torch.Generator) -> Tensor:
    spec = rule.inputs[name]
    return (
        spec.positions(shape, min(sizes[spec.axis]), generator)
        if isinstance(spec, Index)
        else spec.draw(shape, generator)
    )


def _beyond(rule: Rule, generator: torch.Generator) -> Iterator[Case]:
    """Each index beyond either end of its axis, at its last place; whether that is refused is not known here."""
    for name, spec in rule.inputs.items():
        if not isinstance(spec, Index):
            continue
        inputs, dy, hyper = draw(rule, Edge("ordinary"), generator)
        position = list(rule.inputs).index(name)
        (length,) = sizes_of(rule)[spec.axis]
        for beyond in (length, -1, -length, FAR):
            index = inputs[position].clone()
            if index.numel():
                index.view(-1)[-1] = beyond
                changed = (*inputs[:position], index, *inputs[position + 1 :])
                yield Case(changed, dy, hyper, f"{name} holds {beyond}, and {spec.axis} has {length}")


def _sizes(rule: Rule, declared: Declared) -> Iterator[tuple[axes.Sizes, bool]]:
    """The usual lengths; and those with each axis of length 1 in turn, which broadcasts where an input lacks it."""
    usual = sizes_of(rule)
    (ordinary,) = declared.edges(rule, [Edge("ordinary")], usual)
    usual |= {name: axes.as_tuple(length) for name, length in ordinary.sizes.items()}
    yield usual, False
    for name, lengths in usual.items():
        for position in range(len(lengths)):
            yield {**usual, name: (*lengths[:position], 1, *lengths[position + 1 :])}, True


def _misshapen(shape: Shape) -> Iterator[Shape]:
    for axis, length in enumerate(shape):
        before, after = shape[:axis], shape[axis + 1 :]
        yield (*before, 1, *after)
        yield (*before, length + 1, *after)
        yield (*before, *after)
    yield (1, *shape)
    yield (*shape, 1)
    if len(shape) > 1:
        yield (*shape[:-2], shape[-1], shape[-2])


def _without_units(shape: Shape) -> Iterator[Shape]:
    """A shape with an axis of length 1 without it, or elsewhere."""
    for axis, length in enumerate(shape):
        if length == 1:
            yield (*shape[:axis], *shape[axis + 1 :])
    if 1 in shape[-2:] and len(shape) > 1:
        yield (*shape[:-2], shape[-1], shape[-2])
