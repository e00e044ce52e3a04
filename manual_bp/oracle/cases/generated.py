"""Cases: the points at which a candidate is compared, generated from what a page says about its inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain

import torch
from torch import Tensor

from manual_bp.inputs import Edge, Index
from manual_bp.oracle.case import AnyCase, Case, Further, Sized, WellConditioned, in_dtype
from manual_bp.oracle.cases.declared import NOTHING, Declared
from manual_bp.oracle.cases.drawing import draw, sizes_of
from manual_bp.oracle.cases.images import images
from manual_bp.oracle.cases.indices import indexed, thinned
from manual_bp.oracle.cases.layouts import aliased, laid_out
from manual_bp.oracle.cases.options import absences, options
from manual_bp.oracle.cases.short_lengths import of_short_lengths
from manual_bp.oracle.cases.sizes import BEYOND, BLOCKS, LONG, OFF, SIGNS, fits, sized, weighted
from manual_bp.oracle.cases.values import valued, within_range
from manual_bp.outputs import parts
from manual_bp.rule import Rule

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
# By so many elements a row is shifted from one shape to the next; it has no factor in common with its length.
SHIFT = 7
# Of a rule that couples its elements, so many have their derivatives certified in a few milliseconds.
COUPLED = 64
# What overflowed is further off than by this fraction, and what is computed in 16 bits is not.
SOUND = 0.1
# A case of a cost is drawn so often until its end costs something, which for two classes every other one does.
DRAWN = 6
# Numbers with which a recurrence leaves the range are halved at most so often: to a 64th.
HALVED = 6


def is_moderate(case: Case) -> bool:
    """Whether no number of a case is large."""
    numbers = [x for x in case.tensors if x.is_floating_point() and x.numel()]
    return all(bool((x.abs() <= MODERATE).all()) for x in numbers)


def generated(
    rule: Rule, dtype: torch.dtype, device: str = "cpu", seed: int = 0, declared: Declared = NOTHING
) -> list[Case]:
    """Every case of a rule, as `generating` makes them."""
    return list(generating(rule, dtype, device, seed, declared))


def generating(
    rule: Rule, dtype: torch.dtype, device: str = "cpu", seed: int = 0, declared: Declared = NOTHING
) -> Iterator[Case]:
    """Every case of a rule: its edges, ranks and sizes that catch people, memory layouts of inputs and cotangent, and
    then, each made when it is asked for, what lies further out.

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
    ordinary, *others = declared.edges(rule, edges, usual)
    # Not every edge is one for other values and axes.
    found = [*cases([ordinary]), *(defined(others) if declared else cases(others))]
    found += defined(declared.edges(rule, [*absences(rule), *indexed(rule)], usual))
    sizes = declared.sizes(rule, (edge for edge in _sizes(rule) if fits(rule, edge, usual)), usual)
    rows = list(cases(_one_row(rule)))
    found += [
        _unless_small(rule, case) for case in (_of_row(rows[0], sizes) if rows else _longer(rule, defined(sizes)))
    ]
    found += laid_out(rule, found[0])
    found += images(rule, found[0], lambda edges: defined(declared.edges(rule, edges, usual)))
    many = [many_rows(row) for row in rows]
    found += [*many, *(_opposite(rule, case) for case in many)]
    for case in found:
        if declared.fits(rule, case.inputs, case.hyper):
            yield case
    for case in _further(rule, found, defined, declared, dtype, device, generator):
        found.append(case)
        if declared.fits(rule, case.inputs, case.hyper):
            yield case
    for case in of_short_lengths(rule, found, lambda edge: defined(declared.sizes(rule, [edge], usual))):
        if declared.fits(rule, case.inputs, case.hyper):
            yield case


def _further(
    rule: Rule,
    found: Sequence[Case],
    defined: Callable[[Iterable[Edge]], Iterator[Case]],
    declared: Declared,
    dtype: torch.dtype,
    device: str,
    generator: torch.Generator,
) -> Iterator[Further]:
    """What lies further out: options and values, memory that is shared, and every size."""
    values = defined(declared.edges(rule, [*options(rule), *valued(rule, dtype)], sizes_of(rule)))
    if rule.elementwise and hasattr(rule.page, "FUNCTION"):
        values = (within_range(rule, case, dtype) for case in values)
    for case in chain(values, aliased(rule, found[0])):
        if _is_sound(rule, case):
            yield Further(**vars(case))
    yield from _sized(rule, declared, dtype, device, generator)


