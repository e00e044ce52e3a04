"""Words that depend on numbers."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun in the singular or the plural.

    >>> counted(1, "epoch"), counted(2, "epoch"), counted(0, "box", "boxes")
    ('1 epoch', '2 epochs', '0 boxes')
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
