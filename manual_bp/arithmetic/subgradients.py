"""Whether a gradient is a generalised one at a kink or tie, where there is no derivative.

With φ_j = dy_j y_j and one-sided derivatives φ_j'(x; v), the generalised gradients of a convex φ_j are the g with
<g, v> ≤ φ_j'(x; v) for all v, of a concave one those with <g, v> ≤ −φ_j'(x; −v).  A sum of such sets has the sum of
their support functions as its own, hence the test

    <g, v> ≤ Σ_j max(φ_j'(x; v), −φ_j'(x; −v))

which needs no knowledge of which case holds, so that the signs of dy may differ from output to output.

Source: Rockafellar, "Convex Analysis" (1970), theorems 23.2 and 23.8.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manual_bp.arithmetic.balls import Jets
from manual_bp.arithmetic.enclosed import is_narrow, number
from manual_bp.arithmetic.jets import NAN, ZERO, arb, leaves
from manual_bp.arithmetic.point import Cotangents, Inputs, Point
from manual_bp.arithmetic.selections import is_selection
from manual_bp.rule import Grads, Rule

ALL_SIGNS = 8
"""Up to so many coupled elements at a kink, every sign vector is tried; beyond, SOME_SIGNS random ones."""
SOME_SIGNS = 256
FEW_SIGNS = 32
"""So many where the same program was asked for before, at other numbers."""


Directions = Callable[[set[int]], list[dict[int, int]]]
"""For keys that share an output, how each of them moves."""


class Subgradient(NamedTuple):
    """Per input a bool tensor of its shape, None for an input without cotangent."""

    kinks: tuple[Tensor | None, ...]
    """Where no derivative exists."""
    failing: tuple[Tensor | None, ...]
    """Where the candidate's gradient is no generalised gradient."""
    unjudged: tuple[Tensor | None, ...]
    """Where not even one-sided derivatives exist (a pole or a jump), or none that can be certified."""

    @property
    def passed(self) -> bool:
        """Whether every kink was judged and none failed."""
        return not any(mask is not None and bool(mask.any()) for mask in (*self.failing, *self.unjudged))


def is_subgradient(
    rule: Rule,
    inputs: Inputs,
    dy: Cotangents,
    grads: Grads,
    *,
    allowance: Grads | None = None,
    **hyper: Any,
) -> Subgradient:
    """Whether the candidate's `grads` are generalised gradients of <dy, y> at the elements where no derivative exists.

    Elements that share an output there (the tied pieces of a maximum) are judged together, along ± each of them alone
    and along sign vectors: all of them for up to 8 elements, else 256 random ones with a fixed seed.
    `allowance` is the error to be tolerated in each gradient (absolute); where none is given, 5 ulp of that gradient.
    A gradient that is None, inf or nan fails.  Raises as `truth`, and ValueError if a gradient has not its input's
    shape.
    """
    problem = Point(rule, inputs, dy, hyper)
    candidate = problem.joined(grads, "grads", NAN)
    widths = problem.widths(grads, allowance)
    judged = problem.enclosed(lambda _: _judge(problem, candidate, widths, _directions))
    return Subgradient(*(problem.split([key in keys for key in problem.keys], _mask) for keys in judged))


def passes_as_subgradient(
    rule: Rule,
    inputs: Inputs,
    dy: Cotangents,
    grads: Grads,
    *,
    allowance: Grads | None = None,
    asked_before: int = 0,
    **hyper: Any,
) -> bool:
    """Whether they are one that a program may choose (selections.py), and where that does not tell
    `is_subgradient(...).passed`, at a fraction of the cost where it is False: the search ends with the first direction
    that refutes it, and begins with those along which most are refuted, all tied elements together.

    allowance: is added to the 5 ulp; infinite where nothing is judged.
    asked_before: how often the same program has passed at other numbers.  Then FEW_SIGNS random sign vectors are tried
        where SOME_SIGNS would be, and others than before.
    """
    problem = Point(rule, inputs, dy, hyper)
    candidate = problem.joined(grads, "grads", NAN)
    widths = problem.widths(grads, None)
    if allowance is not None:
        widths = [a + b for a, b in zip(widths, problem.widths(grads, allowance), strict=True)]
    if problem.enclosed(lambda _: (is_selection(problem, candidate, widths),))[0]:
        return True
    signs = {key: -1 if candidate[key] < 0 else 1 for key in problem.keys}

    def directions(keys: set[int]) -> list[dict[int, int]]:
        first = [{key: signs[key] for key in sorted(keys)}, dict.fromkeys(sorted(keys), 1)]
        return [*first, *_directions(keys, FEW_SIGNS if asked_before else SOME_SIGNS, asked_before)]

    _, failing, unjudged = problem.enclosed(lambda _: _judge(problem, candidate, widths, directions, stops=True))
    return not failing and not unjudged


