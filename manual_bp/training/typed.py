"""JSON's values with types: what a file says, held against the annotations of a dataclass.

Files come from anywhere, and json.loads gives what it finds: a string where a number is due, true for 1, 1e400.
"""

from __future__ import annotations

import sys
from dataclasses import MISSING, fields
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")

TOO_NESTED = (RecursionError, OverflowError)
"""What json.loads raises beside ValueError."""


def built(kind: type[T], values: object) -> T:
    """The dataclass `kind` with the values of a JSON object.

    Raises ValueError for anything but an object, a name that is unknown or missing, or a value of another type.
    """
    if not isinstance(values, dict):
        raise ValueError(f"it must be an object with names; came {brief(values)}")
    hints = get_type_hints(kind)
    if unknown := sorted(str(name) for name in values.keys() - hints.keys()):
        raise ValueError(f"it must have no other names than {sorted(hints)}; came {brief(unknown[0])}")
    for field in fields(kind):  # type: ignore[arg-type]
        if field.name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"it must have {field.name!r}; came {sorted(values)}")
    for name, value in values.items():
        if not fits(value, hints[name]):
            raise ValueError(f"{name} must be {said(hints[name])}; came {brief(value)}")
    return kind(**values)


def fits(value: object, hint: Any) -> bool:
    """Whether a value of JSON is of an annotated type.  Numbers are finite; whole ones are floats too, True is none."""
    if isinstance(hint, UnionType):
        return any(fits(value, each) for each in get_args(hint))
    if get_origin(hint) is dict:
        key, inner = get_args(hint)
        return isinstance(value, dict) and all(fits(k, key) and fits(v, inner) for k, v in value.items())
    if get_origin(hint) is list:
        (inner,) = get_args(hint)
        return isinstance(value, list) and all(fits(each, inner) for each in value)
    if hint in (int, float):
        number = isinstance(value, int | float if hint is float else int) and not isinstance(value, bool)
        return number and -sys.float_info.max <= value <= sys.float_info.max  # type: ignore[operator]
    return hint is Any or isinstance(value, NoneType if hint is None else hint)


def said(hint: Any) -> str:
    """A type in words."""
    if isinstance(hint, UnionType):
        return " or ".join(said(each) for each in get_args(hint))
    if get_origin(hint) is list:
        return "a list"
    words = {int: "a whole number", float: "a finite number", str: "a text", bool: "true or false", NoneType: "null"}
    return words.get(hint, "an object of numbers by name")


def brief(value: object) -> str:
    """A value as it came, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
