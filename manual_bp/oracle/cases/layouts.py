"""Memory layouts: the same numbers elsewhere in memory, beside themselves, or in the memory of another argument."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from manual_bp.rule import Rule

if TYPE_CHECKING:
    from manual_bp.oracle.case import Case

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
    tensors = ordinary.named(rule)

    def case(name: str, change: Callable[[Tensor], Tensor], of: Collection[str]) -> Case:
        changed = (change(x) if key in of else x for key, x in tensors.items())
        return replace(ordinary.with_tensors(changed), name=name)

    cotangents = [name for name in rule.cotangents if name in tensors]
    numbers = [name for name in rule.inputs if rule.may_be_scaled(name) and name in tensors]
    if cotangents:
        yield case("zero cotangent", torch.zeros_like, cotangents)
        yield case("cotangent of ones", torch.ones_like, cotangents)
        for scale in (SCALE, 1 / SCALE):
            yield case(f"cotangent times {scale:g}", partial(torch.mul, scale), cotangents)
    if len(cotangents) > 1:
        for alone in cotangents:
            yield case(f"{alone} alone", torch.zeros_like, [name for name in cotangents if name != alone])
    for scale in (SCALE, 1 / SCALE):
        yield case(f"inputs times {scale:g}", partial(torch.mul, scale), numbers)
    first = next((name for name in tensors if name in rule.inputs and rule.is_number(name)), None)
    if first is not None:
        yield case("NaN in one row", _with_nan, [first])
    yield case("everything sliced", lambda x: lay_out(x, "sliced"), tensors)
    for layout in LAYOUTS:
        for name in (*cotangents, *(name for name in tensors if name in rule.inputs)):
            yield case(f"{name} {layout}", partial(lay_out, layout=layout), [name])


def _with_nan(x: Tensor) -> Tensor:
    """A copy with NaN in the first row, which must not reach the others unless the function mixes rows."""
    copy = x.clone()
    copy[... if x.ndim == 0 else slice(1)] = torch.nan
    return copy


def aliased(rule: Rule, ordinary: Case) -> Iterator[Case]:
    """The ordinary case with one tensor in two places, and with two that overlap, where annotations allow it.

    Of more than two that might be one, each is tried with its neighbour.
    """
    tensors = ordinary.named(rule)
    alike: dict[str, list[str]] = {}
    for name in tensors:
        if name not in rule.inputs or rule.is_free(name):
            alike.setdefault(str(rule.annotation(name).dim_str), []).append(name)

    def case(name: str, changed: dict[str, Tensor]) -> Case:
        return replace(ordinary.with_tensors({**tensors, **changed}.values()), name=name)

    for names in alike.values():
        for a, b in pairwise(names):
            yield case(f"{b} is {a}", {b: tensors[a]})
            x = tensors[a]
            if x.numel() > 1:
                buffer = torch.cat([x.reshape(-1), x.reshape(-1)[:1]])
                yield case(f"{b} overlaps {a}", {a: buffer[:-1].view(x.shape), b: buffer[1:].view(x.shape)})
