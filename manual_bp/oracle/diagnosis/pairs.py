"""Two causes at once: an edit whose result is multiplied, and two edits of different places.

Both are read off the sums of a sketch: of some thousand edits all pairs are asked at once.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from manual_bp.oracle.diagnosis.edit import Edit, both, times
from manual_bp.oracle.diagnosis.multiples import names_of
from manual_bp.oracle.diagnosis.sketch import Sketch

# So many edits, those that are met most often, are paired, and so many pairs are asked further.
PAIRED, ASKED = 3000, 40
# A factor so near to 0 or 1 is none that anybody writes: what is that much off is rounding of float32 (6e-8) added up.
NO_FACTOR = 1e-6
# How far off a fitted factor may be for a quantity to be recognised in it: n/(n - 1) for n up to 50 is told from 1.
KNOWN_TO = 0.02


def multiplied(sketch: Sketch, argument: str) -> Iterator[Edit]:
    """Edits of which what was returned is a multiple."""
    row = list(sketch.samples).index(argument)
    edits, changes = sketch.telling(argument)
    due, tolerance = sketch.right[row] + sketch.target[row], sketch.tolerance[row]
    given = sketch.right[row] + changes
    square = (given * given).sum(1)
    factors = (given @ due) / square
    near = ((given * factors[:, None] - due).abs() <= tolerance * factors.abs().clamp(min=1)[:, None]).all(1)
    # What is doubled and halved again is no edit.
    is_right = ((given * factors[:, None] - sketch.right[row]).abs() <= tolerance).all(1)
    # Roundings of many numbers seldom add up to more than the root of their count.
    off = tolerance.norm() / square.sqrt()
    known = (factors.abs() > NO_FACTOR) & ((factors - 1).abs() > NO_FACTOR) & (off < KNOWN_TO * factors.abs())
    for i in (near & known & ~is_right).nonzero().flatten().tolist():
        for more, words, quantity in names_of(float(factors[i]), float(off[i]), sketch.program):
            yield times(edits[i][1], argument, words, quantity, more)


def paired(sketch: Sketch, argument: str) -> list[Edit]:
    """Two edits of different places that together give what was returned, those that are met most often first."""
    row = list(sketch.samples).index(argument)
    edits, changes = sketch.telling(argument)
    paired = [i for i, (_, edit, _) in enumerate(edits) if edit.changes][:PAIRED]
    edits, changes = [edits[i] for i in paired], changes[paired]
    found = [(edits[i][0] + edits[j][0], i, j) for i, j in _sums_to(changes, sketch.target[row], sketch.tolerance[row])]
    pairs = (both(edits[i][1], edits[j][1]) for _, i, j in sorted(found))
    return [pair for pair in pairs if pair is not None][:ASKED]


def _sums_to(changes: Tensor, due: Tensor, tolerance: Tensor) -> Iterator[tuple[int, int]]:
    """The pairs of rows whose sum is what is due."""
    first, order = changes[:, 0].sort()
    low = torch.searchsorted(first, due[0] - tolerance[0] - changes[:, 0])
    high = torch.searchsorted(first, due[0] + tolerance[0] - changes[:, 0], right=True)
    for i in (high > low).nonzero().flatten().tolist():
        others = order[int(low[i]) : int(high[i])]
        near = ((changes[i] + changes[others] - due).abs() <= tolerance).all(1)
        yield from ((i, j) for j in others[near].tolist() if i < j)
