"""Lists of axes, `*batch`, run as one axis: in which shapes a program takes the tensors of a rule.

Then the rank makes no other program, and one program may serve all shapes of an element-wise rule.  Whether a page lets
its lists be taken as one axis cannot be seen in its annotations: softmax over `dim=0` of (*batch, last) does not, nor
does a mean over the first axis of (*shape).  So the page is tried, on small numbers, in both shapes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor

from manual_bp import axes
from manual_bp.inputs import Index
from manual_bp.rule import Rule

# Of a trial: lengths of the axes of a list, which differ from one another, and of every other axis.
LISTED, SINGLE = (2, 3), 3
# In float64, where another order of summation moves a result by far less, and another function by far more.
CLOSE = 1e-6


def as_one_axis(annotation: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """`shape` with the axes of a list `*name` as one axis."""
    wanted = axes.tokens(annotation)
    place = next((i for i, token in enumerate(wanted) if token.startswith("*")), None)
    if place is None:
        return shape
    after = len(shape) - (len(wanted) - place - 1)
    return (*shape[:place], math.prod(shape[place:after]), *shape[after:])


def are_one_axis(
    rule: Rule,
    function: Callable[[Mapping[str, Tensor]], Sequence[Tensor]],
    there: Sequence[str],
    ranks: Mapping[str, int],
    hyper: Mapping[str, Any],
) -> bool:
    """Whether the function of the page computes the same if every list of axes is one axis.

    function: inputs, and cotangents of outputs, by name -> results.  there: the names of those that it is given.
    ranks: of how many axes each list is.
    """
    if all(rank == 1 for rank in ranks.values()):
        return True
    if rule.alike:  # a window along one axis is another than one along several
        return False
    listed = {name: tuple(islice(cycle(LISTED), ranks.get(name, 1))) for name in rule.axis_names}
    sizes = {name: listed[name] if variadic else (SINGLE,) for name, variadic in rule.axis_names.items()}
    generator = torch.Generator().manual_seed(0)
    try:
        known = rule.with_computed(sizes, hyper)
        shapes = {name: axes.shape_of(rule.annotation(name), known, hyper) for name in there}
        given = {name: _drawn(rule, name, shape, sizes, generator) for name, shape in shapes.items()}
        merged = {name: t.reshape(as_one_axis(rule.annotation(name), t.shape)) for name, t in given.items()}
        return all(_same(a, b) for a, b in zip(function(given), function(merged), strict=True))
    except Exception:  # a page may refuse such sizes, or another rank, with an error of any kind
        return False


def _drawn(rule: Rule, name: str, shape: tuple[int, ...], sizes: axes.Sizes, generator: torch.Generator) -> Tensor:
    """Numbers that are no page's special case, positions, or a mask."""
    spec = rule.inputs.get(name)
    if isinstance(spec, Index):
        return torch.randint(sizes[spec.axis][0], shape, generator=generator)
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
    return uniform if spec is None or rule.is_number(name) else uniform < 0.5


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether the elements are close, in their order; the same numbers in another shape are the same."""
    return bool(torch.isclose(a.flatten(), b.flatten(), rtol=CLOSE, atol=CLOSE, equal_nan=True).all())
