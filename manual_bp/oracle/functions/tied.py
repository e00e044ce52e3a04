"""Which axes are one, where inputs are given by shapes alone.

Axes of one length in the same place, counted from the last, are taken as one: what a caller gives as x (4, 33) and
weight (33,) has as many features.  The function is run with other lengths to see whether that can be; where it cannot,
with all axes of that length changed together, and then two groups of them at a time (a weight (16, 8) and a bias
(16,)).  What cannot be changed in any such way keeps its length.
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
    """Axes of each input, as an annotation spells them: a name (`x.shape[1]`, of the first that has it), or a length.

    runs: whether the function is defined for inputs of these shapes.
    """
    names: dict[Place, str] = {}
    groups: dict[tuple[int, int], list[Place]] = {}
    for name, shape in shapes.items():
        for position, length in enumerate(shape):
            groups.setdefault((length, position - len(shape)), []).append((name, position))

    def named(*places: Place) -> bool:
        """Give these axes one name, after the first of them, if they can be changed together."""
        longer = {
            name: tuple(length + LONGER * ((name, position) in places) for position, length in enumerate(shape))
            for name, shape in shapes.items()
        }
        if not runs(longer):
            return False
        first, position = places[0]
        names.update(dict.fromkeys(places, f"{first}.shape[{position}]"))
        return True

    left = {key: places for key, places in groups.items() if not named(*places)}
    for length in dict.fromkeys(length for length, _ in left):
        alike = [places for (other, _), places in left.items() if other == length]
        if len(alike) > 1 and not named(*(place for places in alike for place in places)):
            for one, two in combinations(alike, 2):
                if one[0] not in names and two[0] not in names:
                    named(*one, *two)
    return {
        name: " ".join(names.get((name, position), str(length)) for position, length in enumerate(shape))
        for name, shape in shapes.items()
    }
