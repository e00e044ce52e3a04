"""Cases: the points at which a candidate is compared, generated from what a page says about its inputs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import torch
from torch import Tensor

from manual_bp import axes
from manual_bp.inputs import Edge
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


# Lengths of the axes, in order of appearance: small and distinct, so that no mix-up of two axes goes unnoticed.
SMALL = (4, 3, 2, 5, 6)
# Ranks 0 to 4, one element, and sizes that are no multiple of a block.  1017 has a 1 in binary at every block from 8 to
# 512: what is left of it there is not what is left of the next larger block.
RANKS = ((), (1,), (3,), (2, 3), (2, 1, 3), (2, 1, 3, 2), (33, 5), (129,), (1017,))
LENGTHS = (1, 33, 1000)
OFF_BLOCK = 129
# Numbers up to this size neither saturate an activation beyond half of float32's digits nor overflow an exponential.
MODERATE = 8.0
# Element-wise rules get two cases of 4351 x 241 elements, more than 2^20 and a multiple of no block: they hide a single
# wrong one from any mean.  All rows are alike, so that evidence for one is evidence for all; a row is short enough for
# two inputs to be certified (see evidence.py), and a prime.
MANY_ROWS, ROW = 4351, 241
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
    for name, tensor in fixed.items():
        if name in rule.inputs:  # whether these lengths fit is for the rule to say
            axes.bind(name, rule.annotations[name], tuple(tensor.shape), sizes, hyper)
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


def generated(rule: Rule, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> list[Case]:
    """Every case of a rule: its edges, ranks and sizes that catch people, and memory layouts of inputs and cotangent.

    Edges that raise are not cases, nor are those sizes at which the rule is not defined.
    """
    generator = torch.Generator().manual_seed(seed)

    def cases(edges: Iterable[Edge]) -> Iterator[Case]:
        for edge in edges:
            inputs, dy, hyper = draw(rule, edge, generator)
            yield Case(tuple(_cast(x, dtype, device) for x in inputs), _cast(dy, dtype, device), hyper, edge.name)

    found = list(cases([Edge("ordinary"), *(edge for edge in rule.edges if not edge.raises)]))
    sizes = [case for case in cases(_sizes(rule)) if _is_defined(rule, case)]
    many = [many_rows(case) for case in cases(_one_row(rule))]
    return found + sizes + list(_layouts(rule, found[0])) + many + [_opposite(rule, case) for case in many]


def _cast(x: Tensor, dtype: torch.dtype, device: str) -> Tensor:
    return x.to(device, dtype if x.is_floating_point() else x.dtype)


def _is_defined(rule: Rule, case: Case) -> bool:
    try:
        rule.forward(*case.inputs, **case.hyper)
    except ValueError:
        return False
    return True


def _sizes(rule: Rule) -> Iterator[Edge]:
    for name, variadic in rule.axis_names.items():
        if variadic:
            for rank in RANKS:
                yield Edge(f"{name} = {rank}", sizes={name: rank})
            yield Edge(f"{name} empty", sizes={name: (0, 3)})
        else:
            for length in LENGTHS:
                yield Edge(f"{name} = {length}", sizes={name: length})
    if len(rule.axis_names) > 1:
        (a, _), (b, _) = two = list(rule.axis_names.items())[:2]
        lengths = {name: (OFF_BLOCK,) if variadic else OFF_BLOCK for name, variadic in two}
        yield Edge(f"{a} and {b} = {OFF_BLOCK}", sizes=lengths)


def _one_row(rule: Rule) -> Iterator[Edge]:
    if rule.elementwise:
        (name,) = rule.axis_names
        yield Edge(f"{MANY_ROWS * ROW} elements", sizes={name: (ROW,)})


def many_rows(case: Case) -> Case:
    """A case of one row, repeated."""
    *inputs, dy = (x.repeat(MANY_ROWS, 1) for x in (*case.inputs, case.dy))
    return Case(tuple(inputs), dy, case.hyper, case.name)


def _opposite(rule: Rule, case: Case) -> Case:
    """The case with inputs of the opposite sign and the other mask: what is 0 in one need not be 0 in the other, so
    that an element which is never written shows."""
    named = zip(rule.inputs, case.inputs, strict=True)
    inputs = (-x if rule.is_number(name) else (x == 0).to(x.dtype) for name, x in named)
    return Case(tuple(inputs), case.dy, case.hyper, f"{case.name} of opposite sign")


def one_row(case: Case) -> Case | None:
    """The first row of a case of many rows which are all alike, as in the generated one; else None."""
    tensors = (*case.inputs, case.dy)
    if any(x.ndim != 2 or len(x) < MANY_ROWS or not torch.equal(x, x[:1].expand(x.shape)) for x in tensors):
        return None
    *inputs, dy = (x[0] for x in tensors)
    return replace(case, inputs=tuple(inputs), dy=dy)


Layout = Literal["transposed", "sliced", "misaligned", "stride 0"]
LAYOUTS: tuple[Layout, ...] = ("transposed", "sliced", "misaligned", "stride 0")
# Cotangents and inputs of this size, and of its inverse, show who clips, and who adds an absolute number.
SCALE = 1e3


def lay_out(x: Tensor, layout: Layout) -> Tensor:
    """`x` in another memory layout.  Only "stride 0" changes values: its first row stands for all rows."""
    if layout == "transposed":
        return x.mT.contiguous().mT if x.ndim >= 2 else x.repeat_interleave(2, -1)[..., ::2] if x.ndim else x
    if layout == "sliced":
        wide = x.new_empty((*x.shape[:-1], 2 * x.shape[-1] + 1)) if x.ndim else x.new_empty(3)
        view = wide[..., 1::2] if x.ndim else wide[1]
        return view.copy_(x)
    if layout == "misaligned":  # contiguous, one element off: no multiple of 16 bytes, which vector loads ask for
        return x.new_empty(x.numel() + 1)[1:].view(x.shape).copy_(x)
    return x[:1].expand(x.shape) if x.ndim else x[None].expand(2)[1]


def _with_nan(x: Tensor) -> Tensor:
    """A copy with NaN in the first row, which must not reach the others unless the function mixes rows."""
    copy = x.clone()
    copy[:1] = torch.nan
    return copy


def _layouts(rule: Rule, ordinary: Case) -> Iterator[Case]:
    yield Case(ordinary.inputs, torch.zeros_like(ordinary.dy), ordinary.hyper, "zero cotangent")
    yield Case(ordinary.inputs, torch.ones_like(ordinary.dy), ordinary.hyper, "cotangent of ones")
    for scale in (SCALE, 1 / SCALE):
        yield Case(ordinary.inputs, scale * ordinary.dy, ordinary.hyper, f"cotangent times {scale:g}")
    for scale in (SCALE, 1 / SCALE):
        scaled = (
            scale * x if spec.cotangent else x for x, spec in zip(ordinary.inputs, rule.inputs.values(), strict=True)
        )
        yield Case(tuple(scaled), ordinary.dy, ordinary.hyper, f"inputs times {scale:g}")
    poisoned = _with_nan(ordinary.inputs[0])
    yield Case((poisoned, *ordinary.inputs[1:]), ordinary.dy, ordinary.hyper, "NaN in one row")
    everything = tuple(lay_out(x, "sliced") for x in ordinary.inputs)
    yield Case(everything, lay_out(ordinary.dy, "sliced"), ordinary.hyper, "everything sliced")
    for layout in LAYOUTS:
        yield Case(ordinary.inputs, lay_out(ordinary.dy, layout), ordinary.hyper, f"dy {layout}")
        for position, name in enumerate(rule.inputs):
            inputs = list(ordinary.inputs)
            inputs[position] = lay_out(inputs[position], layout)
            yield Case(tuple(inputs), ordinary.dy, ordinary.hyper, f"{name} {layout}")
