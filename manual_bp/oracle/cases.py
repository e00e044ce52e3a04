"""Cases: the points at which a candidate is compared, generated from what a page says about its inputs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, cycle, islice
from typing import Any, Final, TypeVar

import torch
from torch import Tensor

from manual_bp import axes
from manual_bp.inputs import Edge, Index, Input
from manual_bp.oracle.declared import NOTHING, Declared
from manual_bp.oracle.indices import indexed
from manual_bp.oracle.layouts import aliased, laid_out
from manual_bp.oracle.sizes import BEYOND, BLOCKS, OFF, SIGNS, fits, sized, weighted
from manual_bp.oracle.values import given_tensors, hyperparameters, named, valued
from manual_bp.outputs import parts
from manual_bp.rule import Rule


class _NotRecorded:
    def __repr__(self) -> str:
        return "NOT_RECORDED"


NOT_RECORDED: Final = _NotRecorded()
"""Stands for a result that a recorded case does not hold."""


@dataclass(frozen=True, eq=False)
class Case:
    """One point of comparison.

    inputs: one tensor per input of the rule, None for one that is absent. dy: the cotangent, shaped like y, or a tuple
    with one for each of several outputs; None if the rule has no backward. hyper: the hyperparameters that differ from
    the rule's defaults. name: for reports. y, grads: results recorded elsewhere (y a tuple of several outputs), judged
    by `compare(None, rule, cases=[...])`; NOT_RECORDED marks a missing one.
    """

    inputs: tuple[Any, ...]
    dy: Any
    hyper: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    y: Any = None
    grads: tuple[Any, ...] | None = None

    @property
    def elements(self) -> int:
        """How many elements the inputs have."""
        return sum(x.numel() for x in self.inputs if x is not None)

    @property
    def tensors(self) -> list[Tensor]:
        """Every tensor that a candidate is given: the inputs that are there, then the cotangents."""
        return [x for x in (*self.inputs, *parts(self.dy)) if x is not None]

    def with_tensors(self: AnyCase, tensors: Iterable[Tensor]) -> AnyCase:
        """The case with other tensors, in the order of `tensors`."""
        rest = iter(tensors)
        inputs = tuple(None if x is None else next(rest) for x in self.inputs)
        cotangents = tuple(None if d is None else next(rest) for d in parts(self.dy))
        return replace(self, inputs=inputs, dy=cotangents if isinstance(self.dy, tuple) else cotangents[0])

    def named(self, rule: Rule) -> dict[str, Tensor]:
        """`tensors` by the names of the rule's inputs and cotangents."""
        cotangents = zip(rule.cotangents, parts(self.dy), strict=True) if self.dy is not None else ()
        every = [*zip(rule.inputs, self.inputs, strict=True), *cotangents]
        return {name: x for name, x in every if x is not None}


AnyCase = TypeVar("AnyCase", bound=Case)


class WellConditioned(Case):
    """A case at which torch in float64 loses so few digits that nobody needs certified truth, which takes long."""


class Further(WellConditioned):
    """A case that is there for its size, a scale, an option or shared memory, and says nothing of the formula that the
    others do not.

    There are many.  They come last, and are left out for a candidate that is wrong already.
    """


# Lengths of the axes, in order of appearance: small and distinct, so that no mix-up of two axes goes unnoticed.
SMALL = (4, 3, 2, 5, 6, 7)
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
# Up to so many inputs that may be absent, every set of them is left out; of more, each alone and all.
TOGETHER = 3
# For benchmarks.
LARGE = (16, 16, 512, 512, 512)
LARGE_ELEMENTS = 2**20


def is_moderate(case: Case) -> bool:
    """Whether no number of a case is large."""
    numbers = [x for x in case.tensors if x.is_floating_point() and x.numel()]
    return all(bool((x.abs() <= MODERATE).all()) for x in numbers)


def sizes_of(rule: Rule, lengths: tuple[int, ...] = SMALL) -> axes.Sizes:
    """A length for every axis of the rule's inputs; a list of axes that comes first has two, else one.

    The page's own (SIZES) come first; where there are more axes than lengths, these are taken again.
    """
    remaining = cycle(lengths)
    own = {name: _tuple(length) for name, length in getattr(rule.page, "SIZES", {}).items()}
    usual = {
        name: (next(remaining), next(remaining)) if variadic and position == 0 else (next(remaining),)
        for position, (name, variadic) in enumerate(rule.axis_names.items())
    }
    return {**usual, **own}


