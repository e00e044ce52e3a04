"""Whether a gradient is one that a program may have, which at each kink or tie chooses a slope of its own.

Where branches of one value but several slopes s_i meet, every number of the convex hull of the s_i is a generalised
gradient of what is chosen [1, theorem 2.5.1].  A program may take another one at each kink k, so that with d_k, the
cotangent of what is chosen there, and r, what comes to the inputs past all kinks,

    g = r + Σ_k d_k Σ_i λ_ki s_ki,    λ_ki ≥ 0,  Σ_i λ_ki = 1,

is right, also where the numbers behind a kink are mixed with both signs and their sum is neither convex nor concave
(max-pooling and then a linear layer), which the one-sided derivatives of y alone do not tell.  Such λ are sought, and a
gradient is right that they give within its allowance.

[1] F. H. Clarke, Optimization and Nonsmooth Analysis, Wiley 1983.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from manual_bp.arithmetic.balls_table.decisions import Cut, cutting
from manual_bp.arithmetic.jets import ZERO, Leaf, Tangent, arb, pulled_back
from manual_bp.arithmetic.point import Point

Array = npt.NDArray[np.float64]

# Kinks that share inputs are judged together, up to so many slopes: the work grows with their cube.
MOST = 256
# What is allowed little counts for more in the search, up to so much, and that λ add up to 1 for more than all; float64
# has digits enough for that.
SPREAD = 1e4


def is_selection(problem: Point, candidate: Sequence[arb], widths: Sequence[arb]) -> bool:
    """Whether the candidate's numbers are such a gradient at the elements that kinks touch.

    widths: how far off each may be; infinite where it is not judged.
    False too where that is not the whole question: no kink is seen, a branch jumps or has no slope, what is chosen is
    chosen among again, the same inputs decide two choices (the first and the second of a sorting), or too many hang
    together.
    """
    with cutting() as cuts:
        outputs = problem.outputs()
    cells = (cell for y in outputs for cell in y.cells)
    weights = pulled_back([(cell, d) for cell, d in zip(cells, problem.dy, strict=True) if d != 0])
    if any(not total.is_finite() for total in weights.values()) or not _are_finite(candidate):
        return False
    known = {cut.leaf for cut in cuts}
    reached = [cut for cut in cuts if weights.get(cut.leaf, ZERO) != 0]
    slopes = [slope for cut in reached for branch in cut.branches for slope in branch.items()]
    if not reached or any(leaf in known or not slope.is_finite() for leaf, slope in slopes):
        return False
    if len({cut.undecided for cut in reached}) < len(reached):
        return False
    groups = _together(reached)
    if any(sum(len(cut.branches) for cut in group) > MOST for group in groups):
        return False
    due = {leaf.key: total for leaf, total in weights.items() if leaf not in known}
    touched, chosen = ({leaf for cut in some for leaf in cut.inputs} - known for some in (cuts, reached))
    for key in (leaf.key for leaf in touched - chosen):  # what is chosen there has no cotangent
        if not abs(candidate[key] - due.get(key, ZERO)) <= widths[key]:
            return False
    return all(_is_met(group, weights, due, candidate, widths) for group in groups)


def _are_finite(numbers: Sequence[arb]) -> bool:
    return all(g.is_finite() for g in numbers)


def _together(cuts: Sequence[Cut]) -> list[list[Cut]]:
    """The kinks in groups that share no input."""
    groups: list[tuple[set[Leaf], list[Cut]]] = []
    for cut in cuts:
        meeting = [group for group in groups if group[0] & cut.inputs]
        groups = [group for group in groups if not group[0] & cut.inputs]
        joined = [cut, *(each for _, some in meeting for each in some)]
        groups.append((cut.inputs.union(*(inputs for inputs, _ in meeting)), joined))
    return [cuts for _, cuts in groups]


def _is_met(
    cuts: Sequence[Cut], weights: Tangent, due: dict[int, arb], candidate: Sequence[arb], widths: Sequence[arb]
) -> bool:
    """Whether some λ give the candidate's numbers at all inputs of these kinks."""
    leaves = sorted(set().union(*(cut.inputs for cut in cuts)), key=lambda leaf: leaf.key)
    leaves = [leaf for leaf in leaves if widths[leaf.key].is_finite()]
    if not leaves:
        return True
    columns = [
        [float((weights[cut.leaf] * branch.get(leaf, ZERO)).mid()) for leaf in leaves]
        for cut in cuts
        for branch in cut.branches
    ]
    ends = np.array(columns).T
    wanted = np.array([float((candidate[leaf.key] - due.get(leaf.key, ZERO)).mid()) for leaf in leaves])
    owner = np.array([number for number, cut in enumerate(cuts) for _ in cut.branches])
    scale = max(float(np.abs(ends).max()), math.ulp(0.0))
    own = len(columns) * np.finfo(np.float64).eps * SPREAD * scale  # the roundings of this very search
    allowed = np.array([float(widths[leaf.key]) for leaf in leaves]) + own
    sums = (owner == np.arange(len(cuts))[:, None]).astype(np.float64)
    weight = scale / np.maximum(allowed, allowed.max() / SPREAD)
    weight = weight / weight.max()
    matrix = np.vstack([weight[:, None] * ends / scale, SPREAD * sums])
    share = _nonnegative(matrix, np.concatenate([weight * wanted / scale, np.full(len(cuts), SPREAD)]))
    if not np.allclose(sums @ share, 1):
        return False
    share = share / (sums @ share)[owner]  # that they add up to 1 is no matter of rounding
    # Were each number within its allowance for some λ, the sum of squares in these units, which is the least there is,
    # would be their count at most.
    return bool(np.linalg.norm((ends @ share - wanted) / allowed) <= math.sqrt(len(leaves)))


def _nonnegative(matrix: Array, wanted: Array) -> Array:
    """The x ≥ 0 of least |matrix x - wanted|, by active sets [C. L. Lawson and R. J. Hanson, Solving Least Squares
    Problems, SIAM 1995, chapter 23]."""
    count = matrix.shape[1]
    smallest = np.asarray(np.linalg.lstsq(matrix, wanted, rcond=None)[0], dtype=np.float64)
    if bool((smallest >= 0).all()):  # nothing is between: each takes a part of every slope, as of an even share
        return smallest
    x: Array = np.zeros(count)
    free = np.zeros(count, dtype=bool)
    for _ in range(3 * count):
        gain = matrix.T @ (wanted - matrix @ x)
        gain[free] = -np.inf
        if free.all() or gain.max() <= count * np.finfo(np.float64).eps * max(float(np.abs(wanted).max()), 1.0):
            break
        free[int(np.argmax(gain))] = True
        while True:
            best: Array = np.zeros(count)
            best[free] = np.linalg.lstsq(matrix[:, free], wanted, rcond=None)[0]
            below = free & (best <= 0)
            if not below.any():
                break
            x += float((x[below] / np.maximum(x[below] - best[below], math.ulp(0.0))).min()) * (best - x)
            free &= x > count * np.finfo(np.float64).eps
            x[~free] = 0.0
        x = best
    return x
