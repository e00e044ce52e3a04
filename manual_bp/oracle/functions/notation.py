"""What a function's inputs are, in the notation of the command line: x=4x33,mask=4x33:bool,ids=4:int<100."""

from __future__ import annotations

import re
from typing import Any

from manual_bp.inputs import Index, Input, coin, uniform

FORM = "NAME=SHAPE[:KIND], as in x=4x33,mask=4x33:bool,'ids=4:int<100',scale=scalar:0.5..2"
SCALAR, ABSENT = "scalar", "none"
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"


def inputs_of(text: str) -> dict[str, Any]:
    """The inputs as `compare` takes them.  Raises ValueError for what is not of that form.

    SHAPE: lengths joined by x, or `scalar`; it may be left out where an annotation tells it, as in mask=bool.
    KIND: `bool`; `int<100` for 0 to 99, `int<entries` for positions on the axis of that name; `0.5..2` for numbers
        between these; by default numbers of both signs.
    """
    found: dict[str, Any] = {}
    for said in text.split(","):
        name, equals, what = (part.strip() for part in said.partition("="))
        if not (re.fullmatch(r"\w[\w.]*", name) and equals and what):
            raise ValueError(f"--inputs must be {FORM}; came {said!r}.")
        if name in found:
            raise ValueError(f"--inputs must name each input once; came {name} twice.")
        found[name] = None if what == ABSENT else _said(name, what)
    return found


def _said(name: str, what: str) -> Any:
    shape, colon, kind = what.partition(":")
    if not colon and _kind(shape) is not None:  # the annotation tells the shape
        return _kind(shape)
    lengths = () if shape == SCALAR else tuple(shape.split("x"))
    if not all(length.isdecimal() for length in lengths):
        raise ValueError(
            f"--inputs: the shape of {name} must be lengths joined by x, as in 4x33, or {SCALAR}; came {shape!r}."
        )
    spec = _kind(kind)
    if colon and spec is None:
        raise ValueError(f"--inputs: the kind of {name} must be bool, int<100 or 0.5..2; came {kind!r}.")
    found = tuple(map(int, lengths))
    return found if spec is None else (found, spec)


def _kind(kind: str) -> Input | Index | None:
    if kind == "bool":
        return Input(coin(0.5), cotangent=False)
    if index := re.fullmatch(r"int<(\w+)", kind):
        return Index(index[1])
    if between := re.fullmatch(rf"({NUMBER})\.\.({NUMBER})", kind):
        return Input(uniform(float(between[1]), float(between[2])))
    return None
