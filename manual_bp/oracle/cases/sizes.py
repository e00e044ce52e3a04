"""Sizes: lengths of axes at which a program goes wrong that is right for small ones.

What adds up or loops in blocks errs where a length is a multiple of its block, one more or one less; what has a limit
errs beyond it.  Every axis over which an input runs gets such lengths: those of the annotations, and hyperparameters
that are one (`units*pieces`).

A long sum would hide what is small in it.  So along a long axis all numbers are light but one in each block, and the
last one is the heaviest: what loses a block, or the end, is seen in any precision, and the bound on the rounding
of the sum stays that of a short one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import combinations

import torch
from torch import Tensor

from manual_bp import axes
from manual_bp.inputs import Edge
from manual_bp.rule import Rule

# The blocks in which programs work: vectors, warps, threads of a block.  Up to WHOLE all axes are long at once.  The
# largest is a multiple of all others, so that three lengths there try every remainder of 0 and 1 on either side.
BLOCKS = (8, 16, 32, 64, 128, 256, 512, 1024)
OFF = (-1, 0, 1)
WHOLE = 32
# Up to this one also those along which a function loops step by step, each of which takes its time.
FEW_BLOCKS = 16
# Beyond two limits: what a block of 1024 threads adds up with four loads each, and the blocks that an axis of a CUDA
# grid may have (65 535).
BEYOND = (4097, 65_537)
# Both above the sides of usual tiles of a product, and one of them a multiple: 128 to 256 for the matrices that are
# inputs, 64 to 128 elsewhere.
PAIR, SMALLER_PAIR = (257, 256), (129, 136)
# The other axes, while one is long: tiny, distinct, and a list of axes sometimes empty.
TINY = (3, 2, 4, 5)
# While one is very long, or two are long, the first of these at which the rule is defined.  A page of many axes says
# itself (SHORTEST) how short the others are then.
TINIEST = (1, 2, 3)
LISTS: tuple[tuple[int, ...], ...] = ((), (2,))
# Matrices for element-wise rules, which have one list of axes.
MATRICES = ((31, 32), (256, 257), (5, 1024), (1024, 3))
# From this length on an axis is light, and has so many heavy numbers.  The square of a light one is still 16 roundings
# of the sum of the squares of the heavy ones in float32: a sum whose terms round to nothing, or all to one side, is off
# by more than any bound on random roundings allows: torch's own variance, and sums from the last term to the first.
LONG = 500
HEAVY = 64
LIGHT = 2.0**-7
# No case of a rule that couples its elements has more: 0.1 s of sums of products.
MOST_ELEMENTS = 2**19
# The signs that the ends of inputs have by turns.
SIGNS = (1.0, -1.0)


def fits(rule: Rule, edge: Edge, usual: axes.Sizes) -> bool:
    """Whether a case of these lengths is small enough: no axis beyond the page's LONGEST, and no more elements in all.

    usual: the lengths of axes that the edge does not give.
    """
    chosen = {name: axes.as_tuple(length) for name, length in edge.sizes.items()}
    sizes, hyper = {**usual, **chosen}, {**rule.ordinary, **edge.given}
    longest = getattr(rule.page, "LONGEST", {})
    of_hyper = {name: (hyper[name],) for name in rule.hyper if type(hyper[name]) is int}
    if any(n > longest.get(name, n) for name, several in {**sizes, **of_hyper}.items() for n in several):
        return False
    if rule.elementwise:
        return True
    shapes = [axes.shape_of(rule.annotations[name], sizes, hyper) for name in rule.inputs]
    return sum(math.prod(shape) for shape in shapes) <= getattr(rule.page, "LARGEST", MOST_ELEMENTS)


def looped_axes(rule: Rule) -> list[str]:
    """The axes of the rule's inputs, and the hyperparameters that are the length of one."""
    used = {
        factor
        for name in rule.inputs
        for token in axes.tokens(rule.annotations[name])
        for factor in axes.factors(token)
    }
    return [*rule.axis_names, *(name for name in rule.hyper if name in used)]


def sized(rule: Rule) -> Iterator[tuple[Edge, ...]]:
    """Lengths at, below and above every block on every axis, and beyond every limit; of several choices the first at
    which the rule is defined is meant."""
    if rule.elementwise:
        (name,) = rule.axis_names
        vectors = [(block + off,) for block in BLOCKS for off in OFF] + [(length,) for length in BEYOND]
        for shape in (*vectors, *MATRICES):
            yield (Edge(f"{name} = {shape if len(shape) > 1 else shape[0]}", sizes={name: shape}),)
        return
    steps = getattr(rule.page, "STEPS", {})
    every = looped_axes(rule)
    names = [name for name in every if name not in steps]
    last = {name: _last_block(rule, name) for name in names}
    for position, block in enumerate(BLOCKS):
        for off in OFF:
            turn = position + off  # so that a list of axes is sometimes empty, on and off a block
            # Every axis has all three lengths in the end, each beside others; a recurrence has few of them.
            at_once_too = every if block <= FEW_BLOCKS else names
            lengths = {name: block + OFF[(turn + i) % len(OFF)] for i, name in enumerate(at_once_too)}
            at_once = _edge(rule, lengths, turn)
            if block <= WHOLE and fits(rule, at_once, {}):
                yield (at_once,)
            elif block <= WHOLE:
                for name, length in lengths.items():
                    yield _edges(rule, {name: length}, turn)
            else:
                for name, length in lengths.items():
                    if block == last.get(name) or len(names) == 1:
                        yield _edges(rule, {name: block + off}, turn)
                    elif off == 0:
                        yield _edges(rule, {name: length}, turn)
    pairs = [
        dict(zip(pair, PAIR if _is_matrix(rule, pair) else SMALLER_PAIR, strict=True))
        for pair in combinations(names, 2)
    ]
    for name, image in _images(rule).items():
        yield (_edge(rule, {name: image}, turn=0),)
    for name, several in steps.items():
        for length in several:
            yield _edges(rule, {name: length}, turn=0)
    for lengths in (*pairs, *({name: length} for length in BEYOND for name in names)):
        yield tuple(_edge(rule, lengths, turn=0, tiny=(tiny,), long=True) for tiny in TINIEST)


