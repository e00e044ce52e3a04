"""Axes: what the shape annotations of a page say, read once and used twice.

`Float[Tensor, "*batch in"]` names the axes of a tensor.  Here such a string is bound to an actual shape (`bind`, which
every rule does on every call) or filled in from chosen sizes (`shape_of`, which draws inputs for tests and benchmarks).

The grammar is the part of jaxtyping's that pages need:

    axes    name         one axis
            *name        any number of axes
            length       one axis of that length
    length  product, or products joined by +:  4*hidden   units*pieces   left+right
    product names and whole numbers joined by *

A name is an axis or an integral hyperparameter.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from itertools import cycle, islice
from typing import Any

Sizes = dict[str, tuple[int, ...]]
"""The lengths an axis name stands for: one for `name`, any number for `*name`."""


def as_tuple(length: int | Iterable[int]) -> tuple[int, ...]:
    """The lengths that a page or an edge gives for a name: a number for one axis, or several."""
    return (length,) if isinstance(length, int) else tuple(length)


def tokens(annotation: Any) -> list[str]:
    """The axes of a jaxtyping annotation, left to right."""
    return str(annotation.dim_str).split()


@cache  # asked for every axis of every call of a rule; the tokens of all pages are a hundred
def products(token: str) -> tuple[tuple[str, ...], ...]:
    """The products that a token adds up, each as its factors: `(("4", "hidden"),)` for `4*hidden`."""
    return tuple(tuple(product.split("*")) for product in token.lstrip("*").split("+"))


@cache
def factors(token: str) -> tuple[str, ...]:
    """The names in one token: `("units", "pieces")` for `units*pieces`."""
    return tuple(name for product in products(token) for name in product if not name.isdigit())


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


def lengths(sizes: Mapping[str, tuple[int, ...]], hyper: Mapping[str, Any]) -> dict[str, int]:
    """The names that stand for one length."""
    single = {name: length[0] for name, length in sizes.items() if len(length) == 1}
    return {**single, **{name: value for name, value in hyper.items() if type(value) is int}}


def with_ranks(sizes: Sizes, given: Collection[str], alike: Sequence[str]) -> Sizes:
    """`sizes` where the lists that are `alike`, which have as many axes as each other, are as long as the `given` one
    among them: the others are cut to its length, or begun anew.  As they are if none is given."""
    rank = next((len(sizes[name]) for name in alike if name in given), None)
    others = () if rank is None else [name for name in alike if name not in given]
    return {**sizes, **{name: tuple(islice(cycle(sizes[name]), rank)) for name in others}}


def unlike(sizes: Sizes, alike: Sequence[str]) -> str | None:
    """The broken invariant in words if lists that are `alike` have different numbers of axes, else None."""
    ranks = {name: len(sizes[name]) for name in alike if name in sizes}
    if len(set(ranks.values())) <= 1:
        return None
    return f"{' and '.join(f'*{name}' for name in ranks)} must have as many axes as each other"


def shape_of(annotation: Any, sizes: Mapping[str, tuple[int, ...]], hyper: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape that an annotation describes once every axis has its length.  Raises KeyError if one has none."""
    known = lengths(sizes, hyper)
    shape: list[int] = []
    for token in tokens(annotation):
        if token.startswith("*"):
            shape.extend(sizes[token[1:]])
        else:
            shape.append(sum(_product(product, known) for product in products(token)))
    return tuple(shape)


def bind(
    annotations: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    sizes: Sizes,
    hyper: Mapping[str, Any],
) -> str | None:
    """Bind the axes of several annotations to the shapes of the same names, adding to `sizes`; the broken invariant in
    words, or None if all hold.

    A length of which more than one name is unknown waits until the others are bound.
    """
    waiting = []
    for argument, shape in shapes.items():
        wanted = tokens(annotations[argument])
        described = f"{argument} has axes ({', '.join(wanted)})"
        fixed = sum(not token.startswith("*") for token in wanted)
        if len(shape) < fixed or (fixed == len(wanted) and len(shape) != fixed):
            at_least = "" if fixed == len(wanted) else "at least "
            return f"{argument} must have {at_least}{fixed} {'axis' if fixed == 1 else 'axes'} ({', '.join(wanted)})"
        position = 0
        for token in wanted:
            if token.startswith("*"):
                several = tuple(shape[position : position + len(shape) - fixed])
                problem = _agree(described, token[1:], several, sizes)
                position += len(several)
            elif token not in hyper and token.isidentifier():  # an axis by itself, as most are
                problem = _agree(described, token, (shape[position],), sizes)
                position += 1
            elif len(set(_unknown(token, lengths(sizes, hyper)))) > 1:
                waiting.append((described, token, shape[position]))
                problem, position = None, position + 1
            else:
                problem = _bind_length(described, token, shape[position], sizes, hyper)
                position += 1
            if problem:
                return problem
    for described, token, length in waiting:
        if len(set(_unknown(token, lengths(sizes, hyper)))) <= 1 and (
            problem := _bind_length(described, token, length, sizes, hyper)
        ):
            return problem
    return None


def _product(names: Iterable[str], known: Mapping[str, int]) -> int:
    return math.prod(int(name) if name.isdigit() else known[name] for name in names)


def _unknown(token: str, known: Mapping[str, int]) -> list[str]:
    return [name for name in factors(token) if name not in known]


def _bind_length(described: str, token: str, length: int, sizes: Sizes, hyper: Mapping[str, Any]) -> str | None:
    """Bind the one name of a token that may be unknown: (length − what is added) / (what it is multiplied with)."""
    known = lengths(sizes, hyper)
    if token in sizes:
        return _agree(described, token, (length,), sizes)
    unknown = _unknown(token, known)
    if not unknown:
        if any(known[name] < 1 for name in factors(token) if name in hyper):
            return None  # the page says what its hyperparameter must be
        due = sum(_product(product, known) for product in products(token))
        if length == due:
            return None
        names = ", ".join(f"{name} is {known[name]}" for name in dict.fromkeys(factors(token)))
        return f"{described}, so its axis {token} must be {due}" + (f" ({names})" if names else "") + f", not {length}"
    if len(unknown) > 1:  # the same name twice: left*left
        return None
    added = sum(_product(product, known) for product in products(token) if unknown[0] not in product)
    (product,) = (product for product in products(token) if unknown[0] in product)
    others = [name for name in product if name != unknown[0]]
    times = _product(others, known)
    if times < 1:
        return None  # the page says what its hyperparameter must be
    rest = length - added
    if rest < 0 or rest % times:
        multiple = f"a multiple of {'*'.join(others)}" + (f" = {times}" if "*".join(others) != str(times) else "")
        return f"{described}, so its axis {token} must be {multiple}" + (f" above {added}" if added else "")
    return _agree(described, unknown[0], (rest // times,), sizes)


def _agree(described: str, name: str, length: tuple[int, ...], sizes: Sizes) -> str | None:
    if sizes.setdefault(name, length) == length:
        return None
    bound = sizes[name] if len(sizes[name]) != 1 else sizes[name][0]
    return f"{described}, and {name} is {bound} in the arguments before it"
