"""A case: one point at which a candidate is compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

import torch
from torch import Tensor

from manual_bp.outputs import parts
from manual_bp.rule import Rule


class _NotRecorded:
    def __repr__(self) -> str:
        return "NOT_RECORDED"


NOT_RECORDED: Final = _NotRecorded()
"""Stands for a result that a recorded case does not hold."""


@dataclass(frozen=True, eq=False)
class Case:
    """One point of comparison.

    inputs: one tensor per input of the rule, None for one that is absent. dy: the cotangent, shaped like y, or a tuple
    with one for each of several outputs; None if the rule has no backward. hyper: the hyperparameters that differ from
    the rule's defaults. name: for reports. y, grads: results recorded elsewhere (y a tuple of several outputs), judged
    by `compare(None, rule, cases=[...])`; NOT_RECORDED marks a missing one.
    """

    inputs: tuple[Any, ...]
    dy: Any
    hyper: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    y: Any = None
    grads: tuple[Any, ...] | None = None

    @property
    def elements(self) -> int:
        """How many elements the inputs have."""
        return sum(x.numel() for x in self.inputs if x is not None)

    @property
    def tensors(self) -> list[Tensor]:
        """Every tensor that a candidate is given: the inputs that are there, then the cotangents."""
        return [x for x in (*self.inputs, *parts(self.dy)) if x is not None]

    @property
    def is_recorded(self) -> bool:
        """Whether it holds a result."""
        results = (*parts(self.y), *(self.grads or (NOT_RECORDED,)))
        return any(result is not None and result is not NOT_RECORDED for result in results)

    def with_tensors(self: AnyCase, tensors: Iterable[Tensor]) -> AnyCase:
        """The case with other tensors, in the order of `tensors`."""
        rest = iter(tensors)
        inputs = tuple(None if x is None else next(rest) for x in self.inputs)
        cotangents = tuple(None if d is None else next(rest) for d in parts(self.dy))
        return replace(self, inputs=inputs, dy=cotangents if isinstance(self.dy, tuple) else cotangents[0])

    def named(self, rule: Rule) -> dict[str, Tensor]:
        """`tensors` by the names of the rule's inputs and cotangents."""
        cotangents = zip(rule.cotangents, parts(self.dy), strict=True) if self.dy is not None else ()
        every = [*zip(rule.inputs, self.inputs, strict=True), *cotangents]
        return {name: x for name, x in every if x is not None}


AnyCase = TypeVar("AnyCase", bound=Case)


class WellConditioned(Case):
    """A case at which torch in float64 loses so few digits that nobody needs certified truth, which takes long."""


class Further(WellConditioned):
    """A case that is there for its size, a scale, an option or shared memory, and says nothing of the formula that the
    others do not.

    There are many.  They come last, and are left out for a candidate that is wrong already.
    """


class Sized(Further):
    """A case that is there for its size alone."""


def in_dtype(case: AnyCase, dtype: torch.dtype, device: str) -> AnyCase:
    """On the device, and numbers in `dtype`; masks and indices stay what they are."""
    return case.with_tensors(x.to(device, dtype if x.is_floating_point() else x.dtype) for x in case.tensors)
