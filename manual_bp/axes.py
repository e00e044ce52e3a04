"""Axes: what the shape annotations of a page say, read once and used twice.

`Float[Tensor, "*batch in"]` names the axes of a tensor.  Here such a string is bound to an actual shape (`bind`, which
every rule does on every call) or filled in from chosen sizes (`shape_of`, which draws inputs for tests and benchmarks).

The grammar is the part of jaxtyping's that pages need: `name` is one axis, `*name` is any number of axes, a product
`units*pieces` is one axis whose length is that product.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

Sizes = dict[str, tuple[int, ...]]
"""The lengths an axis name stands for: one for `name`, any number for `*name`."""


def tokens(annotation: Any) -> list[str]:
    """The axes of a jaxtyping annotation, left to right."""
    return str(annotation.dim_str).split()


def factors(token: str) -> list[str]:
    """The names in one token: `["units", "pieces"]` for `units*pieces`."""
    return token.lstrip("*").split("*")


def axis_names(annotations: Iterable[Any], hyper: Iterable[str] = ()) -> dict[str, bool]:
    """Every axis name that the annotations use, in order, and whether it is variadic; hyperparameters are left out."""
    known = set(hyper)
    return {
        name: token.startswith("*")
        for annotation in annotations
        for token in tokens(annotation)
        for name in factors(token)
        if name not in known
    }


def shape_of(annotation: Any, sizes: Mapping[str, tuple[int, ...]], hyper: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape that an annotation describes once every axis has its length."""
    shape: list[int] = []
    for token in tokens(annotation):
        if token.startswith("*"):
            shape.extend(sizes[token[1:]])
        else:
            lengths = [(hyper[name],) if name in hyper else sizes[name] for name in factors(token)]
            shape.append(math.prod(length for (length,) in lengths))
    return tuple(shape)


def bind(argument: str, annotation: Any, shape: tuple[int, ...], sizes: Sizes, hyper: Mapping[str, Any]) -> str | None:
    """Bind the annotation's axes to `shape`, adding to `sizes`; the broken invariant in words, or None if all hold."""
    wanted = tokens(annotation)
    fixed = [token for token in wanted if not token.startswith("*")]
    variadic = len(wanted) - len(fixed)
    described = f"({', '.join(wanted)})"
    if len(shape) < len(fixed) or (not variadic and len(shape) != len(fixed)):
        at_least = "at least " if variadic else ""
        return f"{argument} must have {at_least}{len(fixed)} axes {described}"
    position = 0
    for token in wanted:
        if token.startswith("*"):
            length = tuple(shape[position : position + len(shape) - len(fixed)])
            problem = _agree(argument, described, token[1:], length, sizes)
            position += len(length)
        else:
            problem = _bind_axis(argument, described, token, shape[position], sizes, hyper)
            position += 1
        if problem:
            return problem
    return None


def _bind_axis(
    argument: str, described: str, token: str, length: int, sizes: Sizes, hyper: Mapping[str, Any]
) -> str | None:
    *known, unknown = sorted(factors(token), key=lambda name: name not in hyper)
    product = math.prod(hyper[name] for name in known)
    if product < 1:
        return None  # the page says what its hyperparameter must be
    if length % product:
        return (
            f"{argument} has axes {described}, so its axis {token} must be a multiple of {'*'.join(known)} = {product}"
        )
    return _agree(argument, described, unknown, (length // product,), sizes)


def _agree(argument: str, described: str, name: str, length: tuple[int, ...], sizes: Sizes) -> str | None:
    if sizes.setdefault(name, length) == length:
        return None
    bound = sizes[name] if len(sizes[name]) != 1 else sizes[name][0]
    return f"{argument} has axes {described}, and {name} is {bound} in the arguments before it"
