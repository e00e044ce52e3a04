"""Which axes are one, where inputs are given by shapes alone.

Axes of one length in the same place, counted from the last, are taken as one: what a caller gives as x (4, 33) and
weight (33,) has as many features.  The function is run with other lengths to see whether that can be; where it cannot,
with all axes of that length changed together, and then two groups of them at a time (a weight (16, 8) and a bias
(16,)).  What is left may be so many times as long as what else is left (the gates of a hidden state), a multiple of a
number (the heads of a width, three projections in one), or both.  What cannot be changed in any such way keeps its
length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

Shapes = Mapping[str, tuple[int, ...]]
Place = tuple[str, int]
"""An input, and the position of an axis."""

# Longer by this, so that an even length stays even, and one that is 1 (and is broadcast) is told from one that is not.
LONGER = 2


def axes_of(shapes: Shapes, runs: Callable[[Shapes], bool]) -> dict[str, str]:
    """Axes of each input, as an annotation spells them: a name (`x.shape[1]`, of the first that has it), a product
    (`3*h.shape[1]`), or a length.

    runs: whether the function is defined for inputs of these shapes.
    """
    names: dict[Place, str] = {}
    groups: dict[tuple[int, int], list[Place]] = {}
    for name, shape in shapes.items():
        for position, length in enumerate(shape):
            groups.setdefault((length, position - len(shape)), []).append((name, position))

    def can_be(lengths: Mapping[Place, int]) -> bool:
        return runs(
            {
                name: tuple(lengths.get((name, position), length) for position, length in enumerate(shape))
                for name, shape in shapes.items()
            }
        )

    def named(*places: Place) -> bool:
        """Give these axes one name, after the first of them, if they can be changed together."""
        if not can_be({(name, position): shapes[name][position] + LONGER for name, position in places}):
            return False
        names.update(dict.fromkeys(places, _name(places[0])))
        return True

    left = {key: places for key, places in groups.items() if not named(*places)}
    for length in dict.fromkeys(length for length, _ in left):
        alike = [places for (other, _), places in left.items() if other == length]
        if len(alike) > 1 and not named(*(place for places in alike for place in places)):
            for one, two in combinations(alike, 2):
                if one[0] not in names and two[0] not in names:
                    named(*one, *two)
    of_length: dict[int, list[Place]] = {}
    for name, shape in shapes.items():
        for position, length in enumerate(shape):
            if length > 1 and (name, position) not in names:
                of_length.setdefault(length, []).append((name, position))
    names |= _products(of_length, can_be)
    return {
        name: " ".join(names.get((name, position), str(length)) for position, length in enumerate(shape))
        for name, shape in shapes.items()
    }


def _products(
    of_length: Mapping[int, Sequence[Place]], can_be: Callable[[Mapping[Place, int]], bool]
) -> dict[Place, str]:
    """Names and products for axes that cannot be changed by themselves.  of_length: these, by their length."""
    found: dict[Place, str] = {}
    lengths = sorted(of_length)
    for base in lengths:
        several = [n for n in lengths if n > base and n % base == 0]
        for tied in [several, *([n] for n in several if len(several) > 1)]:
            longer = {n: n // base * (base + LONGER) for n in (base, *tied)}
            if not tied or not _are_free(of_length, (base, *tied), found) or not _can_be(of_length, longer, can_be):
                continue
            name = _name(of_length[base][0])
            found |= dict.fromkeys(of_length[base], name)
            for n in tied:
                found |= dict.fromkeys(of_length[n], _times(name, base, n, of_length, can_be) or f"{n // base}*{name}")
    for n in lengths:
        if _are_free(of_length, (n,), found):
            steps = (step for step in range(LONGER + 1, n) if n % step == 0)
            product = next((p for step in steps if (p := _times(str(step), step, n, of_length, can_be))), None)
            found |= {} if product is None else dict.fromkeys(of_length[n], product)
    return found


def _times(
    name: str,
    base: int,
    length: int,
    of_length: Mapping[int, Sequence[Place]],
    can_be: Callable[[Mapping[Place, int]], bool],
) -> str | None:
    """A length as so many times another one that is free, if it may be any multiple of the base."""
    if not _can_be(of_length, {length: length + base * LONGER}, can_be):
        return None
    return f"{name}*{_name(of_length[length][0])}/{name}"


def _can_be(
    of_length: Mapping[int, Sequence[Place]], longer: Mapping[int, int], can_be: Callable[[Mapping[Place, int]], bool]
) -> bool:
    return can_be({place: new for n, new in longer.items() for place in of_length[n]})


def _are_free(of_length: Mapping[int, Sequence[Place]], lengths: Sequence[int], found: Mapping[Place, str]) -> bool:
    return not any(place in found for n in lengths for place in of_length[n])


def _name(place: Place) -> str:
    name, position = place
    return f"{name}.shape[{position}]"
