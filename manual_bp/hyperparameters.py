"""Hyperparameters: of which kind a page says that one is, and whether a value is of that kind.

A kind is float, int, bool, a `Literal` of strings, a tuple of numbers, or several of these joined by |, with None for
one that may be absent.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np


class UnfitError(ValueError):
    """A value is of another kind; the arguments are what must hold, what came, and what to do."""


def kinds(annotation: Any) -> list[Any]:
    """The alternatives of an annotation; one if it has none."""
    return list(get_args(annotation)) if get_origin(annotation) in (Union, UnionType) else [annotation]


def is_kind(annotation: Any) -> bool:
    """Whether an annotation is one that a hyperparameter may have."""
    return all(_name(kind) is not None for kind in kinds(annotation))


def of_kind(name: str, annotation: Any, value: Any) -> Any:
    """`value` as a plain Python value of the annotated kind.  Raises UnfitError."""
    for kind in kinds(annotation):
        found = next(_as_kind(name, kind, value), NotImplemented)
        if found is not NotImplemented:
            return found
    names = [_name(kind) or str(kind) for kind in kinds(annotation)]
    raise UnfitError(f"{name} must be {' or '.join(names)}", f"{value!r:.60}", _remedy(kinds(annotation)))


def choices(annotation: Any) -> tuple[Any, ...]:
    """All values that a hyperparameter may have, if they can be listed: True and False, names, None."""
    found: list[Any] = []
    for kind in kinds(annotation):
        if kind is bool:
            found += [False, True]
        elif kind is NoneType:
            found.append(None)
        elif get_origin(kind) is Literal:
            found += get_args(kind)
    return tuple(found)


def _as_kind(name: str, kind: Any, value: Any) -> Iterator[Any]:
    """The value, if it is of one kind."""
    is_bool = isinstance(value, bool | np.bool_)
    if kind is NoneType:
        if value is None:
            yield None
    elif kind is bool:
        if is_bool:
            yield bool(value)
    elif get_origin(kind) is Literal:
        if isinstance(value, str) and value in get_args(kind):
            yield value
    elif get_origin(kind) is tuple:
        if isinstance(value, tuple | list):
            each = [next(_as_kind(name, get_args(kind)[0], x), NotImplemented) for x in value]
            if NotImplemented not in each:
                yield tuple(each)
    elif kind is int:
        if isinstance(value, numbers.Integral) and not is_bool:
            yield int(value)
    elif kind is float and isinstance(value, numbers.Real) and not is_bool:
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise UnfitError(f"{name} must be finite", f"{value!r:.30}", "")
        yield number


def _name(kind: Any) -> str | None:
    """A kind in words; None for what is no kind."""
    if get_origin(kind) is Literal:
        return f"one of {list(get_args(kind))}"
    if get_origin(kind) is tuple:
        of = {(int, ...): "integers", (float, ...): "real numbers"}.get(get_args(kind))
        return of and f"a tuple of {of}"
    return {float: "a real number", int: "an integer", bool: "a bool", NoneType: "None"}.get(kind)


def _remedy(alternatives: list[Any]) -> str:
    """What to pass."""
    if all(kind in (int, float) for kind in alternatives):
        return "Pass a Python number."
    options = choices(alternatives[0]) if len(alternatives) == 1 else ()
    return f"Pass {' or '.join(map(repr, options))}." if options else ""
