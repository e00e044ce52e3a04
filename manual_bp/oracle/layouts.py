"""Memory layouts: the same numbers elsewhere in memory, beside themselves, or in the memory of another argument."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from manual_bp.rule import Rule

if TYPE_CHECKING:
    from manual_bp.oracle.cases import Case

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


def laid_out(rule: Rule, ordinary: Case) -> Iterator[Case]:
    """The ordinary case with other cotangents, scaled, with NaN, and in other memory layouts."""
    yield replace(ordinary, dy=torch.zeros_like(ordinary.dy), name="zero cotangent")
    yield replace(ordinary, dy=torch.ones_like(ordinary.dy), name="cotangent of ones")
    for scale in (SCALE, 1 / SCALE):
        yield replace(ordinary, dy=scale * ordinary.dy, name=f"cotangent times {scale:g}")
    for scale in (SCALE, 1 / SCALE):
        scaled = (
            scale * x if spec.cotangent else x for x, spec in zip(ordinary.inputs, rule.inputs.values(), strict=True)
        )
        yield replace(ordinary, inputs=tuple(scaled), name=f"inputs times {scale:g}")
    poisoned = _with_nan(ordinary.inputs[0])
    yield replace(ordinary, inputs=(poisoned, *ordinary.inputs[1:]), name="NaN in one row")
    everything = tuple(lay_out(x, "sliced") for x in ordinary.inputs)
    yield replace(ordinary, inputs=everything, dy=lay_out(ordinary.dy, "sliced"), name="everything sliced")
    for layout in LAYOUTS:
        yield replace(ordinary, dy=lay_out(ordinary.dy, layout), name=f"dy {layout}")
        for position, name in enumerate(rule.inputs):
            inputs = list(ordinary.inputs)
            inputs[position] = lay_out(inputs[position], layout)
            yield replace(ordinary, inputs=tuple(inputs), name=f"{name} {layout}")


def _with_nan(x: Tensor) -> Tensor:
    """A copy with NaN in the first row, which must not reach the others unless the function mixes rows."""
    copy = x.clone()
    copy[... if x.ndim == 0 else slice(1)] = torch.nan
    return copy


def aliased(rule: Rule, ordinary: Case) -> Iterator[Case]:
    """The ordinary case with one tensor in two places, and with two that overlap, where annotations allow it.

    Of more than two that might be one, each is tried with its neighbour.
    """
    annotations = {name: rule.annotations[name] for name in rule.inputs if rule.is_number(name)} | {
        "dy": rule.y_annotation
    }
    tensors = dict(zip((*rule.inputs, "dy"), (*ordinary.inputs, ordinary.dy), strict=True))
    alike: dict[str, list[str]] = {}
    for name, annotation in annotations.items():
        alike.setdefault(str(annotation.dim_str), []).append(name)

    def case(name: str, **changed: Tensor) -> Case:
        *inputs, dy = {**tensors, **changed}.values()
        return replace(ordinary, inputs=tuple(inputs), dy=dy, name=name)

    for names in alike.values():
        for a, b in pairwise(names):
            yield case(f"{b} is {a}", **{b: tensors[a]})
            x = tensors[a]
            if x.numel() > 1:
                buffer = torch.cat([x.reshape(-1), x.reshape(-1)[:1]])
                yield case(f"{b} overlaps {a}", **{a: buffer[:-1].view(x.shape), b: buffer[1:].view(x.shape)})
