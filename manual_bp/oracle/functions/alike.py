"""When a function means something else at other lengths."""

from __future__ import annotations

from collections.abc import Sequence

Shapes = Sequence[tuple[int, ...]]
"""Of the tensors that are broadcast in one operation."""


def are_broadcast_anew(usual: Sequence[Shapes], other: Sequence[Shapes]) -> bool:
    """Whether 1 is broadcast at other lengths where two axes are of one length at the usual ones: the function is
    defined there by chance, and means something else.  (The halves of a rotated width, of which one is 1 long.)

    usual, other: of the same operations, in order.
    """
    return len(usual) == len(other) and any(map(_is_broadcast_anew, usual, other))


def are_placed_anew(usual: Sequence[Shapes], other: Sequence[Shapes]) -> bool:
    """Whether an index is shorter than what it points into, on an axis where both are of one length at the usual ones:
    torch leaves the rest out.  (The labels of 4 rows out of 33.)

    usual, other: as in `are_broadcast_anew`, of pairs.
    """

    def is_anew(were: Shapes, are: Shapes) -> bool:
        by_axis = zip(*were, *are, strict=False)
        return any(x == index and new != new_index for x, index, new, new_index in by_axis)

    return len(usual) == len(other) and any(map(is_anew, usual, other))


def _is_broadcast_anew(usual: Shapes, other: Shapes) -> bool:
    for position in range(1, 1 + max(map(len, usual), default=0)):
        were, are = ([shape[-position] for shape in shapes if len(shape) >= position] for shapes in (usual, other))
        agree = len(were) == len(are) > 1 and len(set(were)) == 1 and were[0] > 1
        if agree and 1 in are and len(set(are)) > 1:
            return True
    return False
