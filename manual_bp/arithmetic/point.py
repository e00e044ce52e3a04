"""A rule at a point: its inputs as jets, and what the derivatives of its outputs are there."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor

from manual_bp.arithmetic import balls_table as balls_table  # fills the table of meanings
from manual_bp.arithmetic.balls import Jets, NeedMoreBits, UnknownFunction, lift
from manual_bp.arithmetic.enclosed import check_candidate, unit
from manual_bp.arithmetic.jets import ZERO, Cell, Leaf, arb, pulled_back, remembered
from manual_bp.outputs import parts
from manual_bp.rule import Grads, Rule

from flint import ctx  # isort: skip  (after jets, whose message says how to install it)

Result = TypeVar("Result")

Inputs = tuple[Tensor | None, ...]
"""None for an input that is absent."""

Cotangents = Tensor | tuple[Tensor | None, ...] | None
"""dy: of several outputs a tuple, one for each, None for 0; unused where the page has no backward."""

BITS = (200, 400, 800, 1600, 3200, 6400)
"""The precisions that are tried, one after the other."""

ALLOWED_ULPS = 5
"""What an element-wise derivative is allowed; the allowance where a caller states none."""


class PrecisionError(ArithmeticError):
    """The largest precision is not enough: a number is compared with one to which it is equal, or as good as."""


class Point:
    """A rule at a point.  Key k is the k-th element of the inputs that have a cotangent, in order."""

    def __init__(self, rule: Rule, inputs: Inputs, dy: Cotangents, hyper: dict[str, Any]) -> None:
        self.rule = rule
        self.inputs = inputs
        self.hyper = rule.check_hyper(hyper)
        wide = tuple(x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs)
        y, _ = rule.forward(*wide, **hyper)  # checks everything that the rule checks, and gives y's shape
        outputs, has_backward = parts(y), rule.has_backward
        self.is_there = [output is not None for output in outputs]
        cotangents = parts(dy) if has_backward else ()
        if has_backward and len(cotangents) != len(outputs):
            raise ValueError(f"{rule.name}: dy must be a tuple of {len(outputs)} tensors; came {len(cotangents)}")
        cotangents = tuple(
            torch.zeros(output.shape, dtype=torch.float64) if each is None and len(outputs) > 1 else each
            for each, output in zip(cotangents, outputs, strict=has_backward)
        )
        for each, output in zip(cotangents, outputs, strict=has_backward):
            check_candidate("dy", each, output.shape)
        for name, tensor in (*zip(rule.inputs, inputs, strict=True), *(("dy", d) for d in cotangents)):
            if tensor is not None and tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"{rule.name}: {name} holds inf or nan, which lies outside certified truth")
        self.dy: list[arb] = [arb(d) for each in cotangents for d in each.flatten().tolist()]
        self.has_cotangent = [
            has_backward and x is not None and rule.is_number(name) and rule.inputs[name].cotangent
            for name, x in zip(rule.inputs, inputs, strict=True)
        ]
        sizes = [x.numel() if has and x is not None else 0 for x, has in zip(inputs, self.has_cotangent, strict=True)]
        self.starts = [0, *itertools.accumulate(sizes)]
        self.keys = range(self.starts[-1])

    def enclosed(self, attempt: Callable[[int], Result | None]) -> Result:
        """The result of the first precision with which `attempt` succeeds: no NeedMoreBits, and not None."""
        for bits in BITS:
            again = nullcontext() if bits == BITS[0] else remembered()  # what cannot be told apart may be one number
            with ctx.workprec(bits), _uncollected(), again:
                try:
                    result = attempt(bits)
                except NeedMoreBits:
                    continue
            if result is not None:
                return result
        raise PrecisionError(f"{self.rule.name}: {BITS[-1]} bits are not enough for a narrow enclosure")

    def outputs(self, direction: Sequence[arb] | None = None) -> list[Jets]:
        """Each output that is there on jets: along every input element, or along one direction."""
        try:
            y, _ = self.rule.pure(*self._jets(direction), **self.hyper)
        except UnknownFunction as unknown:
            whose = "" if hasattr(self.rule.page, "FUNCTION") else "the page "
            raise type(unknown)(unknown.function, f"{whose}{self.rule.name}") from None
        return [lift(part) for part in parts(y) if part is not None]

    def slopes(self, direction: Sequence[arb]) -> list[arb]:
        """The one-sided derivative of each output along a direction."""
        slopes = (cell.along for y in self.outputs(direction) for cell in y.cells)
        return [ZERO if slope is None else slope for slope in slopes]

    def _jets(self, direction: Sequence[arb] | None) -> Iterator[Jets | Tensor | None]:
        for name, x, has, start in zip(
            self.rule.inputs, self.inputs, self.has_cotangent, self.starts[:-1], strict=True
        ):
            if x is None or not self.rule.is_number(name):  # a mask is a choice, and an index a place, not a number
                yield x
                continue
            values = enumerate(map(arb, x.flatten().tolist()), start)
            yield Jets(x.shape, [_element(value, key, direction) if has else Cell(value) for key, value in values])

    def pulled_back(self, outputs: Sequence[Jets]) -> list[arb]:
        """Jᵀ dy, nan where no derivative exists.  An output with dy = 0 is no part of <dy, y>, kink or not."""
        totals = [ZERO] * len(self.keys)
        if totals:
            cells = (cell for y in outputs for cell in y.cells)
            weights = [(cell, d) for cell, d in zip(cells, self.dy, strict=True) if d != 0]
            for leaf, total in pulled_back(weights).items():
                totals[leaf.key] = total
        return totals

    def joined(self, tensors: Sequence[Tensor | None], what: str, missing: Any) -> list[Any]:
        """One number per key."""
        if len(tensors) != len(self.inputs):
            raise ValueError(f"{self.rule.name}: {what} must be one per input, {len(self.inputs)}; came {len(tensors)}")
        numbers: list[Any] = []
        for name, x, has, tensor in zip(self.rule.inputs, self.inputs, self.has_cotangent, tensors, strict=True):
            if not has or x is None:
                continue
            if tensor is None:
                numbers += [missing] * x.numel()
            else:
                check_candidate(f"{what} of {name}", tensor, x.shape)
                numbers += [arb(value) for value in tensor.flatten().tolist()]
        return numbers

    def widths(self, grads: Grads, allowance: Grads | None) -> list[arb]:
        """The error allowed in each gradient."""
        if allowance is not None:
            return self.joined(allowance, "allowance", ZERO)
        widths: list[arb] = []
        for x, has, grad in zip(self.inputs, self.has_cotangent, grads, strict=True):
            if not has or x is None:
                continue
            if grad is None:
                widths += [ZERO] * x.numel()
            else:
                widths += [ALLOWED_ULPS * unit(arb(g), grad.dtype) for g in grad.flatten().tolist()]
        return widths

    def split(self, flat: Sequence[Any], build: Callable[[torch.Size, tuple[Any, ...]], Any]) -> tuple[Any, ...]:
        """One value per input from numbers by key; None for an input without cotangent."""
        bounds = itertools.pairwise(self.starts)
        return tuple(
            build(x.shape, tuple(flat[start:stop])) if has and x is not None else None
            for x, has, (start, stop) in zip(self.inputs, self.has_cotangent, bounds, strict=True)
        )


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without Python's search for circles: jets are hundreds of thousands of objects in none, and it takes a third of
    the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _element(value: arb, key: int, direction: Sequence[arb] | None) -> Cell:
    """An element of an input, which moves alone, or along the direction."""
    if direction is None:
        return Leaf(value, key)
    return Cell(value, along=direction[key] if direction[key] != 0 else None)


def inner(a: Sequence[arb], b: Sequence[arb]) -> arb:
    """<a, b>, in which a 0 of b silences even what is not a number."""
    return sum((x * y for x, y in zip(a, b, strict=True) if y != 0), ZERO)