def _last_block(rule: Rule, name: str) -> int:
    """The largest block that an axis exceeds: what is tried beyond it must stand for all that is longer."""
    longest = getattr(rule.page, "LONGEST", {}).get(name, BLOCKS[-1] + OFF[-1])
    return max((block for block in BLOCKS if block + OFF[-1] <= longest), default=0)


def _images(rule: Rule) -> dict[str, tuple[int, ...]]:
    """Two long axes of a list that is said to have several, and has no shorter ones than a tile."""
    own = getattr(rule.page, "SIZES", {})
    longest = getattr(rule.page, "LONGEST", {})
    lists = [name for name, variadic in rule.axis_names.items() if variadic and name not in longest]
    return {name: SMALLER_PAIR for name in lists if len(axes.as_tuple(own.get(name, 0))) == len(SMALLER_PAIR)}


def _is_matrix(rule: Rule, pair: tuple[str, str]) -> bool:
    """Whether an input has these axes and no other."""
    return any({f for t in axes.tokens(rule.annotations[n]) for f in axes.factors(t)} == {*pair} for n in rule.inputs)


def _edges(rule: Rule, lengths: dict[str, int], turn: int) -> tuple[Edge, ...]:
    """These lengths with the usual ones of a function on other axes, and with short ones, if there are such."""
    edge = _edge(rule, lengths, turn)
    if not hasattr(rule.page, "FUNCTION"):
        return (edge,)
    short = {name: tuple(min(n, TINIEST[1]) for n in axes.as_tuple(several)) for name, several in edge.sizes.items()}
    return edge, replace(edge, sizes={**short, **{name: edge.sizes[name] for name in lengths if name in edge.sizes}})


def _edge(
    rule: Rule,
    lengths: Mapping[str, int | tuple[int, ...]],
    turn: int,
    tiny: tuple[int, ...] = TINY,
    long: bool = False,
) -> Edge:
    """These lengths, with tiny ones on other axes, and one of LISTS, by turn, on a list of axes; the page's own first.

    long: whether they are very long, or two.
    """
    sizes: dict[str, tuple[int, ...]] = {}
    own = getattr(rule.page, "SIZES", {})
    own = getattr(rule.page, "SHORTEST", own) if long else own
    own = {**own, **getattr(rule.page, "FEW_STEPS", {})}
    for position, (name, variadic) in enumerate(rule.axis_names.items()):
        short = LISTS[turn % len(LISTS)] if variadic else (tiny[position % len(tiny)],)
        if name in own:  # beside a very long axis a list is one axis
            short = axes.as_tuple(own[name])[: None if tiny == TINY or not variadic else 1]
        sizes[name] = axes.as_tuple(lengths[name]) if name in lengths else short
    given = {name: length for name, length in lengths.items() if name in rule.hyper}
    ranked = axes.with_ranks(sizes, lengths, rule.alike)
    return Edge(", ".join(f"{name} = {length}" for name, length in lengths.items()), given=given, sizes=ranked)


def weighted(x: Tensor, last: float, outweighs: float = 1.0) -> Tensor:
    """Numbers that are light along every long axis but for a few, the one that is largest times the sign `last` at the
    end, which neither a product of two inputs nor their difference loses then; and so many times as large, if it must
    outweigh the light ones."""
    for dim, length in enumerate(x.shape):
        if length > LONG:
            x = x * _weights(length).to(x.dtype).reshape(-1, *(1,) * (x.ndim - dim - 1))
        if length >= BLOCKS[0] - 1:
            end = x.narrow(dim, length - 1, 1)
            place = (last * x).argmax(dim, keepdim=True)
            largest = x.gather(dim, place)
            x = x.scatter(dim, place, end)
            x.narrow(dim, length - 1, 1).copy_(largest * outweighs if length > LONG else largest)
    return x


@lru_cache(maxsize=16)
def _weights(length: int) -> Tensor:
    """1 at the ends and at one place in each of HEAVY blocks, else LIGHT."""
    block = max(length // HEAVY, 1)
    starts = torch.arange(0, length, block)
    generator = torch.Generator().manual_seed(length)
    places = (starts + torch.randint(block, starts.shape, generator=generator)).clamp(max=length - 1)
    weights = torch.full((length,), LIGHT, dtype=torch.float64)
    weights[places] = 1.0
    weights[[0, -1]] = 1.0
    return weights