def _mask(shape: torch.Size, flat: tuple[bool, ...]) -> Tensor:
    return torch.tensor(flat, dtype=torch.bool).reshape(shape)


def _judge(
    problem: Point, candidate: list[arb], widths: list[arb], directions_of: Directions, stops: bool = False
) -> tuple[set[int], set[int], set[int]] | None:
    """The keys at a kink, those that fail, those that cannot be judged; None if a one-sided derivative is too wide.

    directions_of: which directions are tried for keys that share an output.  stops: at the first that fails.
    """
    outputs = problem.outputs()
    kinks = {key for key, total in enumerate(problem.pulled_back(outputs)) if total.is_nan()}
    if not kinks:
        return set(), set(), set()
    failing = {key for key in kinks if not candidate[key].is_finite()}
    unjudged: set[int] = set()
    groups = [(keys, js, directions_of(keys)) for keys, js in _coupled(problem, outputs, kinks)]
    for turn in itertools.zip_longest(*(directions for *_, directions in groups), fillvalue={}):
        if stops and (failing or unjudged):
            break
        # Groups share no output, so one pass serves all of them.
        together = {key: sign for signs in turn for key, sign in signs.items()}
        v = [arb(together.get(key, 0)) for key in problem.keys]
        ahead = [d * slope for d, slope in zip(problem.dy, problem.slopes(v), strict=True)]
        behind = [d * slope for d, slope in zip(problem.dy, problem.slopes([-x for x in v]), strict=True)]
        if not all(is_narrow(number(slope)) for slope in (*ahead, *behind)):
            return None
        for keys, js, _ in groups:
            moved = {key for key in keys if together.get(key)}
            if not moved or (len(moved) > 1 and keys & (failing | unjudged)):
                continue  # what an element does alone says more than what it does among others
            if not all(ahead[j].is_finite() and behind[j].is_finite() for j in js):
                unjudged |= moved
                continue
            product = sum((candidate[key] * v[key] for key in moved), ZERO)
            slack = sum((widths[key] for key in moved), ZERO)
            most = sum((ahead[j].max(-behind[j]) for j in js), slack)
            least = -sum((behind[j].max(-ahead[j]) for j in js), slack)
            if product > most or product < least:
                failing |= moved
    return kinks, failing, unjudged


def _coupled(problem: Point, outputs: Sequence[Jets], kinks: set[int]) -> list[tuple[set[int], list[int]]]:
    """The kinked keys in groups that share no output, each with its outputs."""
    groups: list[tuple[set[int], list[int]]] = []
    cells = (cell for y in outputs for cell in y.cells)
    for j, (cell, d) in enumerate(zip(cells, problem.dy, strict=True)):
        touched = kinks & {leaf.key for leaf in leaves(cell)} if d != 0 else set()
        if touched:
            joined = [group for group in groups if group[0] & touched]
            groups = [group for group in groups if not group[0] & touched]
            groups.append((touched.union(*(keys for keys, _ in joined)), sum((js for _, js in joined), [j])))
    return groups


def _directions(keys: set[int], most: int = SOME_SIGNS, turn: int = 0) -> list[dict[int, int]]:
    """Each key alone, then vectors of signs; not their negatives, since both ends of a direction are judged at once.

    most: how many random ones.  turn: others are drawn for another one.
    """
    ordered = sorted(keys)
    alone = [{key: 1} for key in ordered]
    if len(ordered) == 1:
        return alone
    if len(ordered) <= ALL_SIGNS:
        signs = [(1, *rest) for rest in itertools.product((1, -1), repeat=len(ordered) - 1)]
    else:
        dice = random.Random(len(ordered) + 2**32 * turn)
        signs = [(1,) * len(ordered), *(tuple(dice.choices((1, -1), k=len(ordered))) for _ in range(most))]
    return alone + [dict(zip(ordered, some, strict=True)) for some in signs]
