"""How far rounding errors carry through a chain of layers: Monte Carlo on top of running error analysis.

The bound of `bounded.py` holds for whatever signs the errors have.  Over one page that costs little.  Over a chain of
layers it multiplies up: after four blocks with batch normalisation the bound of float32 says nothing any more, while
the actual errors, which have random signs and mostly cancel, are still small.  So a chain is treated in two steps:

- one run in float64 takes down the width of each leaf's results, by the running error analysis of its page;
- in further runs a random error, uniform within that width, is added to each result, and goes through the rest of the
  chain as a real rounding error would: with its sign, and with the chain's own sensitivity.

A handful of the latter give, for every element, the size that the accumulated rounding error has.  To first order it is
a sum of many independent errors, so it is about normally distributed.  An addition between layers (of what several
branches bring back to one x) is covered by the one rounding that the inputs of the next leaf carry.

Sources: Parker, "Monte Carlo Arithmetic: exploiting randomness in floating-point arithmetic", UCLA CSD-970002 (1997);
Vignes, "A stochastic arithmetic for reliable scientific computation", Math. Comput. Simul. 35 (1993).
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import Bounded, Paging, contract_of, enter, leave
from manual_bp.arithmetic.bounded_table import EXACT
from manual_bp.chain import Layer, Leaf, Tensors
from manual_bp.rule import Grads, Rule


class Errors(ABC):
    """Rounding errors of the operations of a chain: what enters an operation, and what leaves it."""

    @abstractmethod
    def enter(self, x: Tensor) -> Tensor:
        """`x` (float64) as a number that carries one rounding."""

    @abstractmethod
    def exact(self, x: Tensor) -> Tensor:
        """`x` (float64) as a number that has not been rounded, such as a count."""

    @abstractmethod
    def leave(self, x: Tensor) -> Tensor:
        """What comes out of an operation, as float64 again."""

    def computing(self) -> AbstractContextManager[Any]:
        """Where an operation is done."""
        return nullcontext()

    def rounded(self, x: Tensor) -> Tensor:
        """`x` (float64) after one rounding."""
        return self.leave(self.enter(x))

    def leaf(self, leaf: Leaf) -> Layer:
        """A leaf that computes in float64 and has these errors."""
        return _ErringLeaf(leaf, self)

    def vjp(self, rule: Rule, inputs: tuple[Tensor, ...], dy: Tensor, **hyper: Any) -> tuple[Tensor, Grads]:
        """A rule that computes in float64 and has these errors."""
        with self.computing():
            y, grads = rule.vjp(tuple(self.enter(x) for x in inputs), self.exact(dy), **hyper)
        return self.leave(y), tuple(None if g is None else self.leave(g) for g in grads)


class Analysis(Errors):
    """The running error analysis of one dtype: nothing errs, and `widths` takes down how far each result might."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._contract = contract_of(dtype)
        self.widths: list[Tensor | None] = []

    def enter(self, x: Tensor) -> Tensor:
        return enter(x, self._contract)

    def exact(self, x: Tensor) -> Tensor:
        return Bounded(x, EXACT, self._contract.compute)

    def computing(self) -> AbstractContextManager[Any]:
        return Paging()

    def leave(self, x: Tensor) -> Tensor:
        if not isinstance(x, Bounded):
            self.widths.append(None)
            return x
        self.widths.append(leave(x, self._contract))
        return x.value


class RandomErrors(Errors):
    """Errors drawn at random within an analysis's widths, of the same operations in the same order, again and again.

    The operations are done on numbers that differ from the analysed ones by rounding errors, and so do the widths: to
    first order they are the same.
    """

    def __init__(self, widths: Sequence[Tensor | None], generator: torch.Generator) -> None:
        self._widths = itertools.cycle(widths)
        self._generator = generator

    def enter(self, x: Tensor) -> Tensor:
        return x

    def exact(self, x: Tensor) -> Tensor:
        return x

    def leave(self, x: Tensor) -> Tensor:
        """The value with a random error within its width; infinite or NaN where that is not finite."""
        width = next(self._widths)
        if width is None:
            return x
        noise = torch.empty_like(x).uniform_(-1, 1, generator=self._generator)
        return torch.addcmul(x, width, noise)


@dataclass(frozen=True)
class _ErringLeaf:
    inner: Leaf
    errors: Errors

    def forward(self, params: Tensors, state: Tensors, x: Any) -> tuple[Tensor, Any, Tensors]:
        own, enter, leave = self.inner.shapes, self.errors.enter, self.errors.leave
        known = {name: enter(t) for name, t in state.items() if name in own}
        entered = {name: enter(t) for name, t in params.items() if name in own}
        with self.errors.computing():
            y, residuals, after = self.inner.forward(entered, known, _each(enter, x))
        return leave(y), residuals, {**state, **{name: leave(t) for name, t in after.items()}}

    def backward(self, residuals: Any, dy: Tensor) -> tuple[Any, dict[str, Tensor]]:
        with self.errors.computing():
            dx, dparams = self.inner.backward(residuals, self.errors.enter(dy))
        return _each(self.errors.leave, dx), {name: self.errors.leave(d) for name, d in dparams.items()}

    def map(self, change: Any, name: str = "") -> Layer:
        return self.inner.map(change, name)


def _each(change: Callable[[Tensor], Tensor], x: Any) -> Any:
    """What a layer takes or brings back: a tensor, several of them, or None of an index."""
    if isinstance(x, tuple):
        return tuple(change(part) for part in x)
    return None if x is None else change(x)


def wide(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, the numbers among them in float64."""
    cpu = {name: t.detach().cpu() for name, t in tensors.items()}
    return {name: t.double() if t.is_floating_point() else t for name, t in cpu.items()}
