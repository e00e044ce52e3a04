"""Words that depend on numbers, and names."""

from __future__ import annotations

import re


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun in the singular or the plural.

    >>> counted(1, "epoch"), counted(2, "epoch"), counted(0, "box", "boxes")
    ('1 epoch', '2 epochs', '0 boxes')
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def as_identifier(name: str) -> str:
    """A name with dots, of a module's parameter, as that of an argument: `_0_weight` for "0.weight"."""
    return name if name.isidentifier() else re.sub(r"^(?=\d)", "_", name.replace(".", "_"))
