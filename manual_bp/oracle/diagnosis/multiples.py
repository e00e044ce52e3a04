"""Multiples: values of a program multiplied by a number, which is read off what was returned.

What a value is multiplied by is found in one case by least squares, if the results depend on it linearly, and is given
a name; whether it is that in every case is seen as of any other edit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manual_bp.oracle.diagnosis.edit import NAMED, PAGE, Edit, Slot, slots_of
from manual_bp.oracle.diagnosis.program import MOVES, Altered, At, Traced, Values
from manual_bp.oracle.diagnosis.quantities import CONSTANTS, UNDEFINED, Always, Quantity
from manual_bp.oracle.diagnosis.sketch import Sketch
from manual_bp.oracle.words import beside_one

# A factor is read off so many numbers, at least, of as many as there are.
NUMBERS = 3
# A factor that the tolerance leaves open by more than this says nothing.
UNCERTAIN = 0.02
# So many names of one factor are tried.
NAMES = 6


def _places(traced: Traced, needed: int) -> Iterator[Slot]:
    """Where something may be multiplied, each once."""
    for slot in slots_of(traced, needed):
        name, is_named = traced.nodes[slot.position].name, slot.stage in NAMED
        if slot.value.is_floating_point() or (slot.stage == "results" and slot.value.dtype != torch.bool):
            if is_named or name not in MOVES:
                yield slot
            if name in ("add", "sub", "mul", "where") and not is_named:
                yield from slot.operands


def _times(factor: Quantity) -> Altered:
    return lambda x, at: x * factor(at.traced)


def multiples(sketch: Sketch, of_results: bool = False) -> Iterator[Edit]:
    """One value multiplied so that in this case what was returned results; or a result alone, which takes no time."""
    traced = sketch.program
    for argument, sample in sketch.samples.items():
        wrong = sample.got[sample.wrong] if sample.wrong.any() else sample.got
        if argument in traced.results and not wrong.any():  # which says no more than that, of however few numbers
            yield from _single(Slot(traced, traced.results[argument]), 0.0, 0.0)
    for slot in _places(traced, sketch.needed):
        if of_results and slot.stage != "results":
            continue
        twice = slot.edit(0, "", lambda x: 2 * x)
        try:
            change, found = sketch.change(twice)
        except Exception:  # not defined here
            continue
        is_multiple = False
        for argument in _solvable(sketch, change):
            found = twice.results(traced, sketch.needed) if found is None else found
            if solved := _solved(sketch, argument, _growth(traced, found, argument)):
                is_multiple = True
                yield from _single(slot, *solved)
        # Of a variance that is kept the results are no multiple, and it may have been divided by another count.
        if slot.stage == "residuals" and not is_multiple:
            for words, quantity in traced.quantities:
                if "- 1)" in words and "√" not in words:
                    yield slot.edit_at(2.6, _multiplied_words(slot, words), _times(quantity))
    for argument in sketch.samples:
        inputs = [p for p in traced.names if traced.sites[p].stage == "inputs"]
        for position in (p for p in inputs if traced.values[p].is_floating_point()):
            if solved := _solved(sketch, argument, traced.values[position]):
                yield from _added(traced, argument, position, solved.factor - 1, solved.off)


def _solvable(sketch: Sketch, change: Tensor) -> Iterator[str]:
    """The arguments whose sums a multiple of this change would give."""
    for argument, column, target, tolerance in zip(
        sketch.samples, change, sketch.target, sketch.tolerance, strict=True
    ):
        if bool(column.isfinite().all()) and bool(column.any()):
            factor = column @ target / (column @ column)
            if bool(((factor * column - target).abs() <= tolerance * (2 + factor.abs())).all()):
                yield argument


def _growth(traced: Traced, results: Values, argument: str) -> Tensor | None:
    """By what an argument grows where these are the results."""
    x, right = results.get(argument), traced.right[argument]
    return None if x is None or right is None else x.double() - right


class Factor(NamedTuple):
    """By what something is multiplied, and how far off that may be."""

    factor: float
    off: float


def _solved(sketch: Sketch, argument: str, delta: Tensor | None) -> Factor | None:
    """By what a part of a result is multiplied; None if no number gives what was returned."""
    sample, right = sketch.samples[argument], sketch.program.right[argument]
    if right is None or delta is None or not delta.shape == right.shape == sample.got.shape:
        return None
    judged = sample.judged
    column, due = delta[judged].double(), (sample.got - right.double())[judged]
    square = column @ column
    if (
        column.numel() < min(NUMBERS, judged.numel())
        or not bool(column.isfinite().all() and due.isfinite().all())
        or not square
    ):
        return None
    more = column @ due / square
    tolerance = 4 * sample.allowance[judged] + sample.slack * float(column.abs().max()) * (1 + more.abs())
    tolerance = tolerance + sample.slack * right.double().abs().max()
    off = column.abs() @ tolerance / square
    if bool(((due - column * more).abs() > tolerance).any()) or off > UNCERTAIN * (1 + more.abs()):
        return None
    return Factor(1 + float(more), float(off))


def names_of(factor: float, off: float, traced: Traced) -> Iterator[tuple[float, str, Quantity]]:
    """What a number may be, the likeliest first, with how seldom it is met; last the number itself."""
    found = 0
    for i, (words, quantity) in enumerate(traced.quantities):
        try:
            value = quantity(traced)
        except UNDEFINED:
            continue
        if isinstance(value, float) and abs(value - factor) <= off and abs(value - 1) > off:
            found += 1
            yield (0.0 if words in CONSTANTS else 0.3) + i / 1e4, words, quantity
            if found == NAMES:
                break
    if abs(factor - 1) > off and abs(factor) > off:
        rounded = float(f"{factor:.3g}")
        number = rounded if abs(rounded - factor) <= off else factor
        yield 0.6, beside_one(number), Always(number)


def _single(slot: Slot, factor: float, off: float) -> Iterator[Edit]:
    traced, is_result = slot.traced, slot.stage == "results"
    is_summand = slot.operand is not None and traced.nodes[slot.position].name in ("add", "sub")
    for more, words, quantity in names_of(factor, off, traced):
        edit = slot.edit_at(0, _multiplied_words(slot, words), _times(quantity))
        cost = (1.2 if is_result else 1.9 if is_summand else 2.0) + more
        said, position = (_of_result(words), None) if is_result else (edit.words, slot.position)
        yield replace(edit, cost=cost, words=said, position=position, fitted=quantity)


def _added(traced: Traced, argument: str, position: int, factor: float, off: float) -> Iterator[Edit]:
    """A multiple of an input added to a result; none of it is no edit."""
    if abs(factor) <= off:
        return
    site, name = traced.sites[traced.results[argument]], traced.names[position]
    of = traced.sites[position]

    def plus(quantity: Quantity, at: At) -> Any:
        (own,) = at.traced.positions[of]
        return at.result() + quantity(at.traced) * at.traced.values[own]

    every = [*names_of(factor, off, traced)]
    if abs(factor - 1) <= off:
        every = [(0.0, "", Always(1.0))]
    for more, words, quantity in every:
        times_ = f"{words}·" if words else ""
        said = f"{PAGE}`{times_}{name}` added to `{argument}`"
        yield Edit(2.2 + more, said, {site: partial(plus, quantity)}, fitted=quantity)


def _of_result(factor: str) -> str:
    if factor == "0":
        return "is 0 everywhere"
    if factor == "-1":
        return "has the wrong sign: it is -1 times what it should be"
    return f"is {factor} times what it should be"


def _multiplied_words(slot: Slot, factor: str) -> str:
    return {"0": f"{slot.name} left out", "-1": f"the wrong sign of {slot.name}"}.get(
        factor, f"{slot.name} multiplied by {factor}"
    )
