"""Numbers that catch programs of any function: a mask that hides all, zeros, ties, and its own kinks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from manual_bp.inputs import Draw, Edge, Input
from manual_bp.oracle.functions.function import Function
from manual_bp.oracle.functions.kinked import Kinks, kinked
from manual_bp.oracle.functions.page import Recorded
from manual_bp.outputs import parts


def special(
    function: Function, recorded: Recorded, ordinary: tuple[Tensor | None, ...], kinks: Kinks
) -> Iterator[Edge]:
    """A mask that hides nothing or all, zeros in an input, few values, so that there are ties, a tensor that was given
    of the opposite sign, and what meets the function's kinks, if torch's own derivative is finite there: what divides
    by an input, or by how many are left, or takes every maximum, shows there alone."""
    free = [""] * len(ordinary)
    kinks.meet(ordinary)
    for position, (name, spec) in enumerate(function.specs.items()):
        x, said = ordinary[position], function.given.get(name)
        if isinstance(spec, Input) and x is not None and x.dtype is torch.bool:
            for value in (False, True):
                all_so = torch.full_like(x, value)
                if _is_finite(function, recorded, (*ordinary[:position], all_so, *ordinary[position + 1 :])):
                    yield Edge(
                        f"all {name} {value}", {name: _changed(spec.draw, partial(torch.full_like, fill_value=value))}
                    )
        if not isinstance(spec, Input) or not spec.cotangent or not spec.free or x is None:
            continue
        free[position] = name
        changes: dict[str, Callable[[Tensor], Tensor]] = {
            f"zeros in {name}": _with_zeros,
            f"few values in {name}": torch.round,
        }
        if said is not None and said.tensor is not None:
            changes[f"{name} negated"] = torch.neg
        for words, change in changes.items():
            changed = (*ordinary[:position], change(x), *ordinary[position + 1 :])
            if _is_finite(function, recorded, changed):
                kinks.meet(changed)
                yield Edge(words, {name: _changed(spec.draw, change)})
    yield from kinked(kinks, free, ordinary, partial(_is_finite, function, recorded))


def _is_finite(function: Function, recorded: Recorded, inputs: tuple[Tensor | None, ...]) -> bool:
    """Whether the function is defined at these numbers, and its value and derivative are finite."""
    try:
        y, residuals = recorded.forward(inputs, function.hyper)
    except ValueError:
        return False
    grads = recorded.backward(residuals, tuple(torch.ones_like(part) for part in parts(y)))
    found = [part for part in (*parts(y), *grads) if part is not None and part.is_floating_point()]
    return all(bool(part.isfinite().all()) for part in found)


def _with_zeros(x: Tensor) -> Tensor:
    """Every other number is 0."""
    return x * (torch.arange(x.numel()).reshape(x.shape) % 2)


def _changed(draw: Draw, change: Callable[[Tensor], Tensor]) -> Draw:
    return lambda shape, generator: change(draw(shape, generator))
