"""Which axes are one: told by trying, where inputs are given by shapes alone.

Two axes of one length may be tied (a weight has as many features as x) or alike by chance.  The function is run with
other lengths: an axis that can be changed alone is one by itself; of those that
cannot, two that can be changed together are one; what cannot be changed in any such way keeps its length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations

Shapes = Mapping[str, tuple[int, ...]]
Place = tuple[str, int]
"""An input, and the position of an axis."""

# Longer by this, so that an even length stays even, and one that is 1 (and is broadcast) is told from one that is not.
LONGER = 2


def axes_of(shapes: Shapes, runs: Callable[[Shapes], bool]) -> dict[str, str]:
    """Axes of each input, as an annotation spells them: a name (`x_1` for the second axis of x), or a length.

    runs: whether the function is defined for inputs of these shapes.
    """
    names: dict[Place, str] = {}
    groups: dict[int, list[Place]] = {}
    for name, shape in shapes.items():
        for position, length in enumerate(shape):
            groups.setdefault(length, []).append((name, position))

    def may_change(*places: Place) -> bool:
        longer = {
            name: tuple(length + LONGER * ((name, position) in places) for position, length in enumerate(shape))
            for name, shape in shapes.items()
        }
        return runs(longer)

    for alike in groups.values():
        left = [place for place in alike if not _named(names, may_change, place)]
        for pair in combinations(left, 2):
            if not any(place in names for place in pair):
                _named(names, may_change, *pair)
        left = [place for place in left if place not in names]
        if len(left) > 2:
            _named(names, may_change, *left)
    return {
        name: " ".join(names.get((name, position), str(length)) for position, length in enumerate(shape))
        for name, shape in shapes.items()
    }


def _named(names: dict[Place, str], may_change: Callable[..., bool], *places: Place) -> bool:
    """Give these axes one name, after the first of them, if they can be changed together."""
    if not may_change(*places):
        return False
    first, position = places[0]
    names.update(dict.fromkeys(places, f"{first}_{position}"))
    return True