def _longer(rule: Rule, cases: Iterable[Case]) -> list[Case]:
    """Of a function the cases of one length each, without a length of 1 on an axis that cannot be longer as well: there
    it is defined because 1 is broadcast, and means something else."""
    found = list(cases)
    if not hasattr(rule.page, "FUNCTION"):
        return found
    long = {case.name.partition(" = ")[0] for case in found if not case.name.endswith(" = 1")}
    return [case for case in found if case.name.partition(" = ")[0] in long]


def _unless_small(rule: Rule, case: Case) -> Case:
    """The case, well conditioned, if truth would take long: where everything is coupled, as the square of its size."""
    small = rule.elementwise or case.elements <= COUPLED
    return case if small else WellConditioned(**vars(case))


def _of_row(row: Case, edges: Iterable[Edge]) -> Iterator[Case]:
    """Other shapes of an element-wise rule, of the numbers of one row, each from another one on: evidence for the row
    is evidence for all."""
    for number, edge in enumerate(edges):
        (shape,) = edge.sizes.values()
        assert isinstance(shape, tuple)
        numbers = (repeated(x.roll(-SHIFT * number), shape) for x in row.tensors)
        yield replace(row, name=edge.name).with_tensors(numbers)


def _sized(
    rule: Rule, declared: Declared, dtype: torch.dtype, device: str, generator: torch.Generator
) -> Iterator[Sized]:
    """Cases of every length."""
    usual = sizes_of(rule)
    signs = SIGNS[::-1] if not rule.elementwise and _acts_on_negative(rule) else SIGNS

    def heavy(case: Case) -> Iterator[Tensor]:
        for i, (name, x) in enumerate(case.named(rule).items()):
            if _is_weighted(rule, name):
                yield weighted(x, signs[i % 2], getattr(rule.inputs.get(name), "outweighs", 1.0))
            elif isinstance(rule.inputs[name], Index):
                yield thinned(rule, name, case)
            else:
                yield x

    def heavy_at_the_end(edges: Iterable[Edge]) -> Iterator[Sized]:
        for edge in edges:
            try:
                case = Sized(*draw(rule, edge, generator), edge.name)
            except ValueError:  # of such sizes there is no y
                continue
            case = in_dtype(case.with_tensors(heavy(case)), dtype, device)
            if _is_defined(rule, case):
                yield _in_range(rule, case, dtype) if getattr(rule.page, "STEPS", None) else case

    if not rule.elementwise:
        for alternatives in sized(rule):
            choices = declared.sizes(rule, (edge for edge in alternatives if fits(rule, edge, usual)), usual)
            drawn = (edge for edge in choices for _ in range(DRAWN if _is_cost(rule) else 1))
            yield from _telling(rule, heavy_at_the_end(drawn))
        return
    inputs, dy, hyper = draw(rule, next(_one_row(rule)), generator)  # so that evidence for one row is evidence for all
    for edge in declared.sizes(rule, (edge for (edge,) in sized(rule)), usual):
        (shape,) = edge.sizes.values()
        assert isinstance(shape, tuple)
        block = Sized(inputs, dy, hyper, edge.name)
        case = in_dtype(block.with_tensors(repeated(x, shape) for x in block.tensors), dtype, device)
        yield case
        length = math.prod(shape)
        if length - BLOCKS[-1] in OFF or length in BEYOND:  # on all blocks, one off all, or beyond a limit
            yield _opposite(rule, case)


def _in_range(rule: Rule, case: Sized, dtype: torch.dtype) -> Sized:
    """The case, or, where a recurrence of so many steps leaves the range of the dtype, that of smaller numbers: right
    programs differ in what they make of infinities on the way."""
    for _ in range(HALVED):
        wide = in_dtype(case, torch.float64, "cpu")
        y, grads = rule.vjp(wide.inputs, wide.dy, **case.hyper)
        due = [x for x in (*parts(y), *grads) if x is not None and x.is_floating_point() and x.numel()]
        if all(float(x.abs().max()) <= torch.finfo(dtype).max for x in due):
            break
        numbers = case.named(rule).items()
        case = case.with_tensors(x / 2 if name in rule.inputs and rule.is_free(name) else x for name, x in numbers)
    return case


