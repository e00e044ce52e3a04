"""Numbers that catch programs of any page: every octave, all negative, usual hyperparameters and pairs of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import combinations, product
from typing import Any

import torch
from torch import Tensor

from manual_bp import axes
from manual_bp.arithmetic.bounded import contract_of
from manual_bp.hyperparameters import choices
from manual_bp.inputs import Draw, Edge, Input, Shape
from manual_bp.oracle.case import AnyCase, in_dtype
from manual_bp.oracle.cases.sizes import fits
from manual_bp.rule import Rule

# Numbers of ordinary size, 2^-14 to 2^8, get so many values in each octave; approximations and tables go wrong there.
ORDINARY = range(-14, 9)
DENSE = 16
# Where they share sums, so many, each at another position of an axis.
ALONG = 4
# With each set of hyperparameters, fewer.
SPARSE = 3
# Where exponents are all tried, and elsewhere one in so many: float64 has 2098, and where a square, a product or an
# exponential leaves the range is told by 2^±512, by the last few at the ends or by those near 0.
NEAR, FAR = 64, 8
ENDS = {*range(4)}
# Scales (powers of 2) of the numbers when all are of one sign and far from 0: a running maximum that starts at -9999,
# -65504, -1e9 or -1e30 is beyond them.  The numbers vary by a fraction, so that even float16 holds them at 2^14.
SCALES = (14, 17, 40, 110)
FRACTION = 1 / 8
# Hyperparameters that any page may be given: integers where a real number is meant, and integers that are no powers.
WHOLE = (1, 2)
COUNTS = (1, 2, 3, 7)
# An integer that is a function's default without an annotation is tried as one: of those that are meant as a real
# number all but 7 would be tried anyway.
GENERAL: dict[Any, tuple[int, ...]] = {int: COUNTS, float: WHOLE, int | float: COUNTS}
# A function's own formula need not be that of a right program, which multiplies an input, a value or a slope by a
# number on the way: 2x · dy where torch adds x · dy twice, 16 for the sixteenth power.
ROOM = 16.0


def given_tensors(rule: Rule, edge: Edge) -> dict[str, Tensor]:
    """The values that an edge gives as numbers: of the kind that the page says."""
    found = {}
    for name, value in edge.given.items():
        if name in rule.hyper or value is None or callable(value):
            continue
        kind = rule.kind(name) if name in rule.inputs else None
        found[name] = torch.as_tensor(value, dtype=kind or torch.float64)
    return found


def usual(rule: Rule) -> dict[str, tuple[Any, ...]]:
    """By hyperparameter, values that it is used with: those of the page (USUAL), and those that any may have."""
    named = getattr(rule.page, "USUAL", {})
    found = {}
    for name in rule.hyper:
        general = GENERAL.get(rule.annotations[name]) or choices(rule.annotations[name])
        values = dict.fromkeys(map(_typed, (*named.get(name, ()), *general)))
        found[name] = tuple(value for _, value in values)
    return found


def _typed(value: Any) -> tuple[type, Any]:
    """What tells 1 from 1.0."""
    return type(value), value


def hyperparameters(rule: Rule) -> Iterator[dict[str, Any]]:
    """Every usual value by itself, and every pair of those of two hyperparameters that are not ordinary."""
    for name, values in usual(rule).items():
        for value in values:
            yield {name: value}
    options = unusual(rule)
    for a, b in combinations(options, 2):
        for first, second in product(options[a], options[b]):
            yield {a: first, b: second}


def unusual(rule: Rule) -> dict[str, list[Any]]:
    """Of each hyperparameter the usual values that are not its ordinary one."""
    return {name: [v for v in values if v != rule.ordinary[name]] for name, values in usual(rule).items()}


def valued(rule: Rule, dtype: torch.dtype) -> Iterator[Edge]:
    """Numbers of every size and of one sign, and of element-wise rules with the hyperparameters of every edge."""
    if rule.elementwise:
        yield from _elementwise(rule, dtype)
        return
    for name in _numbers(rule):
        dims = axes.tokens(rule.annotation(name))
        is_input = name in rule.inputs
        for dim in range(len(dims) if is_input else min(len(dims), 1)):  # what depends on dy is linear in it
            yield from _over_octaves(rule, name, dim)
    for name in rule.cotangents if rule.has_backward else ():
        if axes.tokens(rule.annotation(name)):  # the gradient of a loss that asks for one class, or for the last step
            yield Edge(f"{name} 0 but for one element of each row", {name: _one_of_each_row})
    first = next((name for name in rule.inputs if rule.is_free(name)), None)
    if first is None:
        return
    ordinary = _ordinary(rule, first)
    for sign, word in ((-1, "negative"), (1, "positive")):
        drawn = _of_one_sign(ordinary, sign)
        yield from _over_octaves(rule, first, 0, drawn, f"every {first} {word},")
    for exponent in SCALES:
        if 2.0**exponent < min(torch.finfo(dtype).max, getattr(rule.page, "MOST_NEGATIVE", torch.inf)):
            drawn = _of_one_sign(ordinary, -(2.0**exponent))
            yield Edge(f"every {first} negative, near {-(2.0**exponent):g}", {first: drawn})


def within_range(rule: Rule, case: AnyCase, dtype: torch.dtype) -> AnyCase:
    """A case of a row of numbers of an element-wise function, of which nobody said how large they may be: those alone
    at which its value is finite, computed as it stands, and inputs, value and slopes are so with ROOM to spare.

    Where a value overflows, a gradient is of no use, and right programs differ in what they make of it.
    """
    compute = contract_of(dtype).compute
    largest = torch.finfo(compute).max / ROOM
    wide = in_dtype(case, torch.float64, "cpu")
    try:
        as_it_stands, _ = rule.forward(*in_dtype(case, compute, "cpu").inputs, **case.hyper)
        y, grads = rule.vjp(wide.inputs, torch.ones_like(wide.dy), **case.hyper)
    except ValueError:  # what is not defined in the other precision is judged as it is
        return case
    inside = as_it_stands.to(dtype).isfinite()
    for x in (*wide.tensors, y, *grads):
        if x is not None and x.is_floating_point():
            inside &= x.abs() <= largest
    return case.with_tensors(x[inside.to(x.device)] for x in case.tensors)


def named(given: dict[str, Any]) -> str:
    """A set of hyperparameters, in words."""
    return ", ".join(f"{name} = {value}" for name, value in given.items())


def _numbers(rule: Rule) -> list[str]:
    cotangents = rule.cotangents if rule.has_backward else ()
    return [*(name for name in rule.inputs if rule.is_free(name)), *cotangents]


def _ordinary(rule: Rule, name: str) -> Draw:
    """How a number is usually drawn."""
    spec = rule.inputs.get(name)
    return spec.draw if isinstance(spec, Input) else _normal


def _of_one_sign(draw: Draw, scale: float) -> Draw:
    def drawn(shape: Shape, generator: torch.Generator) -> Tensor:
        return scale * (1 + FRACTION * draw(shape, generator).abs())

    return drawn


def _over_octaves(rule: Rule, name: str, dim: int, draw: Draw | None = None, words: str = "") -> Iterator[Edge]:
    """One input (or dy) times a power of 2, another one at each position of one of its axes."""
    tokens = axes.tokens(rule.annotation(name))
    axis = next((f for token in tokens[dim : dim + 1] for f in axes.factors(token) if f in rule.axis_names), None)
    if axis is None or axis in getattr(rule.page, "STEPS", {}):  # of so many steps of a loop a case takes too long
        return
    ordinary = draw or _ordinary(rule, name)

    def drawn(shape: Shape, generator: torch.Generator) -> Tensor:
        exponents = torch.arange(shape[dim]) * len(ORDINARY) // shape[dim] + ORDINARY[0]
        return ordinary(shape, generator) * torch.exp2(exponents.double()).reshape(-1, *(1,) * (len(shape) - dim - 1))

    lists = {other: (2,) for other, variadic in rule.axis_names.items() if variadic}  # so that a token is one axis
    sizes = {**lists, **getattr(rule.page, "FEW_STEPS", {}), axis: (ALONG * len(ORDINARY),)}
    edge = Edge(f"{words or name} over octaves along {axis}", {name: drawn}, sizes)
    if fits(rule, edge, dict.fromkeys(rule.axis_names, (2,))):
        yield edge


def _normal(shape: Shape, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _one_of_each_row(shape: Shape, generator: torch.Generator) -> Tensor:
    drawn = _normal(shape, generator)
    if not shape or not drawn.numel():
        return drawn
    place = torch.randint(shape[-1], (*shape[:-1], 1), generator=generator)
    return torch.zeros_like(drawn).scatter(-1, place, drawn)


def _elementwise(rule: Rule, dtype: torch.dtype) -> Iterator[Edge]:
    (axis,) = rule.axis_names
    info = torch.finfo(dtype)
    smallest = math.frexp(info.smallest_normal * info.eps)[1] - 1
    largest = math.frexp(info.max)[1] - 1
    dense = _octaves(ORDINARY, DENSE)
    every = _octaves(_far_and_near(smallest, largest), 1)
    sparse = _octaves(range(2 * ORDINARY[0], ORDINARY[-1] + 1), SPARSE)
    seen: list[dict[str, Any]] = [{}]
    for edge in rule.edges:
        given = {name: value for name, value in edge.given.items() if name in rule.hyper}
        if not edge.raises and given not in seen:
            seen.append(given)
    seen += [given for given in hyperparameters(rule) if not any(map(given.__eq__, seen))]
    for name in (name for name in rule.inputs if rule.is_free(name)):
        for values, words in ((dense, "of every ordinary size"), (every, "of every magnitude")):
            yield Edge(f"{name} {words}", {name: _these(values)}, {axis: (len(values),)})
        for given in seen[1:]:
            yield Edge(f"{name} of every size, {named(given)}", {name: _these(sparse), **given}, {axis: (len(sparse),)})


def _far_and_near(smallest: int, largest: int) -> list[int]:
    """Exponents from one to the other: all within NEAR of 0 and near both ends, else one in FAR."""
    return [
        e for e in range(smallest, largest + 1) if abs(e) <= NEAR or e % FAR == 0 or {e - smallest, largest - e} & ENDS
    ]


def _octaves(exponents: Iterable[int], number: int) -> Tensor:
    """So many numbers of each sign between each power of 2 and the next, from the first exponent to the last."""
    mantissas = 1 + (torch.arange(number, dtype=torch.float64) + 0.25) / number
    sizes = torch.cat([torch.ldexp(mantissas, torch.tensor(exponent)) for exponent in exponents])
    return torch.cat([sizes, -sizes])


def _these(values: Tensor) -> Draw:
    return lambda shape, _: values.reshape(shape)
