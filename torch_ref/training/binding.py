"""Which tensor of a torch.nn module is which of a model's: by name, by order or by declaration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def bound(
    module: nn.Module, model: Any, parameters: Mapping[str, str], transposed: tuple[str, ...] = ()
) -> dict[str, str]:
    """The module's name of each of the model's parameters and running statistics.

    Raises ValueError for what is missing, left over, or of another shape.
    """
    drawn, state = model.init(torch.Generator().manual_seed(0))
    found: dict[str, str] = {}
    for wanted, own, what in (
        (drawn, dict(module.named_parameters()), "parameters"),
        ({n: t for n, t in state.items() if t.is_floating_point()}, dict(module.named_buffers()), "buffers"),
    ):
        own = {name: t for name, t in own.items() if t.is_floating_point()}
        declared = {name: parameters[name] for name in wanted if name in parameters}
        if unknown := [theirs for theirs in declared.values() if theirs not in own]:
            raise ValueError(f"parameters: the module has no {unknown[0]!r}; it has {list(own)}.")
        names = {name: name for name in wanted if name in own and name not in declared} | declared
        missing = [name for name in wanted if name not in names]
        rest = [name for name in own if name not in names.values()]
        shapes = {name: _shape(t, name in transposed) for name, t in wanted.items()}
        if missing or rest:
            by_order = dict(zip(missing, rest, strict=False))
            fits = [tuple(own[theirs].shape) == shapes[name] for name, theirs in by_order.items()]
            if len(missing) != len(rest) or not all(fits):
                raise ValueError(_said(what, wanted, own, missing, rest, shapes))
            names |= by_order
        for name, theirs in names.items():
            if tuple(own[theirs].shape) != shapes[name]:
                raise ValueError(
                    f"{theirs} of the module must have the shape {shapes[name]} of {name}; it has "
                    f"{tuple(own[theirs].shape)}. Weights that it holds as (in, out): transposed=({name!r},)."
                )
        found |= {name: names[name] for name in wanted}
    return found


def _shape(t: Tensor, is_transposed: bool) -> tuple[int, ...]:
    return tuple(reversed(t.shape)) if is_transposed else tuple(t.shape)


def _said(
    what: str,
    wanted: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    missing: list[str],
    rest: list[str],
    shapes: Mapping[str, tuple[int, ...]],
) -> str:
    lacking = ", ".join(f"{name} {shapes[name]}" for name in missing) or "none"
    over = ", ".join(f"{name} {tuple(own[name].shape)}" for name in rest) or "none"
    turned = [
        name
        for name, theirs in zip(missing, rest, strict=False)
        if len(shapes[name]) == 2 and tuple(own[theirs].shape) == tuple(reversed(shapes[name]))
    ]
    remedy = f" {turned} may be held as (in, out): transposed={tuple(turned)}." if turned else ""
    return (
        f"the module's {what} must be the model's, {len(wanted)} of them, by name or by order and shape; the model's "
        f"without one: {lacking}; the module's left over: {over}.{remedy} Say which is which: "
        f"parameters={{{(missing or list(wanted) or ['...'])[0]!r}: '...'}}."
    )