def _acts_on_negative(rule: Rule) -> bool:
    """Whether positive inputs leave nothing of a cotangent, as of that of a weight which negative ones alone meet: an
    end at which the first input is positive tells nothing of it then."""
    if not rule.has_backward:
        return False
    case = Case(*draw(rule, Edge("ordinary"), torch.Generator().manual_seed(0)), "ordinary")
    positive = case.with_tensors(x.abs() if x.is_floating_point() else x for x in case.tensors)
    try:
        grads = rule.vjp(positive.inputs, positive.dy, **positive.hyper)[1]
    except ValueError:  # not every page is defined there
        return False
    return any(grad is not None and grad.numel() > 0 and not bool(grad.any()) for grad in grads)


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


def _is_weighted(rule: Rule, name: str) -> bool:
    """Whether numbers of that name are weights of sums: cotangents, and inputs of any size; but not those that a
    function puts in order, as light ones lie so near to each other that rounding errors decide it."""
    return name not in rule.inputs or (rule.may_be_scaled(name) and not getattr(rule.page, "ORDERS", False))


def _telling(rule: Rule, cases: Iterable[AnyCase]) -> Iterator[AnyCase]:
    """The first case at which no cotangent is 0 throughout, as dx of a row of one value is where it is normalised: what
    is not written would be right there.  Of a cost one at which it is not 0 at the end either: an example that costs
    nothing may be left out.  The first of all if there is none."""
    seen: list[AnyCase] = []
    for case in cases:
        seen.append(case)
        grads = rule.vjp(case.inputs, case.dy, **case.hyper)[1] if rule.has_backward else ()
        tells = (bool(g.any()) and (not _is_cost(rule) or _ends(g)) for g in grads if g is not None)
        if all(tells):
            yield case
            return
    yield from seen[:1]


def _is_cost(rule: Rule) -> bool:
    return len(rule.outputs) == 1 and rule.y_annotation.dim_str == ""


def _ends(grad: Tensor) -> bool:
    """Whether something stands at the end of every long axis."""
    return all(bool(grad.select(dim, -1).any()) for dim, length in enumerate(grad.shape) if length > LONG)


def _is_defined(rule: Rule, case: Case) -> bool:
    """Whether there is a y, of the cotangent's shape: where an edge says what dy is, y may have another one with other
    hyperparameters; a function may be defined by chance, where 1 is broadcast."""
    try:
        y, _ = rule.forward(*case.inputs, **case.hyper)
    except ValueError:
        return False
    is_coupled = hasattr(rule.page, "FUNCTION") and not rule.elementwise
    if is_coupled and rule.page.IS_BROADCAST_ANEW(case.inputs, {**rule.ordinary, **case.hyper}):
        return False
    both = zip(parts(y), parts(case.dy), strict=True) if rule.has_backward else ()
    return all(a is None or d is None or a.shape == d.shape for a, d in both)


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
        if b is not None and b.is_floating_point()
    )


def _sizes(rule: Rule) -> Iterator[Edge]:
    for name, variadic in rule.axis_names.items():
        if variadic:
            for rank in RANKS:
                yield Edge(f"{name} = {rank}", sizes={name: rank})
            yield Edge(f"{name} empty", sizes={name: (0, 3)})
        else:
            few = {n: length for n, length in getattr(rule.page, "FEW_STEPS", {}).items() if n != name}
            for length in LENGTHS if name not in getattr(rule.page, "STEPS", {}) else LENGTHS[:1]:
                yield Edge(f"{name} = {length}", sizes={**few, name: length})


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
    inputs = (-x if rule.is_free(name) else x if rule.is_number(name) else (x == 0).to(x.dtype) for name, x in named)
    return replace(case, inputs=tuple(inputs), name=f"{case.name} of opposite sign")


def one_row(case: Case) -> Case | None:
    """The first row of a case of many rows which are all alike, as in the generated one; else None."""
    tensors = case.tensors
    if any(x.ndim != 2 or len(x) < MANY_ROWS or not torch.equal(x, x[:1].expand(x.shape)) for x in tensors):
        return None
    return case.with_tensors(x[0] for x in tensors)
