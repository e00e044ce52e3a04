"""Edits of slopes: the derivative of one curve in place of that of another, or by a formula that is another curve's.

Pages and torch write a slope in many ways: it is known by its numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from manual_bp.oracle.diagnosis.edit import Edit, Slot
from manual_bp.oracle.diagnosis.program import Traced
from manual_bp.oracle.diagnosis.values import with_other
from manual_bp.oracle.diagnosis.words import name_of
from manual_bp.program import Ref

Curve = Callable[[Tensor], Tensor]


def _gated(a: float, x: Tensor) -> Tensor:
    """The slope of x σ(a x)."""
    s = torch.sigmoid(a * x)
    return s + a * x * s * (1 - s)


def _gelu(x: Tensor) -> Tensor:
    return torch.erfc(-x / math.sqrt(2)) / 2 + x * torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _gelu_by_tanh(x: Tensor) -> Tensor:
    s = torch.sigmoid(math.sqrt(8 / math.pi) * (x + 0.044715 * x**3))
    return s + x * math.sqrt(8 / math.pi) * (1 + 3 * 0.044715 * x * x) * s * (1 - s)


SLOPES: Mapping[str, Curve] = {
    "tanh": lambda x: 1 - torch.tanh(x) ** 2,
    "σ": lambda x: torch.sigmoid(x) * torch.sigmoid(-x),
    "SiLU": partial(_gated, 1.0),
    "GELU": _gelu,
    "GELU's tanh form": _gelu_by_tanh,
    "GELU's sigmoid form, x σ(1.702 x)": partial(_gated, 1.702),
}
"""The slopes that are looked for, and those that are taken for each other."""
MORE: Mapping[str, Curve] = {"ReLU": lambda x: (x > 0).to(x.dtype)}
"""What many other things are too, and is not looked for."""
OTHERWISE: Mapping[str, Mapping[str, Curve]] = {
    "tanh": {
        "1 - tanh, without the square,": lambda x: 1 - torch.tanh(x),
        "tanh (1 - tanh), which is the formula of σ,": lambda x: torch.tanh(x) * (1 - torch.tanh(x)),
        "1 - tanh² of tanh, taken at the value once more,": lambda x: 1 - torch.tanh(torch.tanh(x)) ** 2,
    },
    "σ": {
        "1 - σ²": lambda x: 1 - torch.sigmoid(x) ** 2,
        "1 - σ": lambda x: torch.sigmoid(-x),
        "σ (1 - σ) of σ, taken at the value once more,": lambda x: SLOPES["σ"](torch.sigmoid(x)),
    },
}
"""By curve, what is written for its slope."""
# A slope that is nearly the same everywhere is not known by its numbers.
VARIES = 1e-2


def slopes(traced: Traced, needed: int) -> Iterator[Edit]:
    """Where a slope stands, another one."""
    there: dict[tuple[int, ...], list[int]] = {}
    for position, x in enumerate(traced.values):
        if needed >> position & 1 and traced.sites[position].stage == "backward" and _is_one_of_many(traced, position):
            there.setdefault(tuple(x.shape), []).append(position)
    for argument, u in enumerate(traced.values):
        shape = tuple(u.shape) if isinstance(u, Tensor) else ()
        if shape not in there or traced.alike[argument] != argument or not _is_one_of_many(traced, argument):
            continue
        for own, slope in SLOPES.items():
            due = slope(u)
            if float(due.max() - due.min()) > VARIES:
                for position in (p for p in there[shape] if p > argument and _is_near(traced.values[p], due)):
                    yield from _others(Slot(traced, position), argument, own)


def _is_one_of_many(traced: Traced, position: int) -> bool:
    """Whether there are numbers, and of a loop those of the first round."""
    x = traced.values[position]
    is_first = traced.positions[traced.sites[position]][0] == position
    return is_first and isinstance(x, Tensor) and x.is_floating_point() and x.numel() > 1


def _is_near(x: Tensor, due: Tensor) -> bool:
    """The first number alone tells most of them apart."""
    return abs(float(x.flatten()[0] - due.flatten()[0])) < VARIES and torch.allclose(x, due)


def _others(slot: Slot, argument: int, own: str) -> Iterator[Edit]:
    at = name_of(slot.traced, Ref(argument))
    others = [(1.8, f"{words} in place of the slope of {own}", f) for words, f in OTHERWISE.get(own, {}).items()]
    curves = {**SLOPES, **MORE}.items()
    others += [(2.5, f"the slope of {name} in place of that of {own}", f) for name, f in curves if name != own]
    for cost, words, other in others:
        change = with_other(partial(_at, other), slot.traced, slot.position, argument)
        yield slot.edit_at(cost, f"{words} at {at}", change)


def _at(curve: Curve, _: Tensor, argument: Tensor) -> Tensor:
    return curve(argument)
