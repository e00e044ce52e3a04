"""Indices that catch programs: who adds up by index errs where indices repeat, and who looks up errs at the ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from manual_bp import axes
from manual_bp.inputs import Draw, Edge, Index, Shape
from manual_bp.oracle.case import Case
from manual_bp.oracle.cases.sizes import LONG
from manual_bp.rule import Rule

# So many positions, and indices: each comes up several times.
FEW, SEVERAL = 5, 12
# Of text: a few of many positions come up again and again, most never.
WORDS, TEXT = 40, 600
# Without repeats, most positions come up never.
MANY = 50
# How much more often the first word comes up than the second: as 1 : 1/2 : 1/3 ... (Zipf, 1935).
ZIPF = 1.0
# What is ignored, of all.
IGNORED = 1 / 3
# Of a long index that may be ignored, about so many count.
COUNTED = 8

Positions = Callable[[Shape, int, torch.Generator], Tensor]


def indexed(rule: Rule) -> Iterator[Edge]:
    """Each index of a rule: all alike at either end, sorted, each once, skewed as in text, a few of many, some
    ignored."""
    for name, spec in rule.inputs.items():
        if not isinstance(spec, Index):
            continue
        kinds: list[tuple[str, Positions, int, int]] = [
            ("at the first position", lambda shape, length, _: torch.zeros(shape, dtype=torch.int64), FEW, SEVERAL),
            ("at the last position", lambda shape, length, _: torch.full(shape, length - 1), FEW, SEVERAL),
            ("sorted", _sorted, FEW, SEVERAL),
            ("sorted downwards", lambda *drawn: _sorted(*drawn).flip(0) if drawn[0] else _sorted(*drawn), FEW, SEVERAL),
            ("each position once", _each_once, FEW, FEW),
            ("skewed as in text", skewed, WORDS, TEXT),
            ("a few of many", spec.positions, MANY, FEW - 1),
        ]
        for words, positions, length, number in kinds:
            yield Edge(f"{name} {words}", {name: _drawn(positions, length)}, _sizes(rule, name, spec, length, number))
    for edge, _ in partly_ignored(rule):
        yield edge


def partly_ignored(rule: Rule) -> Iterator[tuple[Edge, str]]:
    """Each index of which some may be ignored, as some are, and by which hyperparameter."""
    for name, spec in rule.inputs.items():
        if isinstance(spec, Index) and spec.unless and rule.ordinary[spec.unless] is not None:
            ignored = _partly(spec.positions, rule.ordinary[spec.unless])
            sizes = _sizes(rule, name, spec, FEW, SEVERAL)
            yield Edge(f"{name} partly {spec.unless}", {name: _drawn(ignored, FEW)}, sizes), spec.unless


def _sizes(rule: Rule, name: str, spec: Index, length: int, number: int) -> dict[str, int | tuple[int, ...]]:
    """The lengths of the axis, and of the first one of the index itself."""
    sizes: dict[str, int | tuple[int, ...]] = {spec.axis: length}
    tokens = axes.tokens(rule.annotations[name])
    first = tokens[0] if tokens else ""
    if first.lstrip("*") in rule.axis_names:
        sizes[first.lstrip("*")] = (number,) if first.startswith("*") else number
    return sizes


def _drawn(positions: Positions, length: int) -> Draw:
    return lambda shape, generator: positions(shape, length, generator)


def _sorted(shape: Shape, length: int, generator: torch.Generator) -> Tensor:
    drawn = torch.randint(length, shape, generator=generator)
    return drawn.reshape(-1).sort().values.reshape(shape)


def _each_once(shape: Shape, length: int, generator: torch.Generator) -> Tensor:
    """In another order, and again from the start where there are more indices than positions."""
    number = torch.Size(shape).numel()
    order = torch.randperm(length, generator=generator)
    return order.repeat(-(-number // length))[:number].reshape(shape)


def skewed(shape: Shape, length: int, generator: torch.Generator) -> Tensor:
    """The k-th most frequent of all positions comes up 1/k as often as the first; which these are is drawn too."""
    weights = 1 / torch.arange(1, length + 1, dtype=torch.float64) ** ZIPF
    number = torch.Size(shape).numel()
    if not number:
        return torch.zeros(shape, dtype=torch.int64)
    ranks = torch.multinomial(weights, number, replacement=True, generator=generator)
    return torch.randperm(length, generator=generator)[ranks].reshape(shape)


def _partly(positions: Positions, ignored: int) -> Positions:
    def drawn(shape: Shape, length: int, generator: torch.Generator) -> Tensor:
        some = torch.rand(shape, generator=generator) < IGNORED
        return torch.where(some, ignored, positions(shape, length, generator))

    return drawn


def thinned(rule: Rule, name: str, case: Case) -> Tensor:
    """An index of a case whose last one is the last position: beyond a limit that is as far as one can look.

    Along a long axis most are ignored, where the rule can ignore some, so that the last one counts in a mean.
    """
    spec, index = rule.inputs[name], case.named(rule)[name]
    assert isinstance(spec, Index)
    sizes: axes.Sizes = {}
    shapes = {n: tuple(x.shape) for n, x in case.named(rule).items() if n in rule.inputs}
    axes.bind(rule.annotations, shapes, sizes, case.hyper)
    (length,) = sizes[spec.axis]
    if not length or not index.numel():
        return index
    places = index.flatten()
    if spec.unless and case.hyper[spec.unless] is not None and max(index.shape, default=0) > LONG:
        counts = torch.arange(len(places)) % -(-len(places) // COUNTED) == 0
        places = torch.where(counts, places, case.hyper[spec.unless])
    return torch.cat([places[:-1], torch.tensor([length - 1])]).reshape(index.shape)
