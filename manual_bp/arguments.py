"""What callers pass where a number is due: whether it is one.  The caller says what must hold."""

from __future__ import annotations

import math
import numbers

# The largest whole number that torch takes as a seed, a size or a count.
LARGEST = 2**63 - 1


def is_finite(value: object) -> bool:
    """Whether `value` is a finite real number: no bool, text or tensor, no NaN, nothing beyond float64."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond float64
        return False


def is_whole(value: object, least: int = 0) -> bool:
    """Whether `value` is a whole number (no bool) from `least` to LARGEST."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and least <= int(value) <= LARGEST


def check_bool(owner: str, **arguments: object) -> None:
    """Raise ValueError unless each of the arguments is True or False: "no" would count as true."""
    for name, value in arguments.items():
        if not isinstance(value, bool):
            raise ValueError(f"{owner}{': ' if owner else ''}{name} must be True or False; came {value!r}.")


def check_not_negative(owner: str, **arguments: object) -> None:
    """Raise ValueError unless each of the arguments is a finite number and not negative."""
    for name, value in arguments.items():
        if not (is_finite(value) and value >= 0):  # type: ignore[operator]
            what = f"{owner}{': ' if owner else ''}{name}"
            raise ValueError(f"{what} must be a finite number and not negative; came {value!r}.")
