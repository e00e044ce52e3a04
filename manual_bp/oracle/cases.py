"""Cases: the points at which a candidate is compared, generated from what a page says about its inputs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Final, TypeVar

import torch
from torch import Tensor

from manual_bp import axes
from manual_bp.inputs import Edge
from manual_bp.oracle.declared import NOTHING, Declared
from manual_bp.oracle.layouts import aliased, laid_out
from manual_bp.oracle.sizes import BEYOND, BLOCKS, OFF, SIGNS, sized, weighted
from manual_bp.oracle.values import hyperparameters, named, valued
from manual_bp.rule import Rule


class _NotRecorded:
    def __repr__(self) -> str:
        return "NOT_RECORDED"


NOT_RECORDED: Final = _NotRecorded()
"""Stands for a result that a recorded case does not hold."""


@dataclass(frozen=True, eq=False)
class Case:
    """One point of comparison.

    inputs: one tensor per input of the rule. dy: the cotangent, shaped like y. hyper: the hyperparameters that differ
    from the rule's defaults. name: for reports. y, grads: results recorded elsewhere, judged by `compare(None, rule,
    cases=[...])`; NOT_RECORDED marks a missing one.
    """

    inputs: tuple[Any, ...]
    dy: Any
    hyper: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    y: Any = None
    grads: tuple[Any, ...] | None = None


AnyCase = TypeVar("AnyCase", bound=Case)


class WellConditioned(Case):
    """A case at which torch in float64 loses so few digits that nobody needs certified truth, which takes long."""


class Further(WellConditioned):
    """A case that is there for its size, a scale, an option or shared memory, and says nothing of the formula that the
    others do not.

    There are many.  They come last, and are left out for a candidate that is wrong already.
    """


# Lengths of the axes, in order of appearance: small and distinct, so that no mix-up of two axes goes unnoticed.
SMALL = (4, 3, 2, 5, 6)
# Ranks 0 to 4, one element, and sizes that are no multiple of a block.  1017 has a 1 in binary at every block from 8 to
# 512: what is left of it there is not what is left of the next larger block.
RANKS = ((), (1,), (3,), (2, 3), (2, 1, 3), (2, 1, 3, 2), (33, 5), (129,), (1017,))
LENGTHS = (1, 33, 1000)
# Numbers up to this size neither saturate an activation beyond half of float32's digits nor overflow an exponential.
MODERATE = 8.0
# Element-wise rules get two cases of 4351 x 241 elements, more than 2^20 and a multiple of no block: they hide a single
# wrong one from any mean.  All rows are alike, so that evidence for one is evidence for all; a row is short enough for
# two inputs to be certified (see evidence.py), and a prime.
MANY_ROWS, ROW = 4351, 241
# Of a rule that couples its elements, so many have their derivatives certified in a few milliseconds.
COUPLED = 64
# What overflowed is further off than by this fraction, and what is computed in 16 bits is not.
SOUND = 0.1
# For benchmarks.
LARGE = (16, 16, 512, 512, 512)
LARGE_ELEMENTS = 2**20


def is_moderate(case: Case) -> bool:
    """Whether no number of a case is large."""
    numbers = [x for x in (*case.inputs, case.dy) if x.is_floating_point() and x.numel()]
    return all(bool((x.abs() <= MODERATE).all()) for x in numbers)


def sizes_of(rule: Rule, lengths: tuple[int, ...] = SMALL) -> axes.Sizes:
    """A length for every axis of the rule's inputs; a list of axes that comes first has two, else one."""
    remaining = iter(lengths)
    return {
        name: (next(remaining), next(remaining)) if variadic and position == 0 else (next(remaining),)
        for position, (name, variadic) in enumerate(rule.axis_names.items())
    }


def large_sizes(rule: Rule) -> axes.Sizes:
    """Lengths for benchmarks: layers of 512, and a batch so large that the first input has 2^20 elements or more."""
    sizes = sizes_of(rule, LARGE)
    shape = axes.shape_of(rule.annotations[next(iter(rule.inputs))], sizes, rule.ordinary)
    batch = next(iter(sizes))
    first, *others = sizes[batch]
    return {**sizes, batch: (first * max(LARGE_ELEMENTS // math.prod(shape), 1), *others)}


def draw(rule: Rule, edge: Edge, generator: torch.Generator) -> tuple[tuple[Tensor, ...], Tensor, dict[str, Any]]:
    """Inputs and cotangent in float64 (bool for a mask), and all hyperparameters, as `edge` wants them."""
    hyper = {**rule.ordinary, **{name: value for name, value in edge.given.items() if name in rule.hyper}}
    fixed = {
        name: torch.as_tensor(value, dtype=torch.float64)
        for name, value in edge.given.items()
        if name not in rule.hyper and not callable(value)
    }
    sizes: axes.Sizes = {}
    shapes = {name: tuple(tensor.shape) for name, tensor in fixed.items() if name in rule.inputs}
    axes.bind(rule.annotations, shapes, sizes, hyper)  # whether these lengths fit is for the rule to say
    chosen = {name: (length,) if isinstance(length, int) else length for name, length in edge.sizes.items()}
    sizes = {**sizes_of(rule), **sizes, **chosen}

    def value_of(name: str, annotation: Any, ordinary: Any) -> Tensor:
        if name in fixed:
            return fixed[name]
        drawn: Tensor = edge.given.get(name, ordinary)(axes.shape_of(annotation, sizes, hyper), generator)
        return drawn

    inputs = tuple(value_of(name, rule.annotations[name], spec.draw) for name, spec in rule.inputs.items())
    dy = value_of("dy", rule.y_annotation, lambda shape, g: torch.randn(shape, generator=g, dtype=torch.float64))
    return inputs, dy, hyper


def generated(
    rule: Rule, dtype: torch.dtype, device: str = "cpu", seed: int = 0, declared: Declared = NOTHING
) -> list[Case]:
    """Every case of a rule: its edges, ranks and sizes that catch people, memory layouts of inputs and cotangent, and
    then what lies further out.

    Edges that raise are not cases, nor are those sizes at which the rule is not defined, nor what does not fit what was
    declared; the rule's defaults are the declared ones (`Declared.rule`).
    """
    usual = sizes_of(rule)
    generator = torch.Generator().manual_seed(seed)

    def cases(edges: Iterable[Edge]) -> Iterator[Case]:
        for edge in edges:
            inputs, dy, hyper = draw(rule, edge, generator)
            yield Case(tuple(in_dtype(x, dtype, device) for x in inputs), in_dtype(dy, dtype, device), hyper, edge.name)

    edges = [Edge("ordinary"), *(edge for edge in rule.edges if not edge.raises)]
    found = list(cases(declared.edges(rule, edges, usual)))
    if declared:  # not every edge is one for other values and axes
        found = [found[0], *(case for case in found[1:] if _is_defined(rule, case))]
    sizes = cases(declared.sizes(rule, _sizes(rule), usual))
    found += [_unless_small(rule, case) for case in sizes if _is_defined(rule, case)]
    found += laid_out(rule, found[0])
    many = [many_rows(case) for case in cases(_one_row(rule))]
    found += [*many, *(_opposite(rule, case) for case in many)]
    options = [Edge(named(given), given) for given in hyperparameters(rule)]
    values = declared.edges(rule, [*options, *valued(rule, dtype)], usual)
    further = [*cases(values), *aliased(rule, found[0])]
    found += [Further(**vars(case)) for case in further if _is_sound(rule, case)]
    found += _sized(rule, declared, dtype, device, generator)
    return [case for case in found if declared.fits(rule, case.inputs, case.hyper)]


def _unless_small(rule: Rule, case: Case) -> Case:
    """The case, well conditioned, if truth would take long: where everything is coupled, as the square of its size."""
    small = rule.elementwise or sum(x.numel() for x in case.inputs) <= COUPLED
    return case if small else WellConditioned(**vars(case))


def _sized(
    rule: Rule, declared: Declared, dtype: torch.dtype, device: str, generator: torch.Generator
) -> Iterator[Further]:
    """Cases of every length."""
    usual = sizes_of(rule)

    def cast(inputs: Iterable[Tensor], dy: Tensor, hyper: dict[str, Any], name: str) -> Further:
        return Further(tuple(in_dtype(x, dtype, device) for x in inputs), in_dtype(dy, dtype, device), hyper, name)

    def heavy_at_the_end(edge: Edge) -> Further:
        inputs, dy, hyper = draw(rule, edge, generator)
        chosen = enumerate(zip(inputs, rule.inputs.values(), strict=True))
        inputs = tuple(weighted(x, last=SIGNS[i % 2]) if spec.cotangent else x for i, (x, spec) in chosen)
        return cast(inputs, weighted(dy, last=SIGNS[len(inputs) % 2]), hyper, edge.name)

    if not rule.elementwise:
        for alternatives in sized(rule):
            choices = declared.sizes(rule, alternatives, usual)
            yield from islice((case for case in map(heavy_at_the_end, choices) if _is_defined(rule, case)), 1)
        return
    inputs, dy, hyper = draw(rule, next(_one_row(rule)), generator)  # so that evidence for one row is evidence for all
    for edge in declared.sizes(rule, (edge for (edge,) in sized(rule)), usual):
        (shape,) = edge.sizes.values()
        assert isinstance(shape, tuple)
        case = cast((repeated(x, shape) for x in inputs), repeated(dy, shape), hyper, edge.name)
        yield case
        length = math.prod(shape)
        if length - BLOCKS[-1] in OFF or length in BEYOND:  # on all blocks, one off all, or beyond a limit
            yield _opposite(rule, case)


def repeated(block: Tensor, shape: tuple[int, ...]) -> Tensor:
    """As many of the numbers of a block, one block after the other, as the shape holds."""
    length = math.prod(shape)
    return block.repeat(-(-length // len(block)))[:length].reshape(shape)


def first_block(case: Case) -> Case | None:
    """The block that a case of an element-wise rule repeats, if `generated` made it so; else None."""
    tensors = (*case.inputs, case.dy)
    if any(x.numel() <= ROW for x in tensors):
        return None
    blocks = [x.reshape(-1)[:ROW] for x in tensors]
    if not all(torch.equal(x, repeated(block, tuple(x.shape))) for x, block in zip(tensors, blocks, strict=True)):
        return None
    *inputs, dy = blocks
    return Case(tuple(inputs), dy, case.hyper, case.name)


def in_dtype(x: Tensor, dtype: torch.dtype, device: str) -> Tensor:
    """On the device, and a number in `dtype`; a mask stays one."""
    return x.to(device, dtype if x.is_floating_point() else x.dtype)


def _is_defined(rule: Rule, case: Case) -> bool:
    try:
        rule.forward(*case.inputs, **case.hyper)
    except ValueError:
        return False
    return True


def _is_sound(rule: Rule, case: Case) -> bool:
    """Whether the rule is defined at a case, and nothing overflows there."""
    if rule.elementwise:
        return _is_defined(rule, case)
    try:
        y, _ = rule.forward(*case.inputs, **case.hyper)
        wide, _ = rule.forward(*(x.double() if x.is_floating_point() else x for x in case.inputs), **case.hyper)
    except ValueError:
        return False
    error = (y.double() - wide).abs()
    return bool((error <= SOUND * (1 + wide.abs())).all())  # not so where either is no number


def _sizes(rule: Rule) -> Iterator[Edge]:
    for name, variadic in rule.axis_names.items():
        if variadic:
            for rank in RANKS:
                yield Edge(f"{name} = {rank}", sizes={name: rank})
            yield Edge(f"{name} empty", sizes={name: (0, 3)})
        else:
            for length in LENGTHS:
                yield Edge(f"{name} = {length}", sizes={name: length})


def _one_row(rule: Rule) -> Iterator[Edge]:
    if rule.elementwise:
        (name,) = rule.axis_names
        yield Edge(f"{MANY_ROWS * ROW} elements", sizes={name: (ROW,)})


def many_rows(case: Case) -> Case:
    """A case of one row, repeated."""
    *inputs, dy = (x.repeat(MANY_ROWS, 1) for x in (*case.inputs, case.dy))
    return Case(tuple(inputs), dy, case.hyper, case.name)


def _opposite(rule: Rule, case: AnyCase) -> AnyCase:
    """The case with inputs of the opposite sign and the other mask: what is 0 in one need not be 0 in the other, so
    that an element which is never written shows."""
    named = zip(rule.inputs, case.inputs, strict=True)
    inputs = (-x if rule.is_number(name) else (x == 0).to(x.dtype) for name, x in named)
    return replace(case, inputs=tuple(inputs), name=f"{case.name} of opposite sign")


def one_row(case: Case) -> Case | None:
    """The first row of a case of many rows which are all alike, as in the generated one; else None."""
    tensors = (*case.inputs, case.dy)
    if any(x.ndim != 2 or len(x) < MANY_ROWS or not torch.equal(x, x[:1].expand(x.shape)) for x in tensors):
        return None
    *inputs, dy = (x[0] for x in tensors)
    return replace(case, inputs=tuple(inputs), dy=dy)
