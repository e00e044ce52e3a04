"""What a page says about itself, beside its mathematics: inputs, edges and mistakes.

A page imports this module, torch and helpers of its own chapter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Shape = tuple[int, ...]
Draw = Callable[[Shape, torch.Generator], Tensor]
"""Draws float64 values of a shape, which are rounded to the dtype under test afterwards; or bool or int64 ones."""


IndexDraw = Callable[[Shape, int, torch.Generator], Tensor]
"""Draws indices below a length, of a shape, as int64."""


def evenly(shape: Shape, length: int, generator: torch.Generator) -> Tensor:
    """Every position as often as any other."""
    return torch.randint(max(length, 1), shape, generator=generator)


def normal(mean: float = 0.0, std: float = 1.0) -> Draw:
    """Normally distributed values."""
    return lambda shape, generator: mean + std * torch.randn(shape, generator=generator, dtype=torch.float64)


def uniform(low: float, high: float) -> Draw:
    """Uniformly distributed values in [low, high)."""
    return lambda shape, generator: low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)


def coin(probability: float) -> Draw:
    """Independent bools, True with the given probability."""
    return lambda shape, generator: torch.rand(shape, generator=generator) < probability


def integers(low: int, high: int) -> Draw:
    """Integers in [low, high), as int64: a count that goes in and comes out, and is no position."""
    return lambda shape, generator: torch.randint(low, high, shape, generator=generator)


def constant(value: float) -> Draw:
    """The same value everywhere."""
    return lambda shape, _: torch.full(shape, value, dtype=torch.float64)


@dataclass(frozen=True)
class Input:
    """One input of a page: how ordinary values are drawn, and whether it has a cotangent.  Its axes stand in forward's
    annotations.

    optional: a candidate may return None for its cotangent (few need the cotangent of a target).
    outweighs: by how much the last of very many numbers is larger than it would be.  Of a sum whose summands do not
        fade with the numbers (log(1 + eˣ) at 0 is log 2) nothing could be seen of its end otherwise.
    free: whether it may hold any numbers; labels, or probabilities that add up to 1, are none that may be scaled.
    """

    draw: Draw = field(default_factory=normal)
    cotangent: bool = True
    optional: bool = False
    outweighs: float = 1.0
    free: bool = True


@dataclass(frozen=True)
class Index:
    """An integer input of a page: positions on an axis, without a cotangent.

    axis: whose positions they are; what lies beyond it is rejected by Rule, so that a page need not look.
    unless: a hyperparameter whose value is allowed beside them (an index that is ignored).
    positions: how ordinary indices are drawn, from a shape, the axis's length and a generator; by default evenly.
    """

    axis: str
    unless: str | None = None
    positions: IndexDraw = field(default_factory=lambda: evenly)
    cotangent: bool = field(default=False, init=False)
    optional: bool = field(default=False, init=False)


@dataclass(frozen=True)
class Convention:
    """One of several choices that are all right: at a kink or tie, or of a scale.

    meaning: what it does, in a few words.
    hyper: hyperparameters (by name) -> those with which the page computes what this choice computes.
    gradient: inputs, dy and hyperparameters by name -> the cotangents of this choice where no derivative exists, as if
        it held everywhere.
    any_subgradient: whether every valid subgradient is this choice.
    varied: of a page without backward: what this choice is called by the page's function
        `varied(names, inputs and hyperparameters by name) -> outputs`, the page's formula but for what is named.
    """

    meaning: str
    hyper: Callable[..., Mapping[str, Any]] | None = None
    gradient: Callable[..., tuple[Tensor | None, ...]] | None = None
    any_subgradient: bool = False
    varied: str | None = None


@dataclass(frozen=True)
class Edge:
    """An input or hyperparameter that catches people.

    name: what it is, in a few words.
    given: by name, values for hyperparameters and inputs (nested lists of numbers, whose shape decides the axes, a
        Draw, or None for one that is absent), and dy likewise, or "dy.h_n" of several outputs.  Whatever is not given
        is drawn as usual.
    sizes: by axis name, lengths that differ from the usual ones.
    raises: the error that the rule must raise here instead of an answer.
    """

    name: str
    given: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, int | tuple[int, ...]] = field(default_factory=dict)
    raises: type[Exception] | None = None


@dataclass(frozen=True)
class Mistake:
    """A backward that people ship, kept so that the comparison can be seen to reject it.

    name: short, for tables and diagnoses.
    backward: the wrong formula, a function of forward's inputs, of dy and of the hyperparameters, by name, that returns
        the cotangents; of a page without backward a function of inputs and hyperparameters that returns the values.
    forgets: what it forgets, in words.
    shows: when the difference can be seen.
    seen: an address at which the mistake was read, or None.
    loses_digits: the formula is right in exact arithmetic and wrong in floating point (as y(1 - y) in saturation).
    """

    name: str
    backward: Callable[..., Any]
    forgets: str
    shows: str
    seen: str | None = None
    loses_digits: bool = False

    @property
    def instead(self) -> dict[str, Any]:
        """The part of the page for which the formula stands."""
        return {"backward": self.backward}


@dataclass(frozen=True)
class Value:
    """A formula for y that is right in exact arithmetic and loses digits (as 1 + erf does in the lower tail), so that
    who uses it is seen to compute the page's function.  A page lists these in VALUES.

    name, forgets, shows, seen: as of a Mistake.
    forward: the formula, a function of forward's inputs and of the hyperparameters, by name, that returns y, or all the
        outputs.
    """

    name: str
    forward: Callable[..., Any]
    forgets: str
    shows: str
    seen: str | None = None

    @property
    def instead(self) -> dict[str, Any]:
        """The part of the page for which the formula stands."""
        return {"forward": self.forward}


def _nothing(**_: Any) -> float:
    return 0.0


@dataclass(frozen=True)
class Promise:
    """How accurate a result of an element-wise page is where 5 ulp, which hold elsewhere, are out of reach: within
    5 + `more` ulp of the larger of the true number and `beside`.  A page gives them by result: PROMISES = {"dx": ...}.

    why: the reason.
    more, beside: functions of forward's inputs (in float64) and of the hyperparameters, by name.  `beside` is the size
        of terms that cancel.
    """

    why: str
    more: Callable[..., Tensor | float] = _nothing
    beside: Callable[..., Tensor | float] = _nothing


def require(holds: bool, must: str, came: object, remedy: str) -> None:
    """Raise a ValueError that states the invariant, what came, and what to do, unless `holds`."""
    if not holds:
        raise ValueError(f"{must}; came {came}. {remedy}")
