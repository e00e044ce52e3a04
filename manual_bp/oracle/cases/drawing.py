"""Drawing: inputs and a cotangent of a rule, as an edge wants them and else as the page draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp import axes
from manual_bp.inputs import Edge, Index, Input
from manual_bp.oracle.cases.values import given_tensors
from manual_bp.outputs import parts
from manual_bp.rule import Rule

# Lengths of the axes, in order of appearance: small and distinct, so that no mix-up of two axes goes unnoticed.
SMALL = (4, 3, 2, 5, 6, 7)


def sizes_of(rule: Rule, lengths: tuple[int, ...] = SMALL) -> axes.Sizes:
    """A length for every axis of the rule's inputs; a list of axes that comes first has two, else one.

    The page's own (SIZES) come first; where there are more axes than lengths, these are taken again.
    """
    remaining = cycle(lengths)
    own = {name: axes.as_tuple(length) for name, length in getattr(rule.page, "SIZES", {}).items()}
    usual = {
        name: (next(remaining), next(remaining)) if variadic and position == 0 else (next(remaining),)
        for position, (name, variadic) in enumerate(rule.axis_names.items())
        if name not in own
    }
    return {**usual, **own}


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
    chosen = {name: axes.as_tuple(length) for name, length in edge.sizes.items()}
    known = {**sizes, **chosen}
    sizes = axes.with_ranks({**sizes_of(rule), **known}, known, rule.alike)

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
    if len(rule.outputs) > 1:  # nothing depends on that of an index or a mask among several outputs
        kinds = (annotation.dtype for annotation in rule.output_annotations.values())
        cotangents = [d if kind is Float else torch.zeros_like(d) for d, kind in zip(cotangents, kinds, strict=True)]
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