def large_sizes(rule: Rule) -> axes.Sizes:
    """Lengths for benchmarks: layers of 512, and a batch so large that the first input has 2^20 elements or more."""
    sizes = sizes_of(rule, LARGE)
    shape = axes.shape_of(rule.annotations[next(iter(rule.inputs))], sizes, rule.ordinary)
    batch = next(iter(sizes))
    first, *others = sizes[batch]
    return {**sizes, batch: (first * max(LARGE_ELEMENTS // math.prod(shape), 1), *others)}


def draw(rule: Rule, edge: Edge, generator: torch.Generator) -> tuple[tuple[Any, ...], Any, dict[str, Any]]:
    """Inputs (None for one that the edge leaves out) and cotangent (a tuple of several) in float64, int64 or bool, and
    all hyperparameters, as `edge` wants them.

    Whose shape y has is told by its annotation or, where that names axes which are not the inputs', by forward: then
    this raises ValueError where the rule does.
    """
    hyper = {**rule.ordinary, **{name: value for name, value in edge.given.items() if name in rule.hyper}}
    fixed = given_tensors(rule, edge)
    sizes: axes.Sizes = {}
    shapes = {name: tuple(tensor.shape) for name, tensor in fixed.items() if name in rule.inputs}
    axes.bind(rule.annotations, shapes, sizes, hyper)  # whether these lengths fit is for the rule to say
    chosen = {name: _tuple(length) for name, length in edge.sizes.items()}
    sizes = {**sizes_of(rule), **sizes, **chosen}

    def input_of(name: str, spec: Input | Index) -> Tensor | None:
        if name in fixed:
            return fixed[name]
        if edge.given.get(name, ...) is None:
            return None
        shape = axes.shape_of(rule.annotations[name], sizes, hyper)
        if name in edge.given:
            drawn: Tensor = edge.given[name](shape, generator)
            return drawn
        if isinstance(spec, Index):
            return spec.positions(shape, sizes[spec.axis][0], generator)
        return spec.draw(shape, generator)

    inputs = tuple(input_of(name, spec) for name, spec in rule.inputs.items())
    if not rule.has_backward:
        return inputs, None, hyper
    try:
        due = output_shapes(rule, inputs, sizes, hyper)
    except ValueError:
        if not edge.raises:
            raise
        due = [()] * len(rule.outputs)  # no y has a shape there
    cotangents = [
        fixed[name] if name in fixed else edge.given.get(name, _normal)(shape, generator)
        for name, shape in zip(rule.cotangents, due, strict=True)
    ]
    return inputs, tuple(cotangents) if len(rule.outputs) > 1 else cotangents[0], hyper


def output_shapes(
    rule: Rule, inputs: Sequence[Tensor | None], sizes: axes.Sizes, hyper: Mapping[str, Any]
) -> list[tuple[int, ...]]:
    """The shape of each output at inputs with axes of such lengths.  Raises ValueError where forward is asked and
    raises."""
    known = rule.with_computed(sizes, hyper)
    try:
        shapes = [axes.shape_of(annotation, known, hyper) for annotation in rule.output_annotations.values()]
    except KeyError:
        shapes = []
    if not shapes or any(length < 0 for shape in shapes for length in shape):
        y, _ = rule.forward(*inputs, **hyper)
        shapes = [tuple(part.shape) for part in parts(y)]
    return shapes


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _tuple(length: int | tuple[int, ...]) -> tuple[int, ...]:
    return (length,) if isinstance(length, int) else tuple(length)


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
        return (in_dtype(Case(*draw(rule, edge, generator), edge.name), dtype, device) for edge in edges)

    def defined(edges: Iterable[Edge]) -> Iterator[Case]:
        for edge in edges:
            try:
                (case,) = cases([edge])
            except ValueError:  # of such sizes there is no y
                continue
            if _is_defined(rule, case):
                yield case

    edges = [Edge("ordinary"), *(edge for edge in rule.edges if not edge.raises)]
    found = list(cases(declared.edges(rule, edges, usual)))
    if declared:  # not every edge is one for other values and axes
        found = [found[0], *(case for case in found[1:] if _is_defined(rule, case))]
    found += defined(declared.edges(rule, [*_absences(rule), *indexed(rule)], usual))
    sizes = declared.sizes(rule, (edge for edge in _sizes(rule) if fits(rule, edge, usual)), usual)
    found += [_unless_small(rule, case) for case in defined(sizes)]
    found += laid_out(rule, found[0])
    many = [many_rows(case) for case in cases(_one_row(rule))]
    found += [*many, *(_opposite(rule, case) for case in many)]
    options = [Edge(named(given), given) for given in hyperparameters(rule)]
    values = declared.edges(rule, [*options, *valued(rule, dtype)], usual)
    further = [*defined(values), *aliased(rule, found[0])]
    found += [Further(**vars(case)) for case in further if _is_sound(rule, case)]
    found += _sized(rule, declared, dtype, device, generator)
    return [case for case in found if declared.fits(rule, case.inputs, case.hyper)]


def _unless_small(rule: Rule, case: Case) -> Case:
    """The case, well conditioned, if truth would take long: where everything is coupled, as the square of its size."""
    small = rule.elementwise or case.elements <= COUPLED
    return case if small else WellConditioned(**vars(case))


def _sized(
    rule: Rule, declared: Declared, dtype: torch.dtype, device: str, generator: torch.Generator
) -> Iterator[Further]:
    """Cases of every length."""
    usual = sizes_of(rule)

    def heavy_at_the_end(edges: Iterable[Edge]) -> Iterator[Further]:
        for edge in edges:
            try:
                case = Further(*draw(rule, edge, generator), edge.name)
            except ValueError:  # of such sizes there is no y
                continue
            heavy = (
                weighted(x, last=SIGNS[i % 2]) if _is_weighted(rule, name) else x
                for i, (name, x) in enumerate(case.named(rule).items())
            )
            case = in_dtype(case.with_tensors(heavy), dtype, device)
            if _is_defined(rule, case):
                yield case

    if not rule.elementwise:
        for alternatives in sized(rule):
            choices = declared.sizes(rule, (edge for edge in alternatives if fits(rule, edge, usual)), usual)
            yield from islice(heavy_at_the_end(choices), 1)
        return
    inputs, dy, hyper = draw(rule, next(_one_row(rule)), generator)  # so that evidence for one row is evidence for all
    for edge in declared.sizes(rule, (edge for (edge,) in sized(rule)), usual):
        (shape,) = edge.sizes.values()
        assert isinstance(shape, tuple)
        block = Further(inputs, dy, hyper, edge.name)
        case = in_dtype(block.with_tensors(repeated(x, shape) for x in block.tensors), dtype, device)
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
    tensors = case.tensors
    if any(x.numel() <= ROW for x in tensors):
        return None
    blocks = [x.reshape(-1)[:ROW] for x in tensors]
    if not all(torch.equal(x, repeated(block, tuple(x.shape))) for x, block in zip(tensors, blocks, strict=True)):
        return None
    return Case(case.inputs, case.dy, case.hyper, case.name).with_tensors(blocks)


def in_dtype(case: AnyCase, dtype: torch.dtype, device: str) -> AnyCase:
    """On the device, and numbers in `dtype`; masks and indices stay what they are."""
    return case.with_tensors(x.to(device, dtype if x.is_floating_point() else x.dtype) for x in case.tensors)


def _is_weighted(rule: Rule, name: str) -> bool:
    """Whether numbers of that name are weights of sums: cotangents, and inputs that have one."""
    return name not in rule.inputs or rule.inputs[name].cotangent


def _absences(rule: Rule) -> Iterator[Edge]:
    """Without each input that may be absent, and without several of them."""
    names = [name for name in rule.inputs if name in rule.absentable]
    for number in range(1, len(names) + 1) if len(names) <= TOGETHER else (1, len(names)):
        for absent in combinations(names, number):
            yield Edge(f"without {' and '.join(absent)}", dict.fromkeys(absent))


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
        wide, _ = rule.forward(*in_dtype(case, torch.float64, "cpu").inputs, **case.hyper)
    except ValueError:
        return False
    return all(  # not so where either is no number
        bool(((a.cpu().double() - b).abs() <= SOUND * (1 + b.abs())).all())
        for a, b in zip(parts(y), parts(wide), strict=True)
        if b.is_floating_point()
    )


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
    return case.with_tensors(x.repeat(MANY_ROWS, 1) for x in case.tensors)


def _opposite(rule: Rule, case: AnyCase) -> AnyCase:
    """The case with inputs of the opposite sign and the other mask: what is 0 in one need not be 0 in the other, so
    that an element which is never written shows."""
    named = zip(rule.inputs, case.inputs, strict=True)
    inputs = (-x if rule.is_number(name) else (x == 0).to(x.dtype) for name, x in named)
    return replace(case, inputs=tuple(inputs), name=f"{case.name} of opposite sign")


def one_row(case: Case) -> Case | None:
    """The first row of a case of many rows which are all alike, as in the generated one; else None."""
    tensors = case.tensors
    if any(x.ndim != 2 or len(x) < MANY_ROWS or not torch.equal(x, x[:1].expand(x.shape)) for x in tensors):
        return None
    return case.with_tensors(x[0] for x in tensors)
